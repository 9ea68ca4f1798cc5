//! Many current versions at once: twenty a call.

use std::collections::HashMap;

use aws_sdk_secretsmanager::types::SecretValueEntry;
use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{ErrorKind, FetchRequest, Fetched, Result, SecretKey, Stamp};
use tokio::time::Instant;

use crate::api::{Api, BATCH, Got, Patience, time, version};
use crate::client::fetched;
use crate::error::{Call, about, late, of_a_batch};
use crate::known::{Sight, Verdict};
use crate::names::{self, CURRENT, Wanted};
use crate::payload::Payload;

/// What the batches answer, and `None` for what is to be read by itself.
pub(crate) async fn fetch(api: &Api, requests: &[FetchRequest]) -> Vec<Option<Result<Fetched>>> {
    let mut answers: Vec<Option<Result<Fetched>>> = requests.iter().map(|_| None).collect();
    let mut asked: HashMap<&SecretKey, Vec<usize>> = HashMap::new();
    let mut keys = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let wanted =
            names::secret_id(&request.key).and_then(|_| names::wanted(request.version.as_deref()));
        match wanted {
            Err(error) => answers[index] = Some(Err(error)),
            Ok(Wanted::Current) => {
                let of_it = asked.entry(&request.key).or_default();
                if of_it.is_empty() {
                    keys.push(&request.key);
                }
                of_it.push(index);
            }
            Ok(_) => {}
        }
    }
    // One by itself is no batch.
    if keys.len() < 2 {
        return answers;
    }
    let deadline = requests.iter().filter_map(|request| request.deadline).min();
    let batches: Vec<_> = keys.chunks(BATCH).map(|keys| one(api, keys, deadline).boxed()).collect();
    let mut batches = stream::iter(batches).buffer_unordered(api.concurrency());
    while let Some(found) = batches.next().await {
        for (key, answer) in found {
            for &index in &asked[key] {
                answers[index] = Some(for_request(&requests[index], answer.clone()));
            }
        }
    }
    answers
}

/// What one batch answers. Whose answer is missing is read by itself.
async fn one<'k>(
    api: &Api,
    keys: &[&'k SecretKey],
    deadline: Option<Instant>,
) -> Vec<(&'k SecretKey, Result<Fetched>)> {
    // The wait for its turn is part of the time that a batch may take.
    let until = api.gives_up(Patience::until(deadline));
    let ids: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
    let what = format!("{} and {} more", keys[0], keys.len() - 1);
    let answer = match api.batches.admit(until).await {
        true => {
            api.call(Call::Read, &what, Patience::until(Some(until)), async |client| {
                client.batch_get_secret_value().set_secret_id_list(Some(ids)).send().await
            })
            .await
        }
        false => Err(late(Call::Read, &what)),
    };
    let answer = match answer {
        Ok(answer) => answer,
        // Who may not ask for a batch may still ask for each; who sends nonsense is told which.
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid) => {
            return Vec::new();
        }
        Err(error) => return keys.iter().map(|&key| (key, Err(error.clone()))).collect(),
    };
    let spelled: HashMap<&str, &'k SecretKey> =
        keys.iter().map(|&key| (key.as_str(), key)).collect();
    let mut found = Vec::new();
    for error in answer.errors.unwrap_or_default() {
        let (id, code) = (error.secret_id.unwrap_or_default(), error.error_code);
        if let (Some(&key), Some(code)) = (spelled.get(id.as_str()), code) {
            let message = error.message.unwrap_or_default();
            found.push((key, Err(of_a_batch(&code, &message, &id))));
        }
    }
    for entry in answer.secret_values.unwrap_or_default() {
        let (arn, name) = (entry.arn.clone(), entry.name.clone());
        let (arn, name) = (arn.unwrap_or_default(), name.unwrap_or_default());
        let keys: Vec<&'k SecretKey> =
            names::spellings(&arn, &name).filter_map(|of| spelled.get(of).copied()).collect();
        let Ok(got) = got(entry, &name) else { continue };
        // Such an answer is not about the current version, whatever it says.
        if !got.bears(CURRENT) {
            continue;
        }
        let verdicts: Vec<Verdict> =
            keys.iter().map(|key| api.books.see(key, &got.sight)).collect();
        let answer = fetched(got, &name);
        for (key, verdict) in keys.into_iter().zip(verdicts) {
            // What lags is read by itself, and so is what nobody can tell.
            if matches!(verdict, Verdict::Same | Verdict::Newer) {
                found.push((key, answer.clone()));
            }
        }
    }
    found
}

fn got(entry: SecretValueEntry, what: &str) -> Result<Got> {
    let sight = Sight {
        arn: entry.arn.unwrap_or_default(),
        name: entry.name.unwrap_or_default(),
        version: version(entry.version_id, what)?,
        changed: None,
        created: entry.created_date.and_then(time),
    };
    let payload = Payload { text: entry.secret_string, bytes: entry.secret_binary };
    Ok(Got { sight, stages: entry.version_stages.unwrap_or_default(), payload })
}

/// The value is here already; but who knows it is not given it again.
fn for_request(request: &FetchRequest, answer: Result<Fetched>) -> Result<Fetched> {
    let fetched = answer?;
    let known: Option<&Stamp> = request.if_none_match.as_ref();
    if known.is_some() && known == fetched.stamp.as_ref() {
        return Err(about(ErrorKind::NotModified, request.key.as_str()));
    }
    Ok(fetched)
}
