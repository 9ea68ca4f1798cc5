//! Where the endpoint listens and whom it answers.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::settings::Settings;
use oneiric_core::{Error, ErrorKind, InstanceId, Result};

use super::directory::runtime_dir;
use super::guard::{Guard, Tokens};
use super::server::{AdminServer, Limits};
use super::{socket, token};

/// Where the admin endpoint listens and whom it answers. The defaults are those of the settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdminOptions {
    /// The unix socket; `<runtime_dir>/<instance>.sock` if `None`.
    pub socket: Option<PathBuf>,
    /// Where sockets live; see [`runtime_dir`] for what `None` means.
    pub runtime_dir: Option<PathBuf>,
    /// A loopback address to listen on as well. It needs a `token_file`.
    pub listen: Option<SocketAddr>,
    /// The file with the token that gives every right. It is read anew for each request, so that
    /// it can be replaced while the endpoint runs.
    pub token_file: Option<PathBuf>,
    /// The file with a token that gives the right to read only.
    pub read_token_file: Option<PathBuf>,
    /// The `Host` headers that are answered, with any port or none.
    pub allowed_hosts: Vec<String>,
    /// How many connections each listener serves at once; more are turned away.
    pub max_connections: usize,
    /// How long a client may take to send its request.
    pub read_timeout: Duration,
    /// How long a shutdown waits for requests that are running.
    pub shutdown_grace: Duration,
}

impl AdminOptions {
    /// What the settings say.
    pub fn from_settings(settings: &Settings) -> Self {
        let admin = &settings.admin;
        Self {
            socket: admin.socket.clone(),
            runtime_dir: settings.agent.runtime_dir.clone(),
            listen: admin.listen,
            token_file: admin.token_file.clone(),
            read_token_file: admin.read_token_file.clone(),
            allowed_hosts: admin.allowed_hosts.clone(),
            shutdown_grace: settings.agent.shutdown_grace,
            ..Self::default()
        }
    }

    /// Binds the sockets. Nothing is accepted before [`AdminServer::run`].
    ///
    /// The directory of the unix socket is made if it is not there, for this user alone. A socket
    /// that a dead process left behind is replaced, and so are, in a runtime directory, those of
    /// others.
    ///
    /// # Errors
    /// `Conflict` if an instance of this name is running, `Invalid` for a path, a directory, an
    /// address or a token file that cannot be trusted or used, `Unavailable` if the system
    /// refuses; saying where and why.
    pub fn bind(self, instance: &InstanceId) -> Result<AdminServer> {
        let tokens = self.token_file.map(|admin| Tokens { admin, read: self.read_token_file });
        let tcp = match (self.listen, &tokens) {
            (Some(address), Some(tokens)) => Some(bind_tcp(address, tokens)?),
            (Some(address), None) => {
                let message = format!(
                    "the admin endpoint cannot listen on {address} without a token file: whoever \
                     is on this machine can reach a TCP port"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            (None, _) => None,
        };
        // A directory that is named for one socket alone may be for other things as well.
        let sweeps = self.socket.is_none();
        let path = self.socket.unwrap_or_else(|| {
            let directory = runtime_dir(self.runtime_dir.as_deref());
            directory.join(format!("{instance}.sock"))
        });
        let (unix, file) = socket::bind(&path, instance, sweeps)?;
        let limits = Limits {
            connections: self.max_connections,
            read_timeout: self.read_timeout,
            grace: self.shutdown_grace,
        };
        Ok(AdminServer::new(unix, file, tcp, Guard::new(self.allowed_hosts, tokens), limits))
    }
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self {
            socket: None,
            runtime_dir: None,
            listen: None,
            token_file: None,
            read_token_file: None,
            allowed_hosts: ["localhost", "127.0.0.1", "[::1]"].map(String::from).into(),
            max_connections: 64,
            read_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Binds a loopback address. The token files are read once, so that a wrong one is found now and
/// not at the first request.
fn bind_tcp(address: SocketAddr, tokens: &Tokens) -> Result<TcpListener> {
    if !address.ip().to_canonical().is_loopback() {
        let message = format!(
            "the admin endpoint cannot listen on {address}: it is not a loopback address, and a \
             token sent over a network in clear text is a token given away"
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    token::read(&tokens.admin)?;
    tokens.read.as_deref().map(token::read).transpose()?;
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error: std::io::Error| {
        let message = format!("the admin endpoint cannot listen on {address}");
        Error::with_source(ErrorKind::Unavailable, message, error)
    })
}
