//! What each command does: one room for each.

mod rotate;
mod progress;
mod reach;
mod get;
mod list;
mod store;
mod set;
mod versions;
mod change;
#[cfg(test)]
mod double;
mod watch;
mod agent;
mod ending;
#[cfg(all(feature = "process", target_os = "linux"))]
mod run;
mod status;
mod check;
mod config;
mod template;
mod completions;

use std::future::Future;

use oneiric_core::settings::Settings;
use oneiric_runtime::Assembly;
use tokio::runtime::Builder;

use crate::cli::{Cli, Command, SecretsCommand, TemplateCommand};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::registry::registry;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Secrets(SecretsCommand::Rotate(args)) => sequential(rotate::run(&global, &args)),
        Command::Secrets(SecretsCommand::Get(args)) => sequential(get::run(&global, &args)),
        Command::Secrets(SecretsCommand::List(args)) => sequential(list::run(&global, &args)),
        Command::Secrets(SecretsCommand::Set(args)) => sequential(set::run(&global, &args)),
        Command::Secrets(SecretsCommand::Versions(args)) => {
            sequential(versions::run(&global, &args))
        }
        Command::Secrets(SecretsCommand::Promote(args)) => {
            sequential(change::promote(&global, &args))
        }
        Command::Secrets(SecretsCommand::Disable(args)) => {
            sequential(change::disable(&global, &args))
        }
        Command::Secrets(SecretsCommand::Enable(args)) => {
            sequential(change::enable(&global, &args))
        }
        Command::Secrets(SecretsCommand::Destroy(args)) => {
            sequential(change::destroy(&global, &args))
        }
        Command::Secrets(SecretsCommand::Watch(args)) => sequential(watch::run(&global, &args)),
        Command::Agent => parallel(agent::run(&global)),
        #[cfg(all(feature = "process", target_os = "linux"))]
        Command::Run(args) => run::run(&global, &args),
        Command::Status(args) => sequential(status::run(&global, &args)),
        Command::Config(args) => config::run(&global, &args),
        Command::Template(TemplateCommand::Check(args)) => template::check(&global, &args),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Runs a command that serves many at once.
fn parallel(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    drive(Builder::new_multi_thread(), command)
}

/// Runs a command that needs no threads of its own.
fn sequential(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    drive(Builder::new_current_thread(), command)
}

fn drive(mut builder: Builder, command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::FAILED, error))?;
    let exit = runtime.block_on(command);
    // A blocking call that hangs, such as a read from a dead mount, must not hold us up.
    runtime.shutdown_background();
    exit
}

/// Says what of a declaration of secrets is not heeded. To be called once something listens.
fn say_notes(settings: &Settings) {
    for note in settings.notes() {
        tracing::warn!(target: "oneiric", %note, "a declaration of secrets is not heeded in full");
    }
}

/// The providers of the settings, for a command that uses secrets here. Adapters are for agents:
/// their kinds need not be linked into this program.
fn providers(settings: &Settings) -> Result<Assembly> {
    let mut settings = settings.clone();
    settings.adapters.clear();
    if settings.providers.is_empty() {
        let error = Failure::new(Exit::FAILED, "the settings have no provider");
        return Err(error.remedy(
            "add a table such as [providers.files] to oneiric.toml, or name the file by --config",
        ));
    }
    Ok(Assembly::from_settings(&settings, &registry())?)
}
