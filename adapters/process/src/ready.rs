//! How it is known that a child serves.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oneiric_core::HookError;
use oneiric_subprocess::Step;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{Config, Ready};
use crate::generation::Generation;
use crate::leader::Leader;
use crate::processes;

/// How long a child must live if nothing else is said of when it is ready.
const LIVED: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a file must not change to count as written.
const WRITTEN: Duration = Duration::from_millis(20);
/// The exit codes of a child that say nothing about its secrets: that all is well, that it could not
/// do its work now (`EX_TEMPFAIL` of `sysexits.h`), and that it could not be run, as shells and our
/// launcher put it.
const NOT_THE_SECRETS: [i32; 4] = [0, 75, 126, 127];

/// What is looked for, with what there was before the child was touched.
pub(crate) struct Watch<'a> {
    config: &'a Config,
    before: Before,
}

enum Before {
    Nothing,
    /// Whether somebody else took connections there.
    Port {
        address: SocketAddr,
        taken: bool,
    },
    File {
        path: PathBuf,
        stamp: Option<Stamp>,
    },
}

type Stamp = (u64, u64, i64, i64);

impl<'a> Watch<'a> {
    /// Before a child is started.
    pub(crate) async fn of_a_start(config: &'a Config) -> Self {
        let mut watch = Self::of_a_signal(config);
        if let Before::Port { address, taken } = &mut watch.before {
            // Where there are several, each is somebody else to the others.
            *taken = config.instances > 1 || connects(*address).await;
        }
        watch
    }

    /// Before a child is signalled.
    pub(crate) fn of_a_signal(config: &'a Config) -> Self {
        let ready = config.ready.as_ref();
        let port = ready.and_then(|ready| ready.port.as_ref());
        let file = ready.and_then(|ready| ready.file.as_ref());
        let before = if let Some(port) = port {
            let address = port.parse().expect("an address was read from the settings");
            Before::Port { address, taken: false }
        } else if let Some(file) = file {
            let dir = config.working_dir.as_deref().unwrap_or(Path::new(""));
            let path = dir.join(file);
            Before::File { stamp: stamp(&path), path }
        } else {
            Before::Nothing
        };
        Self { config, before }
    }

    /// Waits until the child is ready.
    ///
    /// # Errors
    /// *Refused* if it exits before that with a code that blames the secrets, and *failed* otherwise:
    /// it could not do its work, was ended by a signal, or is not ready in time.
    pub(crate) async fn wait(
        &self,
        child: &Leader,
        generation: &Generation,
        instance: u32,
    ) -> Result<(), HookError> {
        let looking = async {
            match &self.config.ready {
                Some(ready) => self.look_until(ready, child, generation, instance).await,
                None => {
                    sleep(LIVED).await;
                    Ok(())
                }
            }
        };
        let ending = tokio::select! {
            biased;
            ending = child.ended() => ending,
            looked = looking => match child.look() {
                Some(ending) => ending,
                None => return looked,
            },
        };
        let message = format!("the process {ending} before it was ready");
        Err(match ending {
            crate::Ending::Exited(code) if !NOT_THE_SECRETS.contains(&code) => {
                HookError::refused(message)
            }
            _ => HookError::failed(message),
        })
    }

    async fn look_until(
        &self,
        ready: &Ready,
        child: &Leader,
        generation: &Generation,
        instance: u32,
    ) -> Result<(), HookError> {
        let deadline = Instant::now() + ready.timeout;
        let mut said = None;
        let looking = async {
            loop {
                match self.look(ready, deadline, child, generation, instance).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => said = Some(error),
                }
                sleep(ready.interval).await;
            }
        };
        if timeout_at(deadline, looking).await.is_ok() {
            return Ok(());
        }
        let time = humantime::format_duration(ready.timeout);
        let said = said.map(|error| format!(": {error}")).unwrap_or_default();
        Err(HookError::failed(format!("the process is not ready after {time}{said}")))
    }

    async fn look(
        &self,
        ready: &Ready,
        deadline: Instant,
        child: &Leader,
        generation: &Generation,
        instance: u32,
    ) -> Result<bool, HookError> {
        match &self.before {
            Before::Port { address, taken } => {
                // Where somebody else answers, only the child's own socket proves anything.
                let own = || processes::listens(&child.members(), address.port());
                Ok(connects(*address).await && (!taken || own().unwrap_or(true)))
            }
            Before::File { path, stamp: before } => {
                let now = stamp(path);
                if now.is_none() || now == *before {
                    return Ok(false);
                }
                // Who empties a file and then writes it changes it twice.
                sleep(WRITTEN).await;
                Ok(stamp(path) == now)
            }
            Before::Nothing => {
                let Some(argv) = &ready.command else { return Ok(true) };
                let limit = deadline.saturating_duration_since(Instant::now());
                let step = Step {
                    name: "ready.command",
                    argv,
                    limit,
                    working_dir: None,
                    pass_env: &[],
                    env: &[],
                };
                generation.run(&step, self.config, Some(instance)).await.map(|()| true)
            }
        }
    }
}

async fn connects(address: SocketAddr) -> bool {
    let connected = timeout(CONNECT, tokio::net::TcpStream::connect(address)).await;
    let connected = connected.ok().and_then(Result::ok).map(tokio::net::TcpStream::into_std);
    // A connection to oneself, of two ephemeral ports that met, is none.
    let is_another = |stream: &TcpStream| stream.local_addr().ok() != stream.peer_addr().ok();
    connected.and_then(Result::ok).is_some_and(|stream| is_another(&stream))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}
