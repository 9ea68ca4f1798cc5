//! A program that runs a child as its arguments say, for tests that need one of its own: to send it
//! signals, to kill it, to give it a terminal.
//!
//! `oneiric-process-rig once|hook [KEY=VALUE…] -- COMMAND…`, with the keys of `settings`; with
//! `ignores SIGNAL` it says whether it ignores one.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod service;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::Duration;

use oneiric_adapter_process::{
    Config, Launcher, OnChange, OnExit, OneShot, Orphans, ProcessHook, is_ignored, launcher,
};
use oneiric_core::{LifecycleHook as _, SecretRef, SecretSet, SecretValue, Version};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next().unwrap();
    if role == "launch" {
        return launcher::main(arguments);
    }
    match role.to_str() {
        Some("serve") => return service::serve(),
        Some("ignores") => return ignores(&arguments.next().unwrap()),
        Some("prove") => return service::prove().map_or_else(|code| code, |_| ExitCode::SUCCESS),
        _ => {}
    }
    let mut settings = Vec::new();
    for argument in arguments.by_ref() {
        if argument == "--" {
            break;
        }
        settings.push(argument);
    }
    let mut config = Config::new(arguments);
    let mut parts = Vec::new();
    for setting in &settings {
        apply(&mut config, &mut parts, setting);
    }
    let set = SecretSet::new(parts);
    match role.to_str() {
        Some("once") => once(&config, &set),
        Some("hook") => hook(config, &set),
        _ => panic!("there is no role {}", role.display()),
    }
}

fn ignores(signal: &OsStr) -> ExitCode {
    let signal = signal.to_str().unwrap().parse().unwrap();
    if is_ignored(signal) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn once(config: &Config, set: &SecretSet) -> ExitCode {
    let launcher = Launcher::new("/proc/self/exe", ["launch"]);
    match OneShot::new(config, set).unwrap().with_launcher(launcher).run() {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => ExitCode::from(127),
        Err(_) => ExitCode::from(126),
    }
}

/// Runs it as an adapter, until SIGTERM.
fn hook(mut config: Config, set: &SecretSet) -> ExitCode {
    config.on_change = Some(OnChange::Restart);
    let launcher = Launcher::new("/proc/self/exe", ["launch"]);
    let hook = ProcessHook::new("rig".parse().unwrap(), config).unwrap().with_launcher(launcher);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).unwrap();
        let deadline = || tokio::time::Instant::now() + Duration::from_secs(60);
        hook.prepare(set).await.unwrap().commit().drain(deadline()).await;
        let code = tokio::select! {
            _ = stop.recv() => 0,
            ending = hook.ended() => ending.code(),
        };
        hook.release(deadline()).await;
        ExitCode::from(code)
    })
}

/// `env.NAME=secret`, `files.NAME=secret`, `fds.NAME=secret`, `orphans=keep`, `inherit=no`.
fn apply(config: &mut Config, parts: &mut Vec<(SecretRef, SecretValue, Version)>, setting: &OsStr) {
    let bytes = setting.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').unwrap();
    let (key, value) = (std::str::from_utf8(&bytes[..at]).unwrap(), &bytes[at + 1..]);
    let mut secret = || {
        let reference: SecretRef = format!("rig:{}", parts.len()).parse().unwrap();
        parts.push((reference.clone(), SecretValue::from(value), Version::numbered(1)));
        reference
    };
    let text = || std::str::from_utf8(value).unwrap();
    match key.split_once('.') {
        Some(("env", name)) => _ = config.env.insert(name.to_owned(), secret()),
        Some(("files", name)) => _ = config.files.insert(name.to_owned(), secret()),
        Some(("fds", name)) => _ = config.fds.insert(name.to_owned(), secret()),
        _ => match key {
            "orphans" if text() == "keep" => config.orphans = Some(Orphans::Keep),
            "orphans" => config.orphans = Some(Orphans::Stop),
            "leave" => config.on_exit = Some(OnExit::Leave),
            "inherit" => config.inherit_env = false,
            "umask" => config.umask = Some(u32::from_str_radix(text(), 8).unwrap()),
            _ => panic!("there is no setting {key}"),
        },
    }
}
