//! `oneiric secrets rotate`: asks every instance at once, under one name and in one trace.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::time::Duration;

use futures_util::future::join_all;
use oneiric_core::settings::Settings;
use oneiric_core::telemetry::span;
use oneiric_core::{SecretKey, SecretRef};
use oneiric_runtime::RotateRequest;
use oneiric_runtime::report::{InstanceReport, Outcome, RotationReport};
use oneiric_secrets::{Mode, Scope};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::progress::View;
use super::reach::{Peer, Reach};
use crate::cli::{Global, Rotate};
use crate::exit::{self, Exit};
use crate::failure::{Failure, Result};
use crate::output::{self, tell};
use crate::render::{Table, millis, token};
use crate::telemetry::Telemetry;

/// How long an instance may take for everything but the drain before it counts as lost: reading
/// and preparing have limits of their own there, and may wait for another rotation first.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

pub(super) async fn run(global: &Global, args: &Rotate) -> Result<Exit> {
    let settings = global.settings()?;
    let request = request(args)?;
    // This process is the one rotation that it asks for.
    let name = request.rotation.as_str().parse().expect("a rotation id is a valid instance id");
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, Some(&name))?;
    let exit = trigger(&settings, args, &request).await;
    telemetry.finish().await;
    exit
}

async fn trigger(settings: &Settings, args: &Rotate, request: &RotateRequest) -> Result<Exit> {
    let reach = Reach::new(settings).with_token_file(args.token_file.as_deref());
    let peers = if args.targets.is_empty() {
        reach.discovered()?.peers
    } else {
        reach.named(&args.targets)?
    };
    let span = tracing::info_span!(
        target: "oneiric",
        "rotation.trigger",
        otel.name = span::TRIGGER,
        rotation = %request.rotation,
        outcome = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    );
    let started = Instant::now();
    let instances = ask_all(&peers, request, args.json).instrument(span.clone()).await;
    let report = report(args, request, instances, started.elapsed());
    span.record("outcome", token(&report.outcome));
    if report.outcome != Outcome::Done {
        span.record("otel.status_code", "ERROR");
    }
    drop(span);
    if args.json {
        output::json(&report)?;
    } else if !peers.is_empty() {
        output::write(table(&report).as_bytes())?;
    }
    if peers.is_empty() {
        return Err(reach.nobody());
    }
    for of in &report.instances {
        if let Some(error) = &of.error {
            tell(&format!("error: {}: {error}", of.instance));
        }
        for adapter in &of.adapters {
            if let Some(error) = &adapter.error {
                tell(&format!("  caused by: {}: {error}", adapter.adapter));
            }
        }
    }
    if let Some(remedy) = exit::remedy(report.outcome) {
        tell(&format!("help: {remedy}"));
    }
    Ok(report.outcome.into())
}

fn request(args: &Rotate) -> Result<RotateRequest> {
    let reference = |key: &SecretKey| {
        key.as_str().parse::<SecretRef>().map_err(|error| {
            Failure::new(Exit::USAGE, error)
                .remedy("without --provider, --keys names aliases or PROVIDER:KEY")
        })
    };
    let scope = match (&args.provider, args.all) {
        (None, true) => Scope::All,
        (None, false) => Scope::Secrets(args.keys.iter().map(reference).collect::<Result<_>>()?),
        (Some(provider), true) => Scope::Provider(provider.clone()),
        (Some(provider), false) => Scope::Keys(provider.clone(), args.keys.clone()),
    };
    let mut request = RotateRequest::new(scope);
    request.mode = match (args.hard, args.rollback) {
        (true, _) => Mode::Hard,
        (_, true) => Mode::Rollback,
        _ => Mode::Soft,
    };
    request.drain_timeout = args.timeout;
    Ok(request)
}

async fn ask_all(peers: &[Peer], request: &RotateRequest, json: bool) -> Vec<InstanceReport> {
    let view = RefCell::new(View::new(json));
    let reports = join_all(peers.iter().map(|peer| ask(peer, request, &view))).await;
    view.borrow_mut().clear();
    reports
}

async fn ask(peer: &Peer, request: &RotateRequest, view: &RefCell<View>) -> InstanceReport {
    let started = Instant::now();
    let deadline = started + PATIENCE + request.drain_timeout.unwrap_or_default();
    let tell = |step: &_| view.borrow_mut().step(&peer.name, step);
    match peer.client.rotate(request, deadline, tell).await {
        Ok(report) => report,
        Err(error) => InstanceReport {
            instance: peer.name.clone(),
            outcome: error.outcome(),
            error: Some(chain(&error)),
            keys: Vec::new(),
            adapters: Vec::new(),
            duration_ms: in_millis(started.elapsed()),
        },
    }
}

/// The whole of it. Where instances hold different versions of a key each has its row.
fn report(
    args: &Rotate,
    request: &RotateRequest,
    instances: Vec<InstanceReport>,
    took: Duration,
) -> RotationReport {
    let worst = instances.iter().map(|instance| instance.outcome).reduce(Outcome::worst);
    let keys: BTreeSet<_> = instances.iter().flat_map(|of| of.keys.clone()).collect();
    RotationReport {
        rotation_id: request.rotation.clone(),
        outcome: worst.unwrap_or(Outcome::Unreached),
        provider: args.provider.clone(),
        keys: keys.into_iter().collect(),
        instances,
        duration_ms: in_millis(took),
    }
}

fn table(report: &RotationReport) -> String {
    let mut text = format!(
        "rotation {}: {} after {}\n",
        report.rotation_id,
        token(&report.outcome),
        millis(Some(report.duration_ms))
    );
    let mut keys = Table::new(["secret", "from", "to"]);
    for key in &report.keys {
        let version = |version: &Option<String>| version.clone().unwrap_or_default();
        let name = match (&key.alias, &key.fallback) {
            (None, _) => key.key.clone(),
            (Some(alias), None) => format!("{alias} ({})", key.key),
            (Some(alias), Some(_)) => format!("{alias} ({}, fallback)", key.key),
        };
        keys.row([name, version(&key.from_version), version(&key.to_version)]);
    }
    if !report.keys.is_empty() {
        text.push_str(&format!("\n{}", keys.render()));
    }
    let mut adapters =
        Table::new(["instance", "adapter", "outcome", "generation", "prepare", "drain"]);
    for of in &report.instances {
        let instance = || of.instance.to_string();
        for adapter in &of.adapters {
            adapters.row([
                instance(),
                adapter.adapter.to_string(),
                token(&adapter.outcome),
                adapter.generation.to_string(),
                millis(adapter.prepare_ms),
                millis(adapter.drain_ms),
            ]);
        }
        if of.adapters.is_empty() {
            let none = String::new;
            adapters.row([instance(), none(), token(&of.outcome), none(), none(), none()]);
        }
    }
    text.push_str(&format!("\n{}", adapters.render()));
    text
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn in_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
