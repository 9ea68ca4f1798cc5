//! `oneiric secrets set`: a new version, and then the current one, if nobody came in between.

mod value;

use oneiric_core::{Error, ErrorKind, SecretKey, SecretValue, Version};
use oneiric_runtime::new_rotation_id;

use super::store::{Current, Store, whole};
use crate::cli::{Global, Set};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{self, tell};
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global, args: &Set) -> Result<Exit> {
    let key = whole(&args.reference)?;
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let store = Store::of(&settings, &args.reference)?;
    store.writer()?;
    let value = value::read(args, store.provider.descriptor().capabilities.max_value)?;
    value::check(&store, key, &value, args)?;
    let made = carry_out(&store, key, &value, args, |version| output::line(&version.id())).await;
    telemetry.finish().await;
    made.map(|()| Exit::DONE)
}

/// Writes the value; `made` hears of the new version as soon as it is there.
async fn carry_out(
    store: &Store,
    key: &SecretKey,
    value: &SecretValue,
    args: &Set,
    made: impl FnOnce(&Version) -> Result<output::Reader>,
) -> Result<()> {
    let writer = store.writer()?;
    let name = format!("{}:{key}", store.id);
    if args.no_promote && !store.provider.descriptor().capabilities.versions {
        return Err(store.cannot("keep a version aside").remedy("leave --no-promote out"));
    }
    let before = store.current(key).await?;
    if before == Current::Unknown && args.expect.is_none() && !args.no_promote {
        return Err(store.which_is_current(&name));
    }
    // Where a store does not tell writing from promoting, this is the only time to look. An attempt
    // that is repeated may have changed it itself.
    if let (Some(expected), None, Current::Known(found)) = (&args.expect, &args.token, &before)
        && found.as_ref() != Some(expected)
    {
        return Err(other_is_current(&name, expected, found.as_deref()));
    }
    let token = args.token.clone().unwrap_or_else(|| new_rotation_id().to_string());
    if args.create {
        store.write(writer.create_secret(key)).await.map_err(|error| {
            lost_or(error.context(format!("cannot make the secret `{name}`")), &name, &token)
        })?;
    }
    let version = store.write(writer.create_version(key, value, &token)).await;
    let version = version.map_err(|error| not_written(error, &name, &token, args.create))?;
    made(&version)?;
    let reference = format!("{name}@{version}");
    if args.no_promote {
        // Some stores answer with the newest version, whatever we would like.
        let at_once = store.current(key).await.ok();
        if at_once == Some(Current::Known(Some(version.to_string()))) {
            tell(&format!("warning: `{reference}` is the current version at once in this store"));
        } else {
            tell(&format!("`{reference}` is kept aside: promote it when it is proven"));
        }
        return Ok(());
    }
    let expected = args.expect.as_deref().or(before.version());
    let promoted = store.write(writer.promote(key, &version.id(), expected)).await;
    promoted.map_err(|error| not_promoted(error, &name, &version, expected))?;
    let replaced = expected.filter(|expected| *expected != version.id().as_ref());
    let replaced = replaced.map(|version| format!(" and replaces {version}"));
    tell(&format!("`{reference}` is the current version{}", replaced.unwrap_or_default()));
    Ok(())
}

fn other_is_current(name: &str, expected: &str, found: Option<&str>) -> Failure {
    let found = found.map_or("it has none".to_owned(), |found| format!("it is {found}"));
    let message =
        format!("the current version of `{name}` is not {expected}: {found}; nothing was written");
    let failure = Failure::from(Error::new(ErrorKind::Conflict, message));
    failure.remedy(format!("see `oneiric secrets versions {name}` for who was first"))
}

fn not_written(error: Error, name: &str, token: &str, created: bool) -> Failure {
    let missing = error.kind() == ErrorKind::NotFound && !created;
    let error = error.context(format!("cannot write `{name}`"));
    if missing {
        return Failure::from(error).remedy("give --create to make the secret first");
    }
    lost_or(error, name, token)
}

/// What to do if the reply was lost; otherwise the error says it all.
fn lost_or(error: Error, name: &str, token: &str) -> Failure {
    let lost = error.kind() == ErrorKind::Ambiguous;
    let failure = Failure::from(error);
    if !lost {
        return failure;
    }
    failure.remedy(format!(
        "it may or may not have been written: `oneiric secrets versions {name}` shows it; to repeat \
         the same command with --token {token} is safe and makes no second version"
    ))
}

fn not_promoted(error: Error, name: &str, version: &Version, expected: Option<&str>) -> Failure {
    let kind = error.kind();
    let reference = format!("{name}@{version}");
    let failure =
        Failure::from(error.context(format!("`{reference}` was written and not made current")));
    let expect = expected.map(|version| format!(" --expect {version}")).unwrap_or_default();
    match kind {
        ErrorKind::Conflict => failure.remedy(format!(
            "somebody else was first: see `oneiric secrets versions {name}`, and then promote \
             `{reference}` with --expect, or leave it"
        )),
        ErrorKind::Ambiguous => failure.remedy(format!(
            "it may be current all the same: `oneiric secrets versions {name}` shows it; to repeat \
             `oneiric secrets promote {reference}{expect}` is safe"
        )),
        _ => failure.remedy(format!(
            "go on with `oneiric secrets promote {reference}{expect}` when the cause is mended"
        )),
    }
}

#[cfg(test)]
mod tests;
