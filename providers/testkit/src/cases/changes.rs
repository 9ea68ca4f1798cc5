//! What tells one state of a secret from the next.

use oneiric_core::{ErrorKind, FetchRequest};

use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::report::{Check, Stop, ensure};

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
