//! `oneiric secrets watch`: a line for each change.

use std::pin::pin;

use futures_util::stream::{self, StreamExt as _};
use oneiric_core::settings::Settings;
use oneiric_core::{InstanceId, SecretRef};
use oneiric_runtime::Assembly;
use oneiric_runtime::admin::WatchEvent;
use oneiric_secrets::SecretEvent;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::providers;
use super::reach::{Peer, Reach};
use crate::cli::{Global, Watch};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{self, Reader, tell};
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global, args: &Watch) -> Result<Exit> {
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let reach = Reach::new(&settings);
    let peers = if args.local { Vec::new() } else { reach.discovered()?.peers };
    if peers.is_empty() && args.references.is_empty() {
        return Err(reach.nobody().remedy(
            "start `oneiric agent`, or name the secrets to follow the providers from here",
        ));
    }
    let only = meant(&settings, &args.references)?;
    let watching = async {
        if peers.is_empty() {
            local(&settings, args, &only).await
        } else {
            remote(&peers, args, &only).await
        }
    };
    let ended = tokio::select! {
        ended = watching => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::DONE),
    };
    telemetry.finish().await;
    ended
}

/// Follows what running instances tell, until the last of them ends.
async fn remote(peers: &[Peer], args: &Watch, only: &[SecretRef]) -> Result<Exit> {
    let mut streams = Vec::new();
    for peer in peers {
        match peer.client.events().await {
            Ok(events) => streams.push(events.map(|event| (&peer.name, event)).boxed()),
            Err(error) => {
                Failure::new(Exit::UNREACHED, error).report();
            }
        }
    }
    let mut events = pin!(stream::select_all(streams));
    while let Some((instance, event)) = events.next().await {
        match event {
            Ok(event) => {
                if show(Some(instance), &event, args, only)? == Reader::Gone {
                    return Ok(Exit::DONE);
                }
            }
            Err(error) => {
                Failure::new(Exit::UNREACHED, error).report();
            }
        }
    }
    Err(Failure::new(Exit::UNREACHED, "no instance is left to be watched"))
}

/// Follows the providers from here.
async fn local(settings: &Settings, args: &Watch, only: &[SecretRef]) -> Result<Exit> {
    let Assembly { resolver, mut options, .. } = providers(settings)?;
    if options.watch_interval.is_zero() {
        let failure = Failure::new(Exit::FAILED, "the settings turn watching off");
        return Err(failure.remedy("set `secrets_watch_interval`, for instance to \"30s\""));
    }
    options.admin = None;
    let (runtime, task) = options.build(resolver)?;
    let shutdown = CancellationToken::new();
    let _ends_with_us = shutdown.clone().drop_guard();
    tokio::spawn(task.run(shutdown));
    // What somebody has asked for is watched.
    let resolver = runtime.resolver();
    let mut handles = Vec::with_capacity(args.references.len());
    for reference in &args.references {
        handles.push(resolver.handle(reference).await?);
    }
    let mut events = resolver.subscribe();
    loop {
        let event = match events.recv().await {
            Ok(SecretEvent::Changed { provider, key, version }) => {
                WatchEvent::Changed { provider, key: key.to_string(), version: version.to_string() }
            }
            Ok(SecretEvent::Refused { provider, key, error }) => {
                WatchEvent::Refused { provider, key: key.to_string(), error: error.chain() }
            }
            Err(RecvError::Lagged(missed)) => WatchEvent::Lagged { missed },
            Ok(_) => continue,
            Err(RecvError::Closed) => return Ok(Exit::DONE),
        };
        if show(None, &event, args, only)? == Reader::Gone {
            return Ok(Exit::DONE);
        }
    }
}

/// One change in `--json`.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a InstanceId>,
    #[serde(flatten)]
    event: &'a WatchEvent,
}

/// Who may answer for these references: of an alias, everybody.
fn meant(settings: &Settings, references: &[SecretRef]) -> Result<Vec<SecretRef>> {
    let mut meant = Vec::with_capacity(references.len());
    for reference in references {
        match reference.alias() {
            None => meant.push(reference.clone()),
            Some(alias) => {
                let unknown = || {
                    let message = format!("there is no alias `{alias}` in the settings");
                    Failure::new(Exit::USAGE, message)
                };
                meant.extend(settings.secrets.get(alias).ok_or_else(unknown)?.candidates.clone());
            }
        }
    }
    Ok(meant)
}

fn show(
    instance: Option<&InstanceId>,
    event: &WatchEvent,
    args: &Watch,
    only: &[SecretRef],
) -> Result<Reader> {
    let (secret, what) = match event {
        WatchEvent::Changed { provider, key, version } => {
            (format!("{provider}:{key}"), format!("changed to version {version}"))
        }
        WatchEvent::Refused { provider, key, error } => {
            (format!("{provider}:{key}"), format!("was not taken over: {error}"))
        }
        WatchEvent::Lagged { missed } => {
            tell(&format!("warning: {missed} events were missed"));
            return Ok(Reader::There);
        }
        // That a change is looked for is not a change.
        _ => return Ok(Reader::There),
    };
    let of = |reference: &SecretRef| format!("{}:{}", reference.provider(), reference.key());
    if !only.is_empty() && !only.iter().any(|only| of(only) == secret) {
        return Ok(Reader::There);
    }
    if args.json {
        return output::json(&Shown { instance, event });
    }
    match instance {
        Some(instance) => output::line(&format!("{instance}: {secret} {what}")),
        None => output::line(&format!("{secret} {what}")),
    }
}
