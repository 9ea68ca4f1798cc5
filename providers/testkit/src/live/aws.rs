//! Private servers that speak the API of AWS: moto and ministack, written by different people, each
//! with faults of its own.

use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Folder, PATIENCE, PORT_ATTEMPTS, cannot, free_port, run, write_private};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsKind {
    /// [moto](https://github.com/getmoto/moto), 5.2.
    Moto,
    /// ministack, 1.5.
    Ministack,
}

impl AwsKind {
    /// Its name, as in the names of suites.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::Ministack => "ministack",
        }
    }
}

/// A private server with an empty account, on a free port of 127.0.0.1. It takes any credential.
///
/// Dropping it stops the server and forgets everything, so keep it in the test and not in a
/// `static`.
#[derive(Debug)]
pub struct Aws {
    server: Child,
    port: u16,
    bin: PathBuf,
    folder: Folder,
}

/// The region that its callers use.
const REGION: &str = "eu-west-1";

impl Aws {
    /// Starts a server. Blocks for a few seconds.
    ///
    /// # Errors
    /// Why it cannot be had, in one sentence, for [`require`](super::require).
    pub fn start(kind: AwsKind) -> Result<Self, String> {
        let python = std::env::var_os("ONEIRIC_PYTHON").map(PathBuf::from);
        let bin = python.as_deref().and_then(Path::parent).map(Path::to_owned);
        let bin = bin.ok_or("there is no ONEIRIC_PYTHON with the servers beside it")?;
        let program = match kind {
            AwsKind::Moto => "moto_server",
            AwsKind::Ministack => "ministack",
        };
        if !bin.join(program).is_file() {
            return Err(format!("ONEIRIC_PYTHON has no `{program}` beside it"));
        }
        let folder = Folder::create("aws")?;
        let credentials = "[default]\naws_access_key_id = private\naws_secret_access_key = any\n";
        write_private(&folder.path().join("credentials"), credentials.as_bytes())?;
        let mut why = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let log = folder.path().join("log");
            let out = File::create(&log).map_err(|error| cannot("create", &log, &error))?;
            let errors = out.try_clone().map_err(|error| cannot("share", &log, &error))?;
            let mut command = clean(&bin.join(program), &folder);
            match kind {
                AwsKind::Moto => {
                    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                }
                // It listens on all addresses unless it is told not to, and on a port for devices.
                AwsKind::Ministack => {
                    command
                        .env("BIND_HOST", "127.0.0.1")
                        .env("GATEWAY_PORT", port.to_string())
                        .env("IOT_MTLS_ENABLED", "0")
                        .env("SERVICES", "secretsmanager,sqs,sts");
                }
            }
            command.stdin(Stdio::null()).stdout(out).stderr(errors);
            let mut server = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
            match wait_until_ready(&mut server, &log, port) {
                Ok(()) => return Ok(Self { server, port, bin, folder }),
                // Somebody else may have taken the port.
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Where it is, as a URL.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The region that its callers use.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// A file of credentials, of which any will do, for the profile `default`.
    pub fn credentials_file(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// Runs AWS's own command line, and answers with what it printed.
    ///
    /// # Errors
    /// What it printed when it failed.
    pub fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.client("aws");
        command.arg("--endpoint-url").arg(self.address()).args(arguments);
        printed(command, b"")
    }

    /// Runs a program in Python that has a `client`, boto3's own for this service.
    ///
    /// # Errors
    /// What it printed when it failed.
    pub fn boto3(&self, service: &str, program: &str) -> Result<String, String> {
        let head = format!(
            "import boto3, json\nclient = boto3.client({service:?}, endpoint_url={:?})\n",
            self.address()
        );
        let mut command = self.python();
        command.arg("-");
        printed(command, format!("{head}{program}").as_bytes())
    }

    /// The Python that has boto3, with the credentials and the region that it needs.
    pub fn python(&self) -> Command {
        self.client("python")
    }

    fn client(&self, program: &str) -> Command {
        let mut command = clean(&self.bin.join(program), &self.folder);
        command
            .env("AWS_SHARED_CREDENTIALS_FILE", self.credentials_file())
            .env("AWS_CONFIG_FILE", self.folder.path().join("config"))
            .env("AWS_DEFAULT_REGION", REGION);
        command
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A program without the caller's own settings for AWS and for the servers.
fn clean(program: &Path, folder: &Folder) -> Command {
    let mut command = Command::new(program);
    let own = |name: &std::ffi::OsStr| {
        let name = name.as_encoded_bytes();
        [&b"AWS_"[..], b"MOTO_", b"MINISTACK_", b"PYTHON"].iter().any(|of| name.starts_with(of))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
        command.env_remove(name);
    }
    command.env("HOME", folder.path()).current_dir(folder.path());
    command
}

fn printed(command: Command, input: &[u8]) -> Result<String, String> {
    let output = run(command, input)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Waits until the server accepts connections.
fn wait_until_ready(server: &mut Child, log: &Path, port: u16) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Ok(Some(status)) = server.try_wait() {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("the server ended with {status}: {}", text.trim()));
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    Err(format!("the server was not ready after {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_servers_answer_amazons_own_clients() {
        for kind in [AwsKind::Moto, AwsKind::Ministack] {
            let suite = kind.name();
            let aws = match Aws::start(kind) {
                Ok(aws) => aws,
                Err(why) => return crate::live::require(suite, &why),
            };
            let program = "print(client.create_secret(Name='a', SecretString='x')['Name'])";
            assert_eq!(aws.boto3("secretsmanager", program).unwrap(), "a");
            let get = ["secretsmanager", "get-secret-value", "--secret-id", "a"];
            let query = ["--query", "SecretString", "--output", "text"];
            assert_eq!(aws.cli(&[&get[..], &query].concat()).unwrap(), "x", "{suite}");
            assert!(aws.cli(&["secretsmanager", "get-secret-value", "--secret-id", "b"]).is_err());
            let (folder, port) = (aws.folder.path().to_owned(), aws.port());
            drop(aws);
            assert!(!folder.exists());
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        }
    }
}
