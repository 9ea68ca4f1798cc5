//! `oneiric secrets promote | disable | enable | destroy`: which versions can be read, and which
//! one is the current one.

use std::io::{self, IsTerminal as _, Write as _};

use oneiric_core::{Error, ErrorKind, Result as CoreResult, SecretRef, VersionState};

use super::store::{Current, Store, one_version};
use crate::cli::{Destroy, Disable, Enable, Global, Promote};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::tell;
use crate::telemetry::Telemetry;

pub(super) async fn promote(global: &Global, args: &Promote) -> Result<Exit> {
    one_version(&args.reference)?;
    let (store, telemetry) = open(global, &args.reference)?;
    promote_in(&store, args).await?;
    tell(&format!("`{}` is the current version", args.reference));
    telemetry.finish().await;
    Ok(Exit::DONE)
}

pub(super) async fn disable(global: &Global, args: &Disable) -> Result<Exit> {
    one_version(&args.reference)?;
    let (store, telemetry) = open(global, &args.reference)?;
    disable_in(&store, args).await?;
    tell(&format!("`{}` cannot be read any more; `enable` takes that back", args.reference));
    telemetry.finish().await;
    Ok(Exit::DONE)
}

pub(super) async fn enable(global: &Global, args: &Enable) -> Result<Exit> {
    one_version(&args.reference)?;
    let (store, telemetry) = open(global, &args.reference)?;
    enable_in(&store, args).await?;
    tell(&format!("`{}` can be read", args.reference));
    telemetry.finish().await;
    Ok(Exit::DONE)
}

pub(super) async fn destroy(global: &Global, args: &Destroy) -> Result<Exit> {
    one_version(&args.reference)?;
    let (store, telemetry) = open(global, &args.reference)?;
    guard(&store, &args.reference, true, args.force).await?;
    if !args.yes && !confirmed(&args.reference)? {
        tell("nothing was done");
        return Ok(Exit::FAILED);
    }
    destroy_in(&store, args).await?;
    tell(&format!("`{}` is gone for good", args.reference));
    telemetry.finish().await;
    Ok(Exit::DONE)
}

fn open(global: &Global, reference: &SecretRef) -> Result<(Store, Telemetry)> {
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let store = Store::of(&settings, reference)?;
    store.writer()?;
    Ok((store, telemetry))
}

async fn promote_in(store: &Store, args: &Promote) -> Result<()> {
    let (key, version) = one_version(&args.reference)?;
    // Without --expect it is the one that is current now, so that nobody who comes in between is
    // overwritten.
    let before = match &args.expect {
        Some(expected) => Current::Known(Some(expected.clone())),
        None => store.current(key).await?,
    };
    if before == Current::Unknown {
        return Err(store.which_is_current(&format!("{}:{key}", store.id)));
    }
    let promoted = store.writer()?.promote(key, version, before.version());
    concluded(store, store.write(promoted).await, &args.reference, "promote")
}

async fn disable_in(store: &Store, args: &Disable) -> Result<()> {
    guard(store, &args.reference, false, args.force).await?;
    let (key, version) = one_version(&args.reference)?;
    let disabled = store.writer()?.disable(key, version);
    concluded(store, store.write(disabled).await, &args.reference, "disable")
}

async fn enable_in(store: &Store, args: &Enable) -> Result<()> {
    let (key, version) = one_version(&args.reference)?;
    let enabled = store.writer()?.enable(key, version);
    concluded(store, store.write(enabled).await, &args.reference, "enable")
}

async fn destroy_in(store: &Store, args: &Destroy) -> Result<()> {
    let (key, version) = one_version(&args.reference)?;
    let destroyed = store.writer()?.destroy(key, version);
    concluded(store, store.write(destroyed).await, &args.reference, "destroy")
}

/// Refuses to take a version away that somebody may well be using.
async fn guard(store: &Store, reference: &SecretRef, for_good: bool, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    let (key, version) = one_version(reference)?;
    let refuse = |message: String, remedy: String| {
        Err(Failure::new(Exit::FAILED, message).remedy(format!("{remedy}, or give --force")))
    };
    let versions = match store.versions(key).await {
        Ok(versions) => versions,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let message = format!("provider `{}` does not say which version is in use", store.id);
            return refuse(message, "see for yourself that nobody uses it".to_owned());
        }
        Err(error) => return Err(error.into()),
    };
    let is_it = |label: &String| label == version;
    let found = versions
        .iter()
        .find(|info| info.version.id() == version)
        .or_else(|| versions.iter().find(|info| info.labels.iter().any(is_it)));
    let Some(found) = found else {
        let message = format!("there is no version `{reference}`");
        return Err(Error::new(ErrorKind::NotFound, message).into());
    };
    if found.current {
        let message = format!("`{reference}` is the current version, which everybody reads");
        return refuse(message, "promote another one first".to_owned());
    }
    if for_good && found.state == VersionState::Enabled {
        return refuse(
            format!("`{reference}` can still be read, and somebody may do so"),
            format!("`oneiric secrets disable {reference}` first, and see that nobody misses it"),
        );
    }
    Ok(())
}

/// Asks a person, where there is one.
fn confirmed(reference: &SecretRef) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let failure = Failure::new(Exit::USAGE, "there is nobody to ask whether this is meant");
        return Err(failure.remedy("give --yes"));
    }
    let asked = write!(io::stderr(), "destroy `{reference}` for good? [y/N] ");
    let mut answer = String::new();
    asked
        .and_then(|()| io::stderr().flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::new(Exit::FAILED, error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// How a change went, in the words of the command.
fn concluded(
    store: &Store,
    answer: CoreResult<()>,
    reference: &SecretRef,
    command: &str,
) -> Result<()> {
    let Err(error) = answer else { return Ok(()) };
    let name = format!("{}:{}", reference.provider(), reference.key());
    let kind = error.kind();
    if kind == ErrorKind::Unsupported {
        return Err(store.cannot(&format!("{command} a version")));
    }
    let failure = Failure::from(error.context(format!("cannot {command} `{reference}`")));
    let versions = format!("`oneiric secrets versions {name}`");
    Err(match kind {
        ErrorKind::Conflict => failure.remedy(format!("see {versions} for who was first")),
        ErrorKind::Ambiguous => failure.remedy(format!(
            "it may have been done all the same: {versions} shows it; to repeat it is safe"
        )),
        _ => failure,
    })
}

#[cfg(test)]
mod tests;
