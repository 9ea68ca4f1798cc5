//! Writing: each operation is safe to repeat, and nothing is swapped that was not compared.

use futures_util::future::join_all;
use oneiric_core::{
    ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretValue, VersionState,
};

use super::sets::MOST_POLLS;
use crate::bench::{Bench, Writer, ensure_done, ensure_error, ensure_value, unexpected};
use crate::poll::poll_at_most;
use crate::report::{Check, Stop, ensure};
use crate::rig::Fault;

/// What is said of a version that is not there. Where a store cannot turn versions at all, it may
/// say that first.
const NONE: [ErrorKind; 2] = [ErrorKind::NotFound, ErrorKind::Unsupported];

/// What a version that was destroyed can be to a store.
const GONE: [ErrorKind; 2] = [ErrorKind::VersionDisabled, ErrorKind::NotFound];

pub(crate) async fn a_token_makes_one_version(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let (key, values) = (bench.key("token"), [bench.secret(), bench.secret()]);
    writer.room(&key).await?;
    writer.room(&key).await?;
    let first = writer.created(&key, &values[0], "one").await?;
    let again = writer.created(&key, &values[0], "one").await?;
    ensure(first == again, || format!("one token made the versions {first} and {again}"))?;
    let second = writer.created(&key, &values[1], "two").await?;
    ensure(first != second, || format!("two tokens made the one version {first}"))?;
    ensure(!second.is_older_than(&first), || format!("{second} is older than {first}"))?;
    let again = writer.created(&key, &values[0], "one").await?;
    ensure(first == again, || format!("one token made the versions {first} and {again}"))?;
    count_versions(bench, &key, 2).await?;
    for (version, value) in [(&first, &values[0]), (&second, &values[1])] {
        let Some(answer) = exact(bench, &key, &version.id()).await else { break };
        let answer = answer.map_err(|error| unexpected("what was written", &error))?;
        ensure_value(&answer, value)?;
    }
    Ok(())
}

pub(crate) async fn a_value_over_the_limit_is_not_written(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let Some(most) = bench.capabilities.max_value.and_then(|most| usize::try_from(most).ok())
    else {
        return Err(Stop::Skip("no `max_value` is declared".into()));
    };
    let given = Given::new(bench, writer, "write-large").await?;
    let largest = bench.long_secret(most);
    let version = writer.created(&given.key, &largest, "largest").await?;
    let larger = writer.create(&given.key, &bench.long_secret(most + 1), "larger").await;
    ensure_error(&larger, &[ErrorKind::Invalid])?;
    count_versions(bench, &given.key, 2).await?;
    ensure_done(
        writer.promote(&given.key, &version.id(), Some(&given.version)).await,
        "a promotion of the largest value",
    )?;
    ensure_value(&bench.fetched(&given.key).await?, &largest)
}

pub(crate) async fn a_new_version_waits_to_be_promoted(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "staged").await?;
    let new = bench.secret();
    let version = writer.created(&given.key, &new, "new").await?;
    let made = version.id();
    let (value, id) = match bench.rig.stages() {
        true => (&given.value, given.version.as_str()),
        false => (&new, &*made),
    };
    is_current(bench, &given.key, id, value).await?;
    let promoted = writer.promote(&given.key, &version.id(), Some(&given.version)).await;
    ensure_done(promoted, "a promotion")?;
    is_current(bench, &given.key, &version.id(), &new).await
}

pub(crate) async fn a_promotion_compares_before_it_swaps(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "promoted").await?;
    let (key, first) = (&given.key, given.version.as_str());
    let values = [bench.secret(), bench.secret()];
    let second = writer.created(key, &values[0], "second").await?;
    let third = writer.created(key, &values[1], "third").await?;
    let (second, third) = (&*second.id(), &*third.id());
    if !bench.rig.stages() {
        ensure_done(writer.promote(key, third, Some(second)).await, "what is current already")?;
        let refused = writer.promote(key, first, Some(second)).await;
        ensure_error(&refused, &[ErrorKind::Conflict, ErrorKind::Unsupported])?;
        return is_current(bench, key, third, &values[1]).await;
    }
    ensure_done(writer.promote(key, second, Some(first)).await, "a promotion")?;
    for expected in [Some(first), Some(third), Some("999999999"), None] {
        ensure_error(&writer.promote(key, third, expected).await, &[ErrorKind::Conflict])?;
    }
    is_current(bench, key, second, &values[0]).await?;
    ensure_done(writer.promote(key, second, Some(first)).await, "the same promotion again")?;
    ensure_done(writer.promote(key, first, Some(second)).await, "a way back")?;
    is_current(bench, key, first, &given.value).await
}

pub(crate) async fn of_two_promotions_one_is_a_conflict(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    if !bench.rig.stages() {
        return Err(Stop::Skip("each new version is current at once".into()));
    }
    let given = Given::new(bench, writer, "raced").await?;
    let mut versions = Vec::new();
    for number in 0..6 {
        let value = bench.secret();
        let token = format!("racer-{number}");
        versions.push((writer.created(&given.key, &value, &token).await?, value));
    }
    let promote = |(version, _): &(oneiric_core::Version, SecretValue)| {
        let (key, expected, version) = (&given.key, &given.version, version.id().into_owned());
        async move { writer.promote(key, &version, Some(expected)).await }
    };
    let outcomes = join_all(versions.iter().map(promote)).await;
    let mut winner = None;
    for (outcome, version) in outcomes.into_iter().zip(&versions) {
        match outcome {
            Ok(()) if winner.is_none() => winner = Some(version),
            Ok(()) => return Err(Stop::Fail("two promotions from one version were done".into())),
            refused => _ = ensure_error(&refused, &[ErrorKind::Conflict])?,
        }
    }
    let (version, value) = winner.ok_or_else(|| Stop::Fail("no promotion was done".into()))?;
    is_current(bench, &given.key, &version.id(), value).await
}

pub(crate) async fn a_disabled_version_is_refused_until_it_is_enabled(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "switched").await?;
    let (key, version) = (&given.key, given.version.as_str());
    if is_unsupported(&writer.disable(key, version).await) {
        // Then it has not been done, either.
        is_current(bench, key, version, &given.value).await?;
        ensure_error(&writer.enable(key, version).await, &[ErrorKind::Unsupported])?;
        return Err(Stop::Skip("the store cannot disable a version".into()));
    }
    for _ in 0..2 {
        ensure_done(writer.disable(key, version).await, "that it is disabled")?;
        ensure_error(&bench.fetch(key).await, &[ErrorKind::VersionDisabled])?;
        if let Some(answer) = exact(bench, key, version).await {
            ensure_error(&answer, &[ErrorKind::VersionDisabled])?;
        }
        is_listed(bench, key, version, &[VersionState::Disabled]).await?;
    }
    for _ in 0..2 {
        ensure_done(writer.enable(key, version).await, "that it is enabled")?;
        is_current(bench, key, version, &given.value).await?;
        is_listed(bench, key, version, &[VersionState::Enabled]).await?;
    }
    Ok(())
}

pub(crate) async fn a_destroyed_version_is_gone_for_good(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "destroyed").await?;
    let (key, old) = (&given.key, given.version.as_str());
    let value = bench.secret();
    let new = writer.created(key, &value, "new").await?;
    ensure_done(writer.promote(key, &new.id(), Some(old)).await, "a promotion")?;
    if is_unsupported(&writer.destroy(key, old).await) {
        if let Some(answer) = exact(bench, key, old).await {
            let answer = answer.map_err(|error| unexpected("what was not destroyed", &error))?;
            ensure_value(&answer, &given.value)?;
        }
        return Err(Stop::Skip("the store cannot destroy a version".into()));
    }
    for _ in 0..2 {
        ensure_done(writer.destroy(key, old).await, "that it is destroyed")?;
        if let Some(answer) = exact(bench, key, old).await {
            ensure_error(&answer, &GONE)?;
        }
        is_listed(bench, key, old, &[VersionState::Destroyed]).await?;
        ensure_error(&writer.enable(key, old).await, &GONE)?;
    }
    is_current(bench, key, &new.id(), &value).await
}

pub(crate) async fn a_write_to_nothing_is_not_found(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "nothing").await?;
    let current = Some(given.version.as_str());
    for key in [&given.key, &bench.key("nothing-missing")] {
        let none = "999999999";
        ensure_error(&writer.promote(key, none, current).await, &[ErrorKind::NotFound])?;
        ensure_error(&writer.disable(key, none).await, &NONE)?;
        ensure_error(&writer.enable(key, none).await, &NONE)?;
        ensure_error(&writer.destroy(key, none).await, &NONE)?;
    }
    is_current(bench, &given.key, &given.version, &given.value).await
}

pub(crate) async fn a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write(
    bench: &Bench<'_>,
) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "lost-reply").await?;
    let (key, value) = (&given.key, bench.secret());
    bench.play(Fault::LostReply).await?;
    ensure_error(&writer.create(key, &value, "lost").await, &[ErrorKind::Ambiguous])?;
    bench.mend().await?;
    let version = writer.created(key, &value, "lost").await?;
    count_versions(bench, key, 2).await?;
    bench.play(Fault::LostReply).await?;
    let promoted = writer.promote(key, &version.id(), Some(&given.version)).await;
    // Where a new version is current at once there is nothing left to be written.
    if bench.rig.stages() {
        ensure_error(&promoted, &[ErrorKind::Ambiguous])?;
    }
    bench.mend().await?;
    let promoted = writer.promote(key, &version.id(), Some(&given.version)).await;
    ensure_done(promoted, "a promotion that was done already")?;
    is_current(bench, key, &version.id(), &value).await?;
    if is_unsupported(&writer.disable(key, "999999999").await) {
        return Ok(());
    }
    bench.play(Fault::LostReply).await?;
    let disabled = writer.disable(key, &given.version).await;
    ensure_error(&disabled, &[ErrorKind::Ambiguous])?;
    bench.mend().await?;
    let disabled = writer.disable(key, &given.version).await;
    ensure_done(disabled, "that it is disabled, which was done already")?;
    is_listed(bench, key, &given.version, &[VersionState::Disabled]).await?;
    is_current(bench, key, &version.id(), &value).await
}

pub(crate) async fn a_write_may_be_dropped_at_any_await(bench: &Bench<'_>) -> Check {
    let writer = bench.writer()?;
    let given = Given::new(bench, writer, "write-dropped").await?;
    let key = &given.key;
    let mut written = Vec::new();
    for polls in 1..=MOST_POLLS {
        let (value, token) = (bench.secret(), format!("dropped-{polls}"));
        let done = poll_at_most(polls, writer.create(key, &value, &token)).await;
        // It may or may not have been written; the repeat says which it is now.
        let version = writer.created(key, &value, &token).await?;
        if let Some(answer) = exact(bench, key, &version.id()).await {
            let answer = answer.map_err(|error| unexpected("what was written", &error))?;
            ensure_value(&answer, &value)?;
        }
        written.push((version, value));
        count_versions(bench, key, written.len() + 1).await?;
        if done.is_some() {
            break;
        }
    }
    let (mut current, mut old) = (given.version.clone(), given.value.clone());
    for (turn, (version, value)) in written.iter().cycle().take(MOST_POLLS).enumerate() {
        if !bench.rig.stages() || current == version.id() {
            break;
        }
        let id = version.id();
        let dropped = writer.promote(key, &id, Some(&current));
        let done = poll_at_most(turn + 1, dropped).await;
        let now = bench.fetched(key).await?;
        let whole = now.value.same_as(value) || now.value.same_as(&old);
        ensure(whole, || "a promotion that was dropped left neither old nor new".into())?;
        ensure_done(
            writer.promote(key, &version.id(), Some(&current)).await,
            "the repeat of a promotion that was dropped",
        )?;
        is_current(bench, key, &version.id(), value).await?;
        (current, old) = (version.id().into_owned(), value.clone());
        if done.is_some() {
            break;
        }
    }
    Ok(())
}

/// A secret that was written, with its one version.
struct Given {
    key: SecretKey,
    value: SecretValue,
    version: String,
}

impl Given {
    async fn new(bench: &Bench<'_>, writer: Writer<'_>, name: &str) -> Check<Self> {
        let (key, value) = (bench.key(name), bench.secret());
        writer.room(&key).await?;
        let version = writer.created(&key, &value, "first").await?.id().into_owned();
        ensure_done(writer.promote(&key, &version, None).await, "the first promotion")?;
        is_current(bench, &key, &version, &value).await?;
        Ok(Self { key, value, version })
    }
}

fn is_unsupported(answer: &Result<()>) -> bool {
    matches!(answer, Err(error) if error.kind() == ErrorKind::Unsupported)
}

/// A read of an exact version, where the provider has such.
async fn exact(bench: &Bench<'_>, key: &SecretKey, version: &str) -> Option<Result<Fetched>> {
    match bench.capabilities.versions {
        true => Some(bench.ask(&FetchRequest::new(key.clone()).at_version(version)).await),
        false => None,
    }
}

/// Fails unless a read answers with this version, and the list says the same.
async fn is_current(
    bench: &Bench<'_>,
    key: &SecretKey,
    version: &str,
    value: &SecretValue,
) -> Check {
    let fetched = bench.fetched(key).await?;
    ensure_value(&fetched, value)?;
    let came = &fetched.version;
    ensure(came.id() == version, || format!("{came} is read and not {version}"))?;
    let Some(listed) = bench.versions(key).await? else { return Ok(()) };
    let current = listed.iter().filter(|info| info.current);
    let current: Vec<_> = current.map(|info| info.version.id()).collect();
    ensure(current == [version], || format!("{current:?} is listed as current, not {version}"))
}

/// Fails unless the version is listed in one of these states, or is gone where it may be.
async fn is_listed(
    bench: &Bench<'_>,
    key: &SecretKey,
    version: &str,
    states: &[VersionState],
) -> Check {
    let Some(listed) = bench.versions(key).await? else { return Ok(()) };
    match listed.iter().find(|info| info.version.id() == version) {
        Some(info) if states.contains(&info.state) => Ok(()),
        Some(info) => Err(Stop::Fail(format!("{version} is listed as {}", info.state.token()))),
        None if states.contains(&VersionState::Destroyed) => Ok(()),
        None => Err(Stop::Fail(format!("{version} is not listed any more"))),
    }
}

async fn count_versions(bench: &Bench<'_>, key: &SecretKey, expected: usize) -> Check {
    let Some(listed) = bench.versions(key).await? else { return Ok(()) };
    let count = listed.len();
    ensure(count == expected, || format!("there are {count} versions instead of {expected}"))
}
