//! `oneiric agent`: the runtime of the settings file, until somebody stops it.

use std::io;
use std::sync::Arc;

use oneiric_core::{InstanceId, LifecycleHook};
use oneiric_runtime::{Assembly, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::registry::registry;
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global) -> Result<Exit> {
    let mut settings = global.settings()?;
    let instance = settings.agent.instance.get_or_insert_with(own_name).clone();
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, Some(&instance))?;
    let assembly = Assembly::from_settings(&settings, &registry());
    // Its sums are asked for once more at the end, and live no longer than it does.
    let counted = assembly.as_ref().ok().map(|assembly| assembly.resolver.clone());
    let ended = match assembly {
        Ok(assembly) => serve(assembly).await,
        Err(error) => Err(error.into()),
    };
    telemetry.finish().await;
    drop(counted);
    ended
}

async fn serve(assembly: Assembly) -> Result<Exit> {
    let mut signals = Signals::listen().map_err(|error| Failure::new(Exit::FAILED, error))?;
    let Assembly { resolver, options, adapters } = assembly;
    let (runtime, task) = options.build(resolver)?;
    let shutdown = CancellationToken::new();
    let mut running = tokio::spawn(task.run(shutdown.clone()));
    let ended = tokio::select! {
        failed = start(&runtime, adapters) => Err(failed),
        _ = &mut running => {
            return Err(Failure::new(Exit::FAILED, "the runtime ended by itself: this is a defect"));
        }
        number = signals.next() => {
            tracing::info!(target: "oneiric", signal = number, "shutting down");
            Ok(Exit::DONE)
        }
    };
    shutdown.cancel();
    // Whoever asks twice does not want to wait.
    tokio::spawn(async move {
        let number = signals.next().await;
        std::process::exit(128 + number);
    });
    let _ = running.await;
    ended
}

/// Takes every adapter in, and then serves for ever; returns only with a failure.
async fn start(runtime: &Runtime, adapters: Vec<Arc<dyn LifecycleHook>>) -> Failure {
    let number = adapters.len();
    for adapter in adapters {
        let id = adapter.id().clone();
        if let Err(error) = runtime.register(adapter).await {
            return error.context(format!("adapter `{id}` cannot start")).into();
        }
    }
    let instance = runtime.instance();
    tracing::info!(target: "oneiric", %instance, adapters = number, "ready");
    std::future::pending().await
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// A name that is this process's alone: host and process id. Telemetry needs it before there is
/// a runtime.
fn own_name() -> InstanceId {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let host: String = host.chars().take(40).map(|c| if allowed(c) { c } else { '-' }).collect();
    let name = format!("{}-{}", host.trim_matches('-'), std::process::id());
    name.trim_start_matches('-').parse().expect("what is left is a valid instance id")
}
