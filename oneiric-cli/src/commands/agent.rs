//! `oneiric agent`: the runtime of the settings file, until somebody stops it.

use std::io;
use std::sync::Arc;

use oneiric_core::LifecycleHook;
use oneiric_core::settings::Settings;
use oneiric_runtime::{Assembly, Runtime, default_instance};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::ending;
use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::registry::registry;
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global) -> Result<Exit> {
    let mut settings = global.settings()?;
    let instance = settings.agent.instance.get_or_insert_with(default_instance).clone();
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, Some(&instance))?;
    super::say_notes(&settings);
    let ended = serve(&settings).await;
    telemetry.finish().await;
    ended
}

async fn serve(settings: &Settings) -> Result<Exit> {
    let mut signals = Signals::listen().map_err(|error| Failure::new(Exit::FAILED, error))?;
    let Assembly { resolver, options, adapters } = Assembly::from_settings(settings, &registry())?;
    let (runtime, task) = options.build(resolver.clone())?;
    let keepers = adapters.clone();
    let shutdown = CancellationToken::new();
    let mut running = tokio::spawn(task.run(shutdown.clone()));
    let ended = tokio::select! {
        failed = start(&runtime, adapters) => Err(failed),
        _ = &mut running => {
            Err(Failure::new(Exit::FAILED, "the runtime ended by itself: this is a defect"))
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
    if !running.is_finished() {
        let _ = running.await;
    }
    ending::release_adapters(&keepers, settings.agent.drain_timeout).await;
    ending::give_back(&resolver).await;
    ended
}

/// Takes every adapter in, and then serves for ever; returns only with a failure.
async fn start(runtime: &Runtime, adapters: Vec<Arc<dyn LifecycleHook>>) -> Failure {
    let number = adapters.len();
    if let Err(error) = runtime.register_all(adapters).await {
        return error.into();
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
