//! The store's own change events, which are hints and nothing else.

use std::time::Duration;

use futures_util::StreamExt;
use oneiric_core::{
    Change, ChangeStream, ErrorKind, FetchRequest, SecretKey, SecretValue, Stamp, Version,
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::report::{Check, Stop, ensure};
use crate::rig::Fault;

/// How long a change may take to arrive. Generous: a slow machine is no defect.
const ARRIVAL: Duration = Duration::from_secs(20);

/// How long a stream must say nothing to be taken as quiet.
const QUIET: Duration = Duration::from_millis(300);

pub(crate) async fn a_change_is_announced(bench: &Bench<'_>) -> Check {
    let mut changes = subscribed(bench)?;
    let (key, _) = bench.given("push").await?;
    // The first event may only say that the stream is there; the later ones cannot.
    for round in 1..=4 {
        until_quiet(bench, &mut changes).await?;
        bench.put(&key, &bench.secret()).await?;
        match next_of(bench, &mut changes, &key).await? {
            Heard::Change(_) => {}
            Heard::Nothing => return Err(Stop::Fail(format!("change {round} did not arrive"))),
            Heard::End => return Err(Stop::Fail("the stream has ended".into())),
        }
    }
    Ok(())
}

pub(crate) async fn a_lost_push_is_found_by_a_look(bench: &Bench<'_>) -> Check {
    let mut changes = subscribed(bench)?;
    let (key, _) = bench.given("push-lost").await?;
    until_quiet(bench, &mut changes).await?;
    bench.fetched(&key).await?;
    let before = look(bench, &key).await?;
    bench.play_declared(Fault::PushLost, "push").await?;
    let value = bench.secret();
    bench.put(&key, &value).await?;
    ensure_value(&bench.fetched(&key).await?, &value)?;
    ensure(look(bench, &key).await? != before, || "a look shows no change".into())?;
    bench.mend().await?;
    // What was lost is lost; but either the stream has ended, or it goes on telling.
    let mut ended = false;
    while let Ok(change) = timeout(QUIET, changes.next()).await {
        bench.note(&change);
        ended = change.is_none();
        if ended {
            changes = subscribed(bench)?;
            until_quiet(bench, &mut changes).await?;
            break;
        }
    }
    bench.put(&key, &bench.secret()).await?;
    match next_of(bench, &mut changes, &key).await? {
        Heard::Change(_) => Ok(()),
        Heard::End if !ended => Ok(()),
        _ => Err(Stop::Fail("after a gap no change arrives, and the stream does not end".into())),
    }
}

pub(crate) async fn a_doubled_push_is_a_hint_alone(bench: &Bench<'_>) -> Check {
    hints(bench, "push-doubled", Fault::PushDoubled).await
}

pub(crate) async fn a_reordered_push_is_a_hint_alone(bench: &Bench<'_>) -> Check {
    hints(bench, "push-reordered", Fault::PushReordered).await
}

/// Whatever order events come in and however often, a read answers with what is there.
async fn hints(bench: &Bench<'_>, name: &str, fault: Fault) -> Check {
    let mut changes = subscribed(bench)?;
    let (key, _) = bench.given(name).await?;
    until_quiet(bench, &mut changes).await?;
    bench.play_declared(fault, "push").await?;
    let mut put = Vec::new();
    for _ in 0..3 {
        let value = bench.secret();
        put.push((bench.put_version(&key, &value).await?, value));
    }
    bench.mend().await?;
    let mut events = 0;
    loop {
        let wait = if events == 0 { ARRIVAL } else { QUIET };
        match next_within(bench, &mut changes, &key, wait).await? {
            Heard::Change(version) => {
                events += 1;
                if let Some(version) = &version {
                    of_a_version(bench, &key, version, &put).await?;
                }
            }
            Heard::Nothing if events > 0 => break,
            Heard::Nothing => return Err(Stop::Fail("none of three changes arrived".into())),
            Heard::End => return Err(Stop::Fail("the stream has ended".into())),
        }
        // An event that is late is no reason to go back.
        let (newest, value) = put.last().expect("there are three");
        let fetched = bench.fetched(&key).await?;
        ensure_value(&fetched, value)?;
        let same = newest.as_ref().is_none_or(|newest| fetched.version.id() == newest.as_str());
        ensure(same, || format!("the newest value is read as version {}", fetched.version))?;
    }
    Ok(())
}

/// The version that an event names is one that there is, and can be asked for.
async fn of_a_version(
    bench: &Bench<'_>,
    key: &SecretKey,
    version: &Version,
    put: &[(Option<String>, SecretValue)],
) -> Check {
    let named = version.id();
    let known = put.iter().find(|(id, _)| id.as_deref() == Some(&*named));
    let has_ids = put.iter().all(|(id, _)| id.is_some());
    match known {
        None => ensure(!has_ids, || format!("an event names {version}, which was never made")),
        Some((_, value)) if bench.capabilities.versions => {
            let request = FetchRequest::new(key.clone()).at_version(named);
            match bench.ask(&request).await {
                Ok(answer) => ensure_value(&answer, value),
                answer => ensure_error(&answer, &[ErrorKind::NotFound]).map(drop),
            }
        }
        Some(_) => Ok(()),
    }
}

/// A subscription, if push is declared.
fn subscribed(bench: &Bench<'_>) -> Check<ChangeStream> {
    let declared = bench.capabilities.push;
    match bench.provider.changes() {
        Some(_) if !declared => Err(Stop::Fail("there is a stream and no push is declared".into())),
        Some(changes) => Ok(changes),
        None if declared => Err(Stop::Fail("push is declared and there is no stream".into())),
        None => Err(Stop::Skip("no push is declared".into())),
    }
}

/// What tells one state of a secret from the next.
#[derive(PartialEq)]
enum Look {
    Stamp(Stamp),
    Version(Version),
}

/// A look, without reading a value where that is possible.
async fn look(bench: &Bench<'_>, key: &SecretKey) -> Check<Look> {
    if !bench.capabilities.stamps {
        return Ok(Look::Version(bench.fetched(key).await?.version));
    }
    let stamp = bench.stamp(key).await?;
    stamp.map(Look::Stamp).map_err(|error| unexpected("a stamp", &error))
}

async fn until_quiet(bench: &Bench<'_>, changes: &mut ChangeStream) -> Check {
    while let Ok(change) = timeout(QUIET, changes.next()).await {
        bench.note(&change);
        ensure(change.is_some(), || "the stream has ended".into())?;
    }
    Ok(())
}

/// What came of waiting for an event.
enum Heard {
    /// One that concerns the secret, with the version that it names.
    Change(Option<Version>),
    Nothing,
    End,
}

async fn next_of(bench: &Bench<'_>, changes: &mut ChangeStream, key: &SecretKey) -> Check<Heard> {
    next_within(bench, changes, key, ARRIVAL).await
}

async fn next_within(
    bench: &Bench<'_>,
    changes: &mut ChangeStream,
    key: &SecretKey,
    wait: Duration,
) -> Check<Heard> {
    let deadline = Instant::now() + wait;
    loop {
        let change = timeout_at(deadline, changes.next()).await;
        bench.note(&change);
        match change {
            Ok(Some(Change::Anything)) => return Ok(Heard::Change(None)),
            Ok(Some(Change::Secret { key: of, version })) if of == *key => {
                return Ok(Heard::Change(version));
            }
            // Another key's.
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Heard::End),
            Err(_) => return Ok(Heard::Nothing),
        }
    }
}
