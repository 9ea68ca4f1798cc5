//! Change events from a Pub/Sub subscription, over its REST interface: one pull after the other.
//!
//! Pub/Sub holds a pull open until there is a message. A message is acknowledged when the one who
//! reads the stream comes back for more, so that what was not seen through comes again. Google's
//! own client for Pub/Sub speaks gRPC alone and would bring a second HTTP stack along.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use google_cloud_auth::credentials::{CacheableResource, Credentials as Credential};
use oneiric_core::{Change, ChangeStream};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::api::Api;
use crate::auth;
use crate::config::Push;
use crate::message::{self, Message, Said};

/// How many messages one pull brings at most.
const MAX_MESSAGES: u32 = 100;
/// How long a pull may be held open. Pub/Sub answers an idle one earlier, with nothing.
const LONGEST_PULL: Duration = Duration::from_secs(120);
/// The pause after a pull that brought nothing and was not held open, so as not to pester.
const PAUSE: Duration = Duration::from_millis(500);
/// How long everything else may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A new subscription to the configured messages, if there are such. Nothing is sent before the
/// stream is read.
pub(crate) fn changes(api: &Arc<Api>) -> Option<ChangeStream> {
    let push = api.config.push.clone()?;
    let reader = Reader { api: Arc::clone(api), push, line: None };
    let start = State { reader, ready: VecDeque::new(), taken: Vec::new() };
    Some(stream::unfold(start, State::next).boxed())
}

struct State {
    reader: Reader,
    /// What was pulled and not handed on yet.
    ready: VecDeque<Change>,
    /// What is to be acknowledged when all of it was.
    taken: Vec<String>,
}

impl State {
    /// The next change, or the end if the subscription is lost.
    async fn next(mut self) -> Option<(Change, Self)> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some((change, self));
            }
            match self.reader.exchange(std::mem::take(&mut self.taken)).await {
                Ok(received) => self.take(received),
                Err(why) => {
                    let subscription = &self.reader.push.subscription;
                    tracing::debug!(target: "oneiric", subscription, why, "the pull has failed");
                    return None;
                }
            }
        }
    }

    fn take(&mut self, received: Vec<Received>) {
        let api = &self.reader.api;
        let mut unknown = 0_u32;
        for Received { ack_id, message } in received {
            self.taken.push(ack_id);
            let said = message::read(&message, &api.config.current);
            unknown += u32::from(said == Said::Unknown);
            for change in message::changes(said, &api.place) {
                if !self.ready.contains(&change) {
                    self.ready.push_back(change);
                }
            }
        }
        if unknown > 0 {
            // What they say is not logged: it is anybody's text.
            tracing::debug!(
                target: "oneiric",
                subscription = self.reader.push.subscription,
                messages = unknown,
                "messages are not understood; everything is compared"
            );
        }
    }
}

/// One way to Pub/Sub, made by the first pull.
struct Reader {
    api: Arc<Api>,
    push: Push,
    line: Option<(reqwest::Client, Credential)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    #[serde(default)]
    ack_id: String,
    #[serde(default)]
    message: Message,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pulled {
    #[serde(default)]
    received_messages: Vec<Received>,
}

/// Why a call failed, without an URL or a body in it.
type Why = String;

impl Reader {
    /// Acknowledges what was taken and pulls at the same time: the one need not wait for the
    /// other, and what is not acknowledged comes again.
    async fn exchange(&mut self, taken: Vec<String>) -> Result<Vec<Received>, Why> {
        if self.line.is_none() {
            let credential = auth::credential(&self.api.config.identity).await;
            let credential = credential.map_err(|error| error.chain())?;
            let client = reqwest::Client::builder().http1_only().connect_timeout(PATIENCE);
            // An event must not wait for a packet that a dead connection swallows.
            let client = client.tcp_keepalive(Duration::from_secs(20)).build();
            self.line = Some((client.map_err(|error| crate::error::chain(&error))?, credential));
        }
        let began = Instant::now();
        let (acknowledged, pulled) = future::join(self.acknowledge(taken), self.pull()).await;
        if pulled.as_ref().is_ok_and(Vec::is_empty) {
            sleep_until(began + PAUSE).await;
        }
        if let Err(why) = acknowledged {
            let subscription = &self.push.subscription;
            tracing::debug!(target: "oneiric", subscription, why, "messages will come again");
        }
        pulled
    }

    async fn pull(&self) -> Result<Vec<Received>, Why> {
        let body = json!({"maxMessages": MAX_MESSAGES});
        match self.post("pull", &body, LONGEST_PULL).await? {
            Some(answer) => {
                let pulled = serde_json::from_slice::<Pulled>(&answer);
                pulled.map(|pulled| pulled.received_messages).map_err(|_| "no JSON came".into())
            }
            // Held open for so long that the connection may be dead: a new pull gets a new one.
            None => Ok(Vec::new()),
        }
    }

    async fn acknowledge(&self, taken: Vec<String>) -> Result<(), Why> {
        if taken.is_empty() {
            return Ok(());
        }
        let answer = self.post("acknowledge", &json!({"ackIds": taken}), PATIENCE).await?;
        answer.map(drop).ok_or_else(|| "it was not answered in time".into())
    }

    /// One call, or `None` if it was not answered in time.
    async fn post(
        &self,
        verb: &str,
        body: &serde_json::Value,
        longest: Duration,
    ) -> Result<Option<Vec<u8>>, Why> {
        let (client, credential) = self.line.as_ref().ok_or("there is no line")?;
        let headers = match credential.headers(http::Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => data,
            // It is asked without a tag, so there is nothing that it could still be.
            Ok(CacheableResource::NotModified) => http::HeaderMap::new(),
            Err(error) => return Err(crate::error::chain(&error)),
        };
        let endpoint = self.push.endpoint.as_deref().unwrap_or("https://pubsub.googleapis.com");
        let url =
            format!("{}/v1/{}:{verb}", endpoint.trim_end_matches('/'), self.push.subscription);
        let request = client.post(url).headers(headers).json(body).timeout(longest);
        let answer = async {
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        };
        match answer.await {
            Ok((status, body)) if status.is_success() => Ok(Some(body.to_vec())),
            Ok((status, _)) => Err(format!("an answer with the HTTP status {status} came")),
            Err(error) if error.is_timeout() && !error.is_connect() => Ok(None),
            Err(error) => Err(crate::error::chain(&error)),
        }
    }
}
