//! Versions, stamps and change events.

use std::time::Duration;

use futures_util::StreamExt;
use oneiric_core::{Change, ErrorKind, FetchRequest};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bench::{Bench, Check, Stop, ensure, ensure_error, ensure_value, unexpected};

/// How long a change may take to arrive. Generous: a slow machine is no defect.
const ARRIVAL: Duration = Duration::from_secs(20);

/// How long a stream must say nothing to be taken as quiet.
const QUIET: Duration = Duration::from_millis(300);

pub(crate) async fn a_version_changes_with_the_value_alone(bench: &Bench<'_>) -> Check {
    let (key, _) = bench.given("version").await?;
    let first = bench.fetched(&key).await?.version;
    let again = bench.fetched(&key).await?.version;
    ensure(first == again, || format!("without a change, {first} became {again}"))?;
    let value = bench.secret();
    bench.put(&key, &value).await?;
    let changed = bench.fetched(&key).await?;
    ensure_value(&changed, &value)?;
    ensure(changed.version != first, || format!("two values have the version {first}"))?;
    ensure(!changed.version.is_older_than(&first), || {
        format!("the newer {} stands before {first}", changed.version)
    })
}

pub(crate) async fn a_stamp_changes_with_the_value_alone(bench: &Bench<'_>) -> Check {
    let (key, _) = bench.given("stamp").await?;
    if !bench.capabilities.stamps {
        return ensure_error(&bench.stamp(&key).await?, &[ErrorKind::Unsupported]).map(drop);
    }
    let stamp = async || {
        let stamp = bench.stamp(&key).await?;
        stamp.map_err(|error| unexpected("a stamp", &error))
    };
    let fetched = bench.fetched(&key).await?.stamp;
    let first = stamp().await?;
    ensure(fetched.as_ref() == Some(&first), || "a fetch and a look give two stamps".into())?;
    ensure(stamp().await? == first, || "the stamp changes without a change".into())?;
    // Several in quick succession: a stamp that rests on a coarse clock would miss one.
    let mut last = first;
    for _ in 0..5 {
        bench.put(&key, &bench.secret()).await?;
        bench.fetched(&key).await?;
        let next = stamp().await?;
        ensure(next != last, || "the stamp stays the same after a change".into())?;
        last = next;
    }
    ensure_error(&bench.stamp(&bench.key("stamp-missing")).await?, &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn what_is_known_is_not_sent_again(bench: &Bench<'_>) -> Check {
    if !bench.capabilities.stamps {
        return Err(Stop::Skip("no stamps are declared".into()));
    }
    let (key, _) = bench.given("condition").await?;
    let mut request = FetchRequest::new(key.clone());
    request.if_none_match = bench.fetched(&key).await?.stamp;
    ensure_error(&bench.ask(&request).await, &[ErrorKind::NotModified])?;
    let value = bench.secret();
    bench.put(&key, &value).await?;
    match bench.ask(&request).await {
        Ok(answer) => ensure_value(&answer, &value),
        Err(error) => Err(unexpected("the new value", &error)),
    }
}

pub(crate) async fn an_exact_version_is_served_or_refused(bench: &Bench<'_>) -> Check {
    let (key, old) = bench.given("exact").await?;
    let version = bench.fetched(&key).await?.version;
    let at = |version: &str| FetchRequest::new(key.clone()).at_version(version);
    bench.put(&key, &bench.secret()).await?;
    if !bench.capabilities.versions {
        let answer = bench.ask(&at(&version.id())).await;
        return ensure_error(&answer, &[ErrorKind::Unsupported]).map(drop);
    }
    match bench.ask(&at(&version.id())).await {
        Ok(answer) => {
            ensure_value(&answer, &old)?;
            let came = &answer.version;
            ensure(*came == version, || format!("{came} came instead of {version}"))?;
        }
        Err(error) => return Err(unexpected("the older version", &error)),
    }
    ensure_error(&bench.ask(&at("999999999")).await, &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn a_change_is_announced(bench: &Bench<'_>) -> Check {
    let Some(mut changes) = bench.provider.changes() else {
        ensure(!bench.capabilities.push, || "push is declared and there is no stream".into())?;
        return Err(Stop::Skip("no push is declared".into()));
    };
    ensure(bench.capabilities.push, || "there is a stream and push is not declared".into())?;
    let (key, _) = bench.given("push").await?;
    // The first event may only say that the stream is there; the later ones cannot.
    for round in 1..=4 {
        while let Ok(change) = timeout(QUIET, changes.next()).await {
            bench.note(&change);
            ensure(change.is_some(), || "the stream has ended".into())?;
        }
        bench.put(&key, &bench.secret()).await?;
        let deadline = Instant::now() + ARRIVAL;
        loop {
            match timeout_at(deadline, changes.next()).await {
                Ok(Some(Change::Anything)) => break,
                Ok(Some(Change::Secret { key: of, version })) if of == key => {
                    bench.note(&version);
                    break;
                }
                // Another key's.
                Ok(Some(_)) => {}
                Ok(None) => return Err(Stop::Fail("the stream has ended".into())),
                Err(_) => return Err(Stop::Fail(format!("change {round} did not arrive"))),
            }
        }
    }
    Ok(())
}
