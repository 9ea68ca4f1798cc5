//! Change events from an SQS queue: one long poll after the other.
//!
//! A message is deleted when the one who reads the stream comes back for more, so that what was
//! not seen through comes again. What is not understood is deleted as well: it would come again
//! for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Builder, Region};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message};
use futures_util::{StreamExt, future, stream};
use oneiric_core::{Change, ChangeStream, SecretKey, Version};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::Api;
use crate::config::Push;
use crate::error::{Call, cause};
use crate::message::{self, Said};
use crate::names;

/// How many messages one poll brings at most, and how many are deleted at once.
const MOST: i32 = 10;
/// For how long SQS holds a poll open, in seconds.
const HELD: i32 = 20;
/// How long a poll may take. One that is held for longer has lost its connection.
const LONGEST: Duration = Duration::from_secs(30);
/// The pause after a poll that brought nothing and was not held open, so as not to pester.
const PAUSE: Duration = Duration::from_millis(500);
/// How long everything else may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A new subscription to the configured queue, if there is one. Nothing is sent before the stream
/// is read.
pub(crate) fn changes(api: &Arc<Api>) -> Option<ChangeStream> {
    let push = api.config.push.clone()?;
    let reader = Reader { api: Arc::clone(api), push, client: None };
    let start = State { reader, ready: VecDeque::new(), taken: Vec::new() };
    Some(stream::unfold(start, State::next).boxed())
}

struct State {
    reader: Reader,
    /// What was polled and not handed on yet.
    ready: VecDeque<Change>,
    /// What is to be deleted when all of it was.
    taken: Vec<String>,
}

impl State {
    /// The next change, or the end if the queue is lost.
    async fn next(mut self) -> Option<(Change, Self)> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some((change, self));
            }
            match self.reader.exchange(std::mem::take(&mut self.taken)).await {
                Ok(messages) => self.take(messages),
                Err(why) => {
                    let queue = &self.reader.push.queue_url;
                    tracing::debug!(target: "oneiric", queue, why, "the poll has failed");
                    return None;
                }
            }
        }
    }

    fn take(&mut self, messages: Vec<Message>) {
        let mut unknown = 0_u32;
        for message in messages {
            self.taken.extend(message.receipt_handle);
            let said = message::read(message.body.as_deref().unwrap_or_default());
            unknown += u32::from(said == Said::Unknown);
            for change in changes_of(said, &self.reader.api) {
                if !self.ready.contains(&change) {
                    self.ready.push_back(change);
                }
            }
        }
        if unknown > 0 {
            // What they say is not logged: it is anybody's text.
            tracing::warn!(
                target: "oneiric",
                queue = self.reader.push.queue_url,
                messages = unknown,
                "messages are not understood and are deleted"
            );
        }
    }
}

/// The changes that a message stands for, one for each key that names the secret.
fn changes_of(said: Said, api: &Api) -> Vec<Change> {
    let Said::Changed { place, name, version, time } = said else { return Vec::new() };
    let mut keys = api.books.keys(place.as_deref(), &name);
    if keys.is_empty() {
        // Nobody has had an answer for it yet. It is worth no more than a look.
        let spelled = place.map(|place| format!("{place}:secret:{name}"));
        let spelled = [Some(name), spelled].into_iter().flatten();
        keys.extend(spelled.filter_map(|key| key.parse::<SecretKey>().ok()));
        return keys.into_iter().map(|key| Change::Secret { key, version: None }).collect();
    }
    let change = |key: SecretKey| {
        let certain = match &version {
            Some(version) => api.books.told(&key, version, time).then(|| Arc::clone(version)),
            None => {
                api.books.hint(&key);
                None
            }
        };
        Change::Secret { key, version: certain.map(Version::opaque) }
    };
    keys.into_iter().map(change).collect()
}

/// One way to the queue, made by the first poll.
struct Reader {
    api: Arc<Api>,
    push: Push,
    client: Option<Client>,
}

/// Why a call failed, in one line.
type Why = String;

impl Reader {
    /// Deletes what was taken and polls at the same time: the one need not wait for the other, and
    /// what is not deleted comes again.
    async fn exchange(&mut self, taken: Vec<String>) -> Result<Vec<Message>, Why> {
        if self.client.is_none() {
            self.client = Some(self.connect().await?);
        }
        let began = Instant::now();
        let (deleted, polled) = future::join(self.delete(taken), self.poll()).await;
        if polled.as_ref().is_ok_and(Vec::is_empty) {
            sleep_until(began + PAUSE).await;
        }
        if let Err(why) = deleted {
            let queue = &self.push.queue_url;
            tracing::debug!(target: "oneiric", queue, why, "messages will come again");
        }
        polled
    }

    async fn connect(&self) -> Result<Client, Why> {
        let sdk = timeout(PATIENCE, self.api.sdk()).await.map_err(|_| too_late())?;
        let mut builder = Builder::from(sdk.map_err(|error| error.chain())?);
        // The queue may be in another region than the secrets.
        if let Some(region) = names::region_of_queue(&self.push.queue_url) {
            builder = builder.region(Region::new(region.to_owned()));
        }
        if let Some(endpoint) = &self.push.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(builder.build()))
    }

    fn client(&self) -> Result<&Client, Why> {
        self.client.as_ref().ok_or_else(|| "there is no line".into())
    }

    async fn poll(&self) -> Result<Vec<Message>, Why> {
        let queue = &self.push.queue_url;
        let poll = self.client()?.receive_message().queue_url(queue);
        let poll = poll.max_number_of_messages(MOST).wait_time_seconds(HELD).send();
        match timeout(LONGEST, poll).await {
            Ok(Ok(polled)) => Ok(polled.messages.unwrap_or_default()),
            Ok(Err(failure)) => Err(cause(&failure, Call::Read)),
            Err(_) => Err(too_late()),
        }
    }

    async fn delete(&self, taken: Vec<String>) -> Result<(), Why> {
        if taken.is_empty() {
            return Ok(());
        }
        let queue = &self.push.queue_url;
        let mut batch = self.client()?.delete_message_batch().queue_url(queue);
        for (number, handle) in taken.into_iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder();
            let entry = entry.id(number.to_string()).receipt_handle(handle).build();
            batch = batch.entries(entry.map_err(|_| "a message has no handle")?);
        }
        match timeout(PATIENCE, batch.send()).await {
            Ok(Ok(deleted)) if deleted.failed.is_empty() => Ok(()),
            Ok(Ok(deleted)) => Err(format!("{} could not be deleted", deleted.failed.len())),
            Ok(Err(failure)) => Err(cause(&failure, Call::Write)),
            Err(_) => Err(too_late()),
        }
    }
}

fn too_late() -> Why {
    "it was not answered in time".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn a_queue_that_cannot_be_reached_is_not_called_secrets_manager() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let keys = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(file.path(), keys).unwrap();
        // Nobody listens there any more.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let queue = format!("http://{}/1/q", listener.local_addr().unwrap());
        drop(listener);
        let (region, credentials_file) = (Some("eu-west-1".into()), Some(file.path().into()));
        let config = Config { region, credentials_file, ..Config::default() };
        let mut push = Push::new(&queue);
        push.endpoint = Some(queue.trim_end_matches("/1/q").into());
        let api = Arc::new(Api::new(config));
        let mut reader = Reader { api, push, client: None };
        let polled = reader.exchange(Vec::new()).await.unwrap_err();
        let deleted = reader.delete(vec!["handle".into()]).await.unwrap_err();
        for why in [polled, deleted] {
            assert!(why.contains("refused") && !why.contains("Secrets Manager"), "{why}");
        }
    }
}
