//! `oneiric run`: a command with secrets, as if it had been called in our place; and, where it is told
//! so, moved to new ones when they change.

use std::error::Error as StdError;
use std::ffi::OsStr;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;

use oneiric_adapter_process::{
    Config, Ending, OnChange, OnExit, OneShot, ProcessHook, Ready, SignalName, is_ignored,
};
use oneiric_core::settings::{SecretSettings, Settings};
use oneiric_core::{AdapterId, AliasId, SecretRef, SecretSet};
use oneiric_runtime::{Assembly, default_instance};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{ending, providers, say_notes};
use crate::cli::{Global, Run};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::launch::launcher;
use crate::telemetry::Telemetry;

/// The kind of the adapters that run a command.
const KIND: &str = "process";

pub(super) fn run(global: &Global, args: &Run) -> Result<Exit> {
    let settings = global.settings()?;
    let config = config(&settings, args)?;
    if config.secrets().is_empty() {
        let failure = Failure::new(Exit::USAGE, "there is no secret to run the command with");
        return Err(failure
            .remedy("name some by --env, --file or --fd, or give them an alias in the settings"));
    }
    if keeps(&config) && config.on_exit == Some(OnExit::Leave) && config.listen.is_empty() {
        return once(global, &settings, config);
    }
    super::sequential(supervise(global, settings, config, name(args)))
}

/// What the settings and the command line say together.
fn config(settings: &Settings, args: &Run) -> Result<Config> {
    let mut config = match &args.adapter {
        Some(id) => section(settings, id)?,
        None => {
            let mut config = Config::new([]);
            config.on_change = Some(choice(&args.on_change));
            config.env = args.env.iter().cloned().collect();
            config.files = args.file.iter().cloned().collect();
            config.fds = args.fd.iter().cloned().collect();
            if config.secrets().is_empty() {
                let variable = |(alias, of): (&AliasId, &SecretSettings)| {
                    (of.variable(alias), SecretRef::from(alias.clone()))
                };
                config.env = settings.secrets.iter().map(variable).collect();
            }
            config
        }
    };
    if !args.command.is_empty() {
        config.command.clone_from(&args.command);
    }
    if args.adapter.is_none() {
        config.signal = signal_on_change(&config, args.signal.as_deref())?;
    }
    if args.ready_port.is_some() || args.ready_command.is_some() || args.ready_file.is_some() {
        let mut ready = Ready::default();
        ready.port = args.ready_port.as_deref().map(address);
        let shell = |command: &String| ["sh".into(), "-c".into(), command.clone()].to_vec();
        ready.command = args.ready_command.as_ref().map(shell);
        ready.file.clone_from(&args.ready_file);
        config.ready = Some(ready);
        if keeps(&config) {
            let message = "the ways to be ready are for a command that is moved";
            return Err(Failure::new(Exit::USAGE, message).remedy("say how by --on-change"));
        }
    }
    config.listen.extend(args.listen.iter().cloned());
    config.kill_timeout = args.kill_timeout.unwrap_or(config.kill_timeout);
    // Whoever has called us calls us again if he wants to.
    config.on_exit.get_or_insert(OnExit::Leave);
    Ok(config)
}

/// Whether nothing is to happen when a secret changes.
fn keeps(config: &Config) -> bool {
    matches!(config.on_change, None | Some(OnChange::Keep))
}

/// What tells a command of new files: `HUP`, unless another is named.
fn signal_on_change(config: &Config, named: Option<&str>) -> Result<Option<SignalName>> {
    match (config.on_change == Some(OnChange::Signal), named) {
        (true, named) => {
            let name = SignalName::from_str(named.unwrap_or("HUP"));
            Ok(Some(name.map_err(|error| Failure::new(Exit::USAGE, error))?))
        }
        (false, None) => Ok(None),
        (false, Some(_)) => {
            let failure = Failure::new(Exit::USAGE, "`--signal` has no use here");
            Err(failure.remedy("it goes with --on-change signal"))
        }
    }
}

fn section(settings: &Settings, id: &AdapterId) -> Result<Config> {
    let Some(section) = settings.adapters.get(id) else {
        return Err(Failure::new(Exit::FAILED, format!("the settings have no adapter `{id}`")));
    };
    if section.kind() != KIND {
        let kind = section.kind();
        let message = format!("the adapter `{id}` is of the kind `{kind}`, and not `{KIND}`");
        return Err(Failure::new(Exit::FAILED, message));
    }
    Ok(section.parse()?)
}

fn choice(text: &str) -> OnChange {
    match text {
        "overlap" => OnChange::Overlap,
        "restart" => OnChange::Restart,
        "signal" => OnChange::Signal,
        _ => OnChange::Keep,
    }
}

/// A port alone is one of this machine.
fn address(text: &str) -> String {
    match text.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.to_owned(),
    }
}

/// What the command is called in reports.
fn name(args: &Run) -> AdapterId {
    let program = args.command.first().map(std::path::Path::new);
    let name = program.and_then(std::path::Path::file_name).unwrap_or_default();
    let name = name.to_string_lossy().to_ascii_lowercase();
    let id = args.adapter.clone().or_else(|| name.parse().ok());
    id.unwrap_or_else(|| "command".parse().expect("it is a valid adapter id"))
}

/// Nothing is to happen when a secret changes: no watcher, no endpoint, and no thread but those that
/// read the secrets.
fn once(global: &Global, settings: &Settings, mut config: Config) -> Result<Exit> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::FAILED, error))?;
    let (resolver, secrets, telemetry) = runtime.block_on(async {
        let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
        say_notes(settings);
        let resolver = providers(settings)?.resolver;
        let secrets = resolver.get_set(&config.secrets()).await?;
        Ok::<_, Failure>((resolver, secrets, telemetry))
    })?;
    leave_out_what_is_not_there(&mut config, &secrets);
    let shot = OneShot::new(&config, &secrets);
    let shot = shot.map_err(|error| Failure::new(Exit::FAILED, error))?.with_launcher(launcher());
    drop(secrets);
    let ended = beside(&runtime, || shot.run());
    runtime.block_on(async {
        ending::close(&resolver).await;
        telemetry.finish().await;
    });
    // A blocking call that hangs, such as a read from a dead mount, must not hold us up.
    runtime.shutdown_background();
    let ended = ended.map_err(|error| {
        let exit = unrunnable(&error);
        let program = config.command.first().map(|program| program.to_string_lossy());
        let program = program.unwrap_or_default();
        Failure::new(exit, format!("`{program}` cannot be run ({error})"))
    })?;
    Ok(Exit(ended.code()))
}

/// Does something that blocks, while what providers have left running goes on: a lease that is kept
/// alive.
fn beside<T>(runtime: &Runtime, blocking: impl FnOnce() -> T) -> T {
    if runtime.metrics().num_alive_tasks() == 0 {
        return blocking();
    }
    let over = CancellationToken::new();
    std::thread::scope(|scope| {
        scope.spawn(|| runtime.block_on(over.cancelled()));
        // It ends however that ends.
        let _guard = over.clone().drop_guard();
        blocking()
    })
}

/// A secret that is not required, and is not there.
fn leave_out_what_is_not_there(config: &mut Config, secrets: &SecretSet) {
    for names in [&mut config.env, &mut config.files, &mut config.fds] {
        names.retain(|_, reference| secrets.get(reference).is_some());
    }
}

/// The runtime, with the command as its one adapter.
async fn supervise(
    global: &Global,
    mut settings: Settings,
    config: Config,
    id: AdapterId,
) -> Result<Exit> {
    let instance = settings.agent.instance.get_or_insert_with(default_instance).clone();
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, Some(&instance))?;
    say_notes(&settings);
    let ended = attend(&settings, config, id).await;
    telemetry.finish().await;
    ended.map(|ended| Exit(ended.code()))
}

async fn attend(settings: &Settings, config: Config, id: AdapterId) -> Result<Ending> {
    if let Some(program) = config.command.first().filter(|program| is_nowhere(program)) {
        let message = format!("`{}` cannot be run (there is no such command)", program.display());
        return Err(Failure::new(Exit::NO_COMMAND, message));
    }
    let mut signals = Signals::listen()?;
    let ends_with_the_command = config.on_exit == Some(OnExit::Leave);
    let Assembly { resolver, options, .. } = providers(settings)?;
    let hook = Arc::new(ProcessHook::new(id, config)?.with_launcher(launcher()));
    let (runtime, task) = options.build(resolver.clone())?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    let mut early = Vec::new();
    let started = {
        let mut registered = pin!(runtime.register(Arc::clone(&hook) as _));
        loop {
            tokio::select! {
                started = &mut registered => break started.map_err(|error| match unrunnable(&error) {
                    Exit::FAILED => error.into(),
                    exit => Failure::new(exit, error),
                }),
                // The command is being started, and is not known by its number yet.
                (name, ends) = signals.next() => match ends {
                    false => early.push(name),
                    true => {
                        let exit = Exit(u8::try_from(128 + name.number()).unwrap_or(u8::MAX));
                        let message = "a signal came before the command was ready";
                        break Err(Failure::new(exit, message));
                    }
                },
            }
        }
    };
    early.into_iter().for_each(|name| hook.signal(name));
    let ended = match started {
        Err(failure) => Err(failure),
        Ok(()) => loop {
            tokio::select! {
                ending = hook.ended() => break Ok(ending),
                // One that would be started again is ended by the release.
                (name, ends) = signals.next() => match ends && !ends_with_the_command {
                    true => break Ok(Ending::Exited(0)),
                    false => hook.signal(name),
                },
            }
        },
    };
    tracing::info!(target: "oneiric", "shutting down");
    shutdown.cancel();
    let wound_up = async {
        let _ = running.await;
        ending::release_adapters(&[hook], settings.agent.drain_timeout).await;
        ending::give_back(&resolver).await;
    };
    tokio::select! {
        () = wound_up => ended,
        // Whoever asks again does not want to wait: what is dropped is killed.
        name = signals.next_end() => Ok(Ending::Signalled(name.number())),
    }
}

/// Whether a command is named that is in no folder of `PATH`. Where a path is given, the start says it.
fn is_nowhere(program: &OsStr) -> bool {
    // Without it the system has a default of its own.
    let Some(path) = std::env::var_os("PATH") else { return false };
    !program.as_encoded_bytes().contains(&b'/')
        && !std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The code of a shell for a command that cannot be run, if this error says that.
fn unrunnable(error: &(dyn StdError + 'static)) -> Exit {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => return Exit::NO_COMMAND,
            Some(io::ErrorKind::PermissionDenied) => return Exit::CANNOT_RUN,
            _ => cause = error.source(),
        }
    }
    Exit::FAILED
}

/// What is passed on to a command that is looked after.
const FORWARDED: [(&str, bool); 7] = [
    ("TERM", true),
    ("INT", true),
    ("QUIT", true),
    ("HUP", false),
    ("USR1", false),
    ("USR2", false),
    ("WINCH", false),
];

/// The signals that come for the command, each with whether it is to end it.
struct Signals(Vec<(SignalName, bool, Signal)>);

impl Signals {
    fn listen() -> Result<Self> {
        let failed = |error| Failure::new(Exit::FAILED, error);
        let mut listening = Vec::new();
        for (name, ends) in FORWARDED {
            let name = SignalName::from_str(name)?;
            // What is ignored stays so, for the command as well: `nohup` relies on it.
            if !is_ignored(name) {
                let stream = signal(SignalKind::from_raw(name.number())).map_err(failed)?;
                listening.push((name, ends, stream));
            }
        }
        Ok(Self(listening))
    }

    /// The next one. It may be dropped at any time.
    async fn next(&mut self) -> (SignalName, bool) {
        poll_fn(|context| {
            for (name, ends, stream) in &mut self.0 {
                if stream.poll_recv(context) == Poll::Ready(Some(())) {
                    return Poll::Ready((*name, *ends));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that is to end the command.
    async fn next_end(&mut self) -> SignalName {
        loop {
            if let (name, true) = self.next().await {
                return name;
            }
        }
    }
}
