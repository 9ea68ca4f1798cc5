//! Which instances are asked, and how.

use std::path::{Path, PathBuf};

use oneiric_core::InstanceId;
use oneiric_core::settings::Settings;
use oneiric_runtime::admin::{AdminClient, Endpoint, discover, runtime_dirs};
use oneiric_runtime::report::Outcome;

use crate::exit::{self, Exit};
use crate::failure::{Failure, Result};
use crate::output::tell;

/// An instance that is asked.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its name; made up from its endpoint until it says so itself, if it was named by that.
    pub(super) name: InstanceId,
    pub(super) client: AdminClient,
}

/// What was found where instances are looked for.
#[derive(Debug, Default)]
pub(super) struct Discovered {
    pub(super) peers: Vec<Peer>,
    /// Instances that have ended without removing their sockets.
    pub(super) stale: Vec<(InstanceId, Endpoint)>,
}

/// Where instances are looked for.
#[derive(Debug)]
pub(super) struct Reach {
    directories: Vec<PathBuf>,
    /// The socket of the settings, which may be anywhere.
    socket: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Reach {
    /// What the settings say.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            directories: runtime_dirs(settings.agent.runtime_dir.as_deref()),
            socket: settings.admin.socket.clone(),
            token_file: settings.admin.token_file.clone(),
        }
    }

    /// The same with another token.
    pub(super) fn with_token_file(mut self, file: Option<&Path>) -> Self {
        self.token_file = file.map(Path::to_owned).or(self.token_file);
        self
    }

    /// Every instance that is running where we look. What is not looked at is said.
    ///
    /// # Errors
    /// If the first of the directories cannot be read or trusted.
    pub(super) fn discovered(&self) -> Result<Discovered> {
        let mut discovered = Discovered::default();
        for (at, directory) in self.directories.iter().enumerate() {
            let found = match discover(directory) {
                Ok(found) => found,
                Err(error) if at == 0 => return Err(error.into()),
                Err(error) => {
                    tell(&format!("note: nobody is looked for there: {}", error.chain()));
                    continue;
                }
            };
            for found in found {
                match found.live {
                    true => discovered.peers.push(self.peer(found.instance, found.endpoint)),
                    false => discovered.stale.push((found.instance, found.endpoint)),
                }
            }
        }
        if let Some(socket) = self.socket.as_ref().filter(|socket| socket.exists()) {
            let endpoint = Endpoint::Unix(socket.clone());
            if discovered.peers.iter().all(|peer| *peer.client.endpoint() != endpoint) {
                discovered.peers.push(self.peer(made_up_name(&endpoint), endpoint));
            }
        }
        Ok(discovered)
    }

    /// These instances, running or not: each is a name or an endpoint.
    ///
    /// # Errors
    /// If one is neither.
    pub(super) fn named(&self, targets: &[String]) -> Result<Vec<Peer>> {
        let mut peers: Vec<Peer> = Vec::with_capacity(targets.len());
        for target in targets {
            let (name, endpoint) = match target.parse::<InstanceId>() {
                Ok(instance) => {
                    let name = format!("{instance}.sock");
                    let places = self.directories.iter().map(|of| of.join(&name));
                    let there = places.clone().find(|socket| socket.exists());
                    let socket = there.or_else(|| places.clone().next());
                    (instance, Endpoint::Unix(socket.expect("there is at least one directory")))
                }
                Err(_) => {
                    let endpoint = target.parse::<Endpoint>();
                    let endpoint = endpoint.map_err(|error| Failure::new(Exit::USAGE, error))?;
                    (made_up_name(&endpoint), endpoint)
                }
            };
            if peers.iter().all(|peer| *peer.client.endpoint() != endpoint) {
                peers.push(self.peer(name, endpoint));
            }
        }
        Ok(peers)
    }

    /// That no instance was found, and where was looked.
    pub(super) fn nobody(&self) -> Failure {
        let places: Vec<_> = self.directories.iter().map(|of| of.display().to_string()).collect();
        let mut message = format!("no running instance was found in {}", places.join(", "));
        if let Some(socket) = &self.socket {
            message.push_str(&format!(", nor at {}", socket.display()));
        }
        let failure = Failure::new(Exit::UNREACHED, message);
        match exit::remedy(Outcome::Unreached) {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }

    fn peer(&self, name: InstanceId, endpoint: Endpoint) -> Peer {
        let client = AdminClient::new(endpoint);
        let client = match &self.token_file {
            Some(file) => client.with_token_file(file),
            None => client,
        };
        Peer { name, client }
    }
}

/// A name for somebody of whom only the endpoint is known: its letters and digits.
fn made_up_name(endpoint: &Endpoint) -> InstanceId {
    let text = endpoint.to_string().to_ascii_lowercase();
    let text = text.split_once(':').map_or(text.as_str(), |(_, rest)| rest);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    let name: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    // The end of a path says more than its beginning.
    let name = &name[name.len().saturating_sub(60)..];
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    name.parse().unwrap_or_else(|_| "unnamed".parse().expect("it is a valid instance id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_name_to_show() {
        for (endpoint, name) in [
            ("/run/web 1/Admin.sock", "run-web-1-admin.sock"),
            ("http://127.0.0.1:7676", "127.0.0.1-7676"),
            ("http://[::1]:7676", "1--7676"),
            ("unix:/", "unnamed"),
            ("/ä/ö", "unnamed"),
        ] {
            assert_eq!(made_up_name(&endpoint.parse().unwrap()).as_str(), name);
        }
        let long = format!("/{}/a.sock", "x".repeat(200));
        assert!(made_up_name(&long.parse().unwrap()).as_str().ends_with("xx-a.sock"));
    }
}
