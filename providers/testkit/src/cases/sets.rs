//! Several secrets, and several readers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::future::{join, join_all};
use oneiric_core::{ErrorKind, FetchRequest, SecretKey, SecretValue};

use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::poll::poll_at_most;
use crate::report::{Check, Stop, ensure};

/// How often a secret is changed under its readers.
const CHANGES: usize = 40;

/// At how many of its awaits a read is dropped.
pub(crate) const MOST_POLLS: usize = 48;

/// Enough for a value to be read in several parts.
const LONG: u64 = 16 * 1024;

pub(crate) async fn answers_stand_in_order_and_for_themselves(bench: &Bench<'_>) -> Check {
    ensure(bench.ask_many(&[]).await?.is_empty(), || "no question has an answer".into())?;
    let (a, first) = bench.given("many-a").await?;
    let (b, second) = bench.given("many-b").await?;
    let missing = bench.key("many-missing");
    let ask = |key: &SecretKey| FetchRequest::new(key.clone());
    let asked = [ask(&b), ask(&missing), ask(&a), ask(&b)];
    let answers = bench.ask_many(&asked).await?;
    for (answer, expected) in [(0, &second), (2, &first), (3, &second)] {
        match &answers[answer] {
            Ok(fetched) => ensure_value(fetched, expected)?,
            Err(error) => return Err(unexpected("a value", error)),
        }
    }
    ensure_error(&answers[1], &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn many_may_ask_at_once(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("concurrent").await?;
    let missing = bench.key("concurrent-missing");
    let asks = (0..50).map(|number| {
        let key = if number % 5 == 0 { &missing } else { &key };
        bench.fetch(key)
    });
    for (number, answer) in join_all(asks).await.into_iter().enumerate() {
        match answer {
            Ok(fetched) if number % 5 != 0 => ensure_value(&fetched, &value)?,
            answer => ensure_error(&answer, &[ErrorKind::NotFound]).map(drop)?,
        }
    }
    Ok(())
}

pub(crate) async fn a_read_may_be_dropped_at_any_await(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("dropped").await?;
    dropped_at_every_await(bench, &key, &value).await
}

/// Drops every kind of read at each of its awaits, and looks each time whether that left anything
/// behind.
pub(crate) async fn dropped_at_every_await(
    bench: &Bench<'_>,
    key: &SecretKey,
    value: &SecretValue,
) -> Check {
    let request = FetchRequest::new(key.clone());
    let (one, two) = (std::slice::from_ref(key), [request.clone(), request.clone()]);
    for polls in 1..=MOST_POLLS {
        let fetch = poll_at_most(polls, bench.provider.fetch(&request)).await;
        let many = poll_at_most(polls, bench.provider.fetch_many(&two)).await;
        let stamps = poll_at_most(polls, bench.provider.stamps(one)).await;
        let listed = match bench.provider.lister() {
            Some(lister) => poll_at_most(polls, lister.list()).await.is_some(),
            None => true,
        };
        ensure_value(&bench.fetched(key).await?, value)?;
        if fetch.is_some() && many.is_some() && stamps.is_some() && listed {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn a_value_is_never_half_old_and_half_new(bench: &Bench<'_>) -> Check {
    let length = bench.capabilities.max_value.map_or(LONG, |most| most.min(LONG));
    let length = usize::try_from(length).expect("it is at most LONG");
    let key = bench.key("torn");
    let values = [bench.long_secret(length), bench.long_secret(length)];
    bench.put(&key, &values[0]).await?;
    let secrets = |turn: usize| vec![(key.clone(), values[turn % 2].clone())];
    let seen = Mutex::<HashMap<String, SecretValue>>::default();
    under_change(bench, secrets, async || {
        let fetched = bench.fetched(&key).await?;
        let whole = values.iter().any(|value| fetched.value.same_as(value));
        ensure(whole, || "a value came that was never set".into())?;
        let id = fetched.version.id().into_owned();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.entry(id).or_insert_with(|| fetched.value.clone());
        ensure_value(&fetched, first)
            .map_err(|_| Stop::Fail(format!("two values came as the version {}", fetched.version)))
    })
    .await
}

pub(crate) async fn a_set_is_of_one_moment(bench: &Bench<'_>) -> Check {
    if !bench.capabilities.snapshots {
        return Err(Stop::Skip("no snapshots are declared".into()));
    }
    let keys = [bench.key("set-a"), bench.key("set-b")];
    let values = [bench.secret(), bench.secret()];
    let secrets = |turn: usize| {
        let value = |key: &SecretKey| (key.clone(), values[turn % 2].clone());
        keys.iter().map(value).collect::<Vec<_>>()
    };
    bench.put_all(&secrets(0)).await?;
    let asked = keys.clone().map(FetchRequest::new);
    under_change(bench, secrets, async || {
        let answers = bench.ask_many(&asked).await?;
        let answers: Vec<_> = answers
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| unexpected("a set", &error))?;
        let same = answers[0].value.same_as(&answers[1].value);
        ensure(same, || "a set came with one part old and one part new".into())?;
        let snapshot = answers[0].snapshot.as_ref();
        ensure(snapshot.is_some(), || "an answer has no snapshot".into())?;
        ensure(snapshot == answers[1].snapshot.as_ref(), || "a set has two snapshots".into())
    })
    .await
}

/// Changes secrets over and over while readers look, and gives what the readers found.
async fn under_change(
    bench: &Bench<'_>,
    secrets: impl Fn(usize) -> Vec<(SecretKey, SecretValue)>,
    read: impl AsyncFn() -> Check,
) -> Check {
    let done = AtomicBool::new(false);
    let write = async {
        let mut outcome = Ok(());
        for turn in 1..=CHANGES {
            outcome = bench.put_all(&secrets(turn)).await.map(drop);
            tokio::task::yield_now().await;
            if outcome.is_err() {
                break;
            }
        }
        done.store(true, Ordering::SeqCst);
        outcome
    };
    let readers = join_all((0..4).map(|_| async {
        while !done.load(Ordering::SeqCst) {
            read().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }));
    let (written, found) = join(write, readers).await;
    written?;
    found.into_iter().collect()
}
