//! Versions by their ids, those that cannot be read any more, and those that cannot be seen yet.

use oneiric_core::{ErrorKind, FetchRequest, SecretKey, VersionState};

use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::report::{Check, Stop, ensure};
use crate::rig::Fault;

pub(crate) async fn an_exact_version_is_served_or_refused(bench: &Bench<'_>) -> Check {
    let (key, old) = (bench.key("exact"), bench.secret());
    let given = bench.put_version(&key, &old).await?;
    let version = bench.fetched(&key).await?.version;
    ensure(given.is_none_or(|given| given == version.id()), || {
        format!("the store knows it by another id than {version}")
    })?;
    let new = bench.secret();
    let newer = bench.put_version(&key, &new).await?;
    if !bench.capabilities.versions {
        let answer = bench.ask(&at(&key, &version.id())).await;
        return ensure_error(&answer, &[ErrorKind::Unsupported]).map(drop);
    }
    let newer = newer.expect("where versions are declared the rig names them");
    for (id, value) in [(&*version.id(), &old), (&newer, &new), (&*version.id(), &old)] {
        match bench.ask(&at(&key, id)).await {
            Ok(answer) => {
                ensure_value(&answer, value)?;
                let came = &answer.version;
                ensure(came.id() == id, || format!("{came} came instead of {id}"))?;
            }
            Err(error) => return Err(unexpected("that very version", &error)),
        }
    }
    ensure_error(&bench.ask(&at(&key, "999999999")).await, &[ErrorKind::NotFound])?;
    let missing = bench.key("exact-missing");
    ensure_error(&bench.ask(&at(&missing, &newer)).await, &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn the_versions_of_a_secret_are_listed_newest_first(bench: &Bench<'_>) -> Check {
    let Some(lister) = bench.provider.lister() else {
        return Err(Stop::Skip("there is no lister".into()));
    };
    let key = bench.key("versions");
    let mut put = Vec::new();
    for _ in 0..3 {
        put.extend(bench.put_version(&key, &bench.secret()).await?);
    }
    let versions = lister.versions(&key).await;
    bench.note_answer(&versions);
    if !bench.capabilities.versions {
        return ensure_error(&versions, &[ErrorKind::Unsupported]).map(drop);
    }
    let versions = versions.map_err(|error| unexpected("a list of versions", &error))?;
    let ids: Vec<_> = versions.iter().map(|info| info.version.id()).collect();
    put.reverse();
    ensure(ids == put, || format!("{put:?} were made, and {ids:?} are listed"))?;
    for info in &versions {
        let (id, state) = (&*info.version.id(), info.state);
        ensure(state == VersionState::Enabled, || format!("{id} is listed as {}", state.token()))?;
        let current = id == put[0];
        ensure(info.current == current, || format!("{id} is listed as current: {}", !current))?;
        let answer = bench.ask(&at(&key, id)).await;
        let answer = answer.map_err(|error| unexpected("a version that is listed", &error))?;
        ensure(answer.version == info.version, || format!("{id} is read as another version"))?;
    }
    let missing = lister.versions(&bench.key("versions-missing")).await;
    bench.note_answer(&missing);
    ensure_error(&missing, &[ErrorKind::NotFound]).map(drop)
}

pub(crate) async fn a_disabled_current_version_is_said_so(bench: &Bench<'_>) -> Check {
    let (key, old) = (bench.key("disabled"), bench.secret());
    let older = bench.put_version(&key, &old).await?;
    let value = bench.secret();
    let version = bench.put_version(&key, &value).await?;
    bench.fetched(&key).await?;
    bench.play(Fault::Disabled(key.clone())).await?;
    ensure_error(&bench.fetch(&key).await, &[ErrorKind::VersionDisabled])?;
    if bench.capabilities.stamps
        && let Err(error) = bench.stamp(&key).await?
        && error.kind() != ErrorKind::VersionDisabled
    {
        return Err(unexpected("a stamp, or that it is disabled", &error));
    }
    if let (true, Some(version), Some(older)) = (bench.capabilities.versions, version, older) {
        ensure_error(&bench.ask(&at(&key, &version)).await, &[ErrorKind::VersionDisabled])?;
        let answer = bench.ask(&at(&key, &older)).await;
        let answer = answer.map_err(|error| unexpected("the version before", &error))?;
        ensure_value(&answer, &old)?;
        let listed = bench.versions(&key).await?.unwrap_or_default();
        let wrong = listed
            .iter()
            .find(|info| (info.version.id() == version) != (info.state == VersionState::Disabled));
        ensure(wrong.is_none(), || format!("{wrong:?} is listed and {version} is disabled"))?;
    }
    bench.mend().await?;
    ensure_value(&bench.fetched(&key).await?, &value)
}

/// After an event the exact version is asked for, before everybody sees it: the answer is that
/// version or that there is none yet.
pub(crate) async fn an_older_value_never_bears_a_newer_version(bench: &Bench<'_>) -> Check {
    let (key, old) = (bench.key("lagging"), bench.secret());
    bench.put(&key, &old).await?;
    let before = bench.fetched(&key).await?.version;
    bench.play(Fault::Lagging).await?;
    let new = bench.secret();
    let newer = bench.put_version(&key, &new).await?;
    for _ in 0..3 {
        let current = bench.fetched(&key).await?;
        let expected = if current.version == before { &old } else { &new };
        ensure_value(&current, expected)?;
        if let (true, Some(newer)) = (bench.capabilities.versions, &newer) {
            match bench.ask(&at(&key, newer)).await {
                Ok(exact) => {
                    ensure_value(&exact, &new)?;
                    let came = &exact.version;
                    ensure(came.id() == newer.as_str(), || {
                        format!("{came} came instead of {newer}")
                    })?;
                }
                answer => _ = ensure_error(&answer, &[ErrorKind::NotFound])?,
            }
        }
    }
    bench.mend().await?;
    ensure_value(&bench.fetched(&key).await?, &new)
}

fn at(key: &SecretKey, version: &str) -> FetchRequest {
    FetchRequest::new(key.clone()).at_version(version)
}
