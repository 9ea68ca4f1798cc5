//! nginx as in the recipe, with its certificate and its password file.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::certificates::Issued;
use crate::operator::new_credential;
use crate::program::Place;
use crate::recipe::Recipe;

/// The secrets of the recipe.
pub(crate) const SITE: &str = "site.json";
pub(crate) const USERS: &str = "users";

/// How long it may take until a server answers, or has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// The recipe, installed.
pub(crate) struct Nginx {
    recipe: Recipe,
    program: OsString,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    pub(crate) fn install(place: &Place) -> Result<Self, String> {
        let program = std::env::var_os("ONEIRIC_NGINX_BIN").unwrap_or_else(|| "nginx".into());
        let test = format!("{} -t", program.display());
        let recipe = Recipe::new("nginx", place)?.with("nginx -t", &test);
        let (recipe, address) = recipe.with_port(&["127.0.0.1:443"], 443)?;
        // Nobody outside of this machine is to find it.
        let recipe = recipe.with("listen 443", &format!("listen {address}"));
        recipe.install("nginx.conf", "/etc/nginx/nginx.conf")?;
        for script in ["check.sh", "reload.sh", "acknowledge.sh"] {
            recipe.install(script, &format!("/etc/oneiric/nginx/{script}"))?;
        }
        for folder in ["/etc/nginx/secrets", "/run/oneiric", "/var/log/nginx", "/var/www/shop"] {
            recipe.folder(folder)?;
        }
        let page = recipe.path("/var/www/shop/index.html");
        fs::write(&page, "open\n").map_err(|error| format!("no page: {error}"))?;
        Ok(Self { recipe, program, address })
    }

    /// The section for the settings of the agent.
    pub(crate) fn adapter(&self) -> Result<String, String> {
        self.recipe.text("adapter.toml")
    }

    /// Where a path of the recipe really is.
    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.recipe.path(path)
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) async fn start(&self) -> Result<Server, String> {
        let mut command = Command::new(&self.program);
        command.arg("-e").arg(self.recipe.path("/var/log/nginx/error.log"));
        command.arg("-c").arg(self.recipe.path("/etc/nginx/nginx.conf"));
        command.args(["-g", "daemon off;"]);
        let log = self.recipe.path("/var/log/nginx/error.log");
        Server::start("nginx", command, self.address, &log).await
    }
}

/// A server in the foreground. Dropping it ends it and its workers.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
}

impl Server {
    pub(crate) async fn start(
        name: &'static str,
        mut command: Command,
        address: SocketAddr,
        log: &Path,
    ) -> Result<Self, String> {
        let said = fs::OpenOptions::new().append(true).create(true).open(log);
        let said = said.map_err(|error| format!("no log of {name}: {error}"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name} cannot be run: {error}"))?;
        let mut server = Self { name, child };
        let give_up = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            let ended = server.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > give_up {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{name} does not serve ({ended:?}): {said}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to end, and waits until it and its workers have.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        let name = self.name;
        if let Some(pid) = self.pid() {
            let kill = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
            kill.map_err(|error| format!("{name} cannot be asked to end: {error}"))?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.map(|_| ()).map_err(|_| format!("{name} does not end"))
    }
}

impl Drop for Server {
    /// It is asked to end, since workers of nginx outlive a master that is killed.
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let asked = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status();
        let give_up = Instant::now() + PATIENCE;
        while asked.is_ok() && Instant::now() < give_up && matches!(self.child.try_wait(), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A certificate with its key, as the secret of the recipes.
pub(crate) fn site(certificate: &Issued, key: &Issued) -> String {
    serde_json::json!({ "certificate": certificate.certificate, "key": key.key }).to_string()
}

/// A login of the site.
pub(crate) struct Login {
    /// For the password file.
    pub(crate) line: String,
    /// For requests.
    pub(crate) header: http::HeaderValue,
}

impl Login {
    /// One that nobody has had before; the hash is made as the recipe makes it.
    pub(crate) async fn new(user: &str) -> Result<Self, String> {
        let password = new_credential();
        let mut openssl = Command::new("openssl")
            .args(["passwd", "-apr1", "-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("openssl cannot be run: {error}"))?;
        let mut stdin = openssl.stdin.take().expect("its input is a pipe");
        let written = tokio::io::AsyncWriteExt::write_all(&mut stdin, password.as_bytes()).await;
        written.map_err(|error| format!("openssl does not read: {error}"))?;
        drop(stdin);
        let output = openssl.wait_with_output().await;
        let output = output.map_err(|error| format!("openssl does not end: {error}"))?;
        let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let line = format!("{user}:{hash}\n");
        let pair = format!("{user}:{password}");
        let header = http::HeaderValue::try_from(format!("Basic {}", base64(pair.as_bytes())));
        Ok(Self { line, header: header.expect("base64 fits into a header") })
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
