//! As much of Pub/Sub as there is to pulling: topics, subscriptions, pull, acknowledge.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fault::PushFault;
use crate::secrets::Happened;

/// What a subscription gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// What is published to this topic, `projects/P/topics/T`.
    Topic(String),
    /// The entries of the audit log of the whole project, as a sink passes them on.
    AuditLog,
}

#[derive(Debug, Clone)]
struct Message {
    id: u64,
    data: String,
    attributes: HashMap<String, String>,
}

#[derive(Debug)]
struct Subscription {
    feed: Feed,
    waiting: VecDeque<Message>,
    /// Handed out, by their ack ids, with when they come again.
    out: HashMap<String, (Instant, Message)>,
}

#[derive(Debug)]
pub(crate) struct PubSub {
    subscriptions: HashMap<String, Subscription>,
    pub(crate) ack_deadline: Duration,
    pub(crate) fault: Option<PushFault>,
    held: Vec<(String, Message)>,
    next: u64,
}

impl PubSub {
    pub(crate) fn new() -> Self {
        Self {
            subscriptions: HashMap::new(),
            ack_deadline: Duration::from_secs(10),
            fault: None,
            held: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn subscribe(&mut self, name: String, feed: Feed) {
        let subscription = Subscription { feed, waiting: VecDeque::new(), out: HashMap::new() };
        self.subscriptions.insert(name, subscription);
    }

    pub(crate) fn unsubscribe(&mut self, name: &str) {
        self.subscriptions.remove(name);
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.subscriptions.contains_key(name)
    }

    /// How many messages were handed out or wait, unacknowledged.
    pub(crate) fn backlog(&self, name: &str) -> usize {
        self.subscriptions.get(name).map_or(0, |held| held.waiting.len() + held.out.len())
    }

    /// Ends the fault; what was held back arrives in the opposite order.
    pub(crate) fn mend(&mut self) {
        self.fault = None;
        for (name, message) in std::mem::take(&mut self.held).into_iter().rev() {
            if let Some(subscription) = self.subscriptions.get_mut(&name) {
                subscription.waiting.push_back(message);
            }
        }
    }

    /// Tells a change of a secret to whom it concerns.
    pub(crate) fn tell(&mut self, happened: &Happened) {
        let mut attributes: HashMap<String, String> = [
            ("eventType", happened.event),
            ("dataFormat", "JSON_API_V1"),
            ("secretId", happened.secret.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        if let Some(version) = &happened.version {
            attributes.insert("versionId".into(), version.clone());
        }
        for topic in &happened.topics {
            let data = BASE64_STANDARD.encode(happened.resource.to_string());
            self.publish(&Feed::Topic(topic.clone()), &data, &attributes);
        }
        let resource = match (happened.method, &happened.version) {
            ("AddSecretVersion", _) | (_, None) => &happened.secret,
            (_, Some(version)) => version,
        };
        let entry = json!({
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                "serviceName": "secretmanager.googleapis.com",
                "methodName": format!(
                    "google.cloud.secretmanager.v1.SecretManagerService.{}", happened.method
                ),
                "resourceName": resource,
                "response": happened.resource,
                "status": {},
            },
            "severity": "NOTICE",
        });
        let data = BASE64_STANDARD.encode(entry.to_string());
        self.publish(&Feed::AuditLog, &data, &HashMap::new());
    }

    pub(crate) fn publish(
        &mut self,
        feed: &Feed,
        data: &str,
        attributes: &HashMap<String, String>,
    ) -> u64 {
        self.next += 1;
        let message = Message { id: self.next, data: data.into(), attributes: attributes.clone() };
        for (name, subscription) in &mut self.subscriptions {
            if subscription.feed != *feed {
                continue;
            }
            match self.fault {
                Some(PushFault::Lost | PushFault::Cut) => {}
                Some(PushFault::Reordered) => self.held.push((name.clone(), message.clone())),
                Some(PushFault::Doubled) => {
                    subscription.waiting.extend([message.clone(), message.clone()]);
                }
                None => subscription.waiting.push_back(message.clone()),
            }
        }
        self.next
    }

    /// What waits, up to so many; what was not acknowledged in time waits again.
    pub(crate) fn pull(&mut self, name: &str, most: usize) -> Vec<Value> {
        let now = Instant::now();
        let deadline = now + self.ack_deadline;
        let Some(subscription) = self.subscriptions.get_mut(name) else { return Vec::new() };
        let late: Vec<String> = subscription
            .out
            .iter()
            .filter(|(_, (again, _))| *again <= now)
            .map(|(ack, _)| ack.clone())
            .collect();
        for ack in late {
            let (_, message) = subscription.out.remove(&ack).expect("it was just seen");
            subscription.waiting.push_back(message);
        }
        let count = subscription.waiting.len().min(most);
        let mut received = Vec::new();
        for message in subscription.waiting.drain(..count) {
            self.next += 1;
            let ack = format!("ack-{}-{}", message.id, self.next);
            received.push(json!({
                "ackId": ack,
                "message": {
                    "data": message.data,
                    "attributes": message.attributes,
                    "messageId": message.id.to_string(),
                },
            }));
            subscription.out.insert(ack, (deadline, message));
        }
        received
    }

    pub(crate) fn acknowledge(&mut self, name: &str, ids: &[&str]) {
        if let Some(subscription) = self.subscriptions.get_mut(name) {
            for id in ids {
                subscription.out.remove(*id);
            }
        }
    }
}
