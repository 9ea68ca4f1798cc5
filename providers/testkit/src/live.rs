//! Real servers for live suites, privately: each with a temporary folder of its own.

mod aws;
mod cluster;
mod openbao;
mod redis;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use aws::{Aws, AwsKind};
pub use cluster::OpenBaoCluster;
pub use openbao::OpenBao;
pub use redis::Redis;

/// How often another port is tried when somebody else took the one that was free a moment ago.
const PORT_ATTEMPTS: usize = 5;
/// How long a server may take until it accepts connections, and how long to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reports that a live suite cannot run: a `SKIPPED` line that no output capture hides.
///
/// # Panics
/// Where `ONEIRIC_REQUIRE_LIVE=1`, since there a suite that does not run is a failure.
pub fn require(suite: &str, why: &str) {
    assert!(
        std::env::var_os("ONEIRIC_REQUIRE_LIVE").is_none_or(|value| value != "1"),
        "{suite} is required and cannot run: {why}"
    );
    // Not `eprintln!`: the test harness captures that of a test which passes.
    let _ = writeln!(io::stderr(), "SKIPPED {suite}: {why}");
}

/// A private PostgreSQL: its own cluster, on a free port of 127.0.0.1, with SCRAM logins only.
///
/// Dropping it stops the server at once and removes the folder, so keep it in the test and not in
/// a `static`. The superuser is `admin` and the database `postgres`.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    port: u16,
    admin_password: String,
    bin: Binaries,
    dir: PrivateDir,
}

impl Postgres {
    /// Makes a cluster and starts it. Blocks for a few seconds.
    ///
    /// # Errors
    /// Why it cannot be had, in one sentence, for [`require`].
    pub fn start() -> Result<Self, String> {
        let bin = Binaries::find()?;
        let dir = PrivateDir::create(&bin)?;
        let admin_password = random_hex()?;
        init_cluster(&bin, &dir, &admin_password)?;
        let (server, port) = start_server(&bin, &dir)?;
        let postgres = Self { server, port, admin_password, bin, dir };
        postgres.write_passfile()?;
        Ok(postgres)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the superuser `admin`.
    pub fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// Runs statements as `admin` with the `psql` client, each in its own transaction, and answers
    /// with the rows: columns separated by `|`, no heading.
    ///
    /// # Errors
    /// What `psql` printed when the first statement failed.
    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let mut command = self.bin.client("psql");
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse"])
            .args(["-U", "admin", "-d", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(&self.dir.path)
            .env("PGPASSFILE", self.passfile());
        let output = run(command, sql.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn passfile(&self) -> PathBuf {
        self.dir.path.join("passfile")
    }

    /// The password reaches the client through a file: an environment can be read by others.
    fn write_passfile(&self) -> Result<(), String> {
        let line = format!("*:*:*:admin:{}\n", self.admin_password);
        write_private(&self.passfile(), line.as_bytes())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.bin.server("pg_ctl");
        stop.args(["kill", "QUIT", &self.server.id().to_string()]).stdout(Stdio::null());
        let asked = stop.status().is_ok_and(|status| status.success());
        let give_up = Instant::now() + PATIENCE;
        while asked && Instant::now() < give_up && matches!(self.server.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where the programs are, and as whom the server runs: PostgreSQL refuses to run as root.
#[derive(Debug)]
struct Binaries {
    dir: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Binaries {
    fn find() -> Result<Self, String> {
        let candidates: Vec<PathBuf> = match std::env::var_os("ONEIRIC_PG_BIN") {
            Some(named) => vec![named.into()],
            None => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path).chain(debian_versions()).collect()
            }
        };
        let dir = candidates
            .into_iter()
            .find(|dir| ["initdb", "postgres"].iter().all(|name| dir.join(name).is_file()))
            .ok_or("there is no initdb and postgres in ONEIRIC_PG_BIN, or PATH and /usr/lib")?;
        // A link on the PATH leads to the folder that has pg_ctl and psql beside it.
        let dir = dir
            .join("postgres")
            .canonicalize()
            .ok()
            .and_then(|real| real.parent().map(Path::to_owned))
            .unwrap_or(dir);
        let owner = if id(&["-u"]) == Some(0) {
            let account = id(&["-u", "postgres"]).zip(id(&["-g", "postgres"]));
            Some(account.ok_or("we are root and there is no account `postgres` to run it as")?)
        } else {
            None
        };
        Ok(Self { dir, owner })
    }

    /// A program that runs as the server's owner.
    fn server(&self, name: &str) -> Command {
        let program = self.dir.join(name);
        let Some((uid, gid)) = self.owner else { return without_pg_settings(program) };
        let mut command = without_pg_settings("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "--"])
            .arg(program);
        command
    }

    /// A program that runs as we do.
    fn client(&self, name: &str) -> Command {
        let beside = self.dir.join(name);
        without_pg_settings(if beside.is_file() { beside } else { name.into() })
    }

    /// Makes a path the server's own.
    fn give(&self, path: &Path) -> Result<(), String> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(|error| cannot("give away", path, &error))
    }
}

/// A folder of the server's owner, removed on drop.
#[derive(Debug)]
struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    fn create(bin: &Binaries) -> Result<Self, String> {
        let name = format!("oneiric-pg-{}", &random_hex()?[..12]);
        let path = parent_for(bin).join(name);
        fs::create_dir(&path).map_err(|error| cannot("create", &path, &error))?;
        let dir = Self { path };
        fs::set_permissions(&dir.path, fs::Permissions::from_mode(0o700))
            .map_err(|error| cannot("restrict", &dir.path, &error))?;
        bin.give(&dir.path)?;
        Ok(dir)
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A folder of our own, removed on drop.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn create(of: &str) -> Result<Self, String> {
        let name = format!("oneiric-{of}-{}", &random_hex()?[..12]);
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).map_err(|error| cannot("create", &path, &error))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn init_cluster(bin: &Binaries, dir: &PrivateDir, password: &str) -> Result<(), String> {
    let pwfile = dir.path.join("initial");
    write_private(&pwfile, password.as_bytes())?;
    bin.give(&pwfile)?;
    let mut command = bin.server("initdb");
    command
        .args(["-U", "admin", "-A", "scram-sha-256", "-N", "--no-locale", "-E", "UTF8"])
        .arg("--pwfile")
        .arg(&pwfile)
        .arg("-D")
        .arg(dir.data());
    let output = run(command, b"")?;
    let _ = fs::remove_file(&pwfile);
    if output.status.success() {
        return Ok(());
    }
    Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn start_server(bin: &Binaries, dir: &PrivateDir) -> Result<(Child, u16), String> {
    let mut why = String::new();
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port()?;
        let log = File::create(dir.log()).map_err(|error| cannot("create", &dir.log(), &error))?;
        let errors = log.try_clone().map_err(|error| cannot("share", &dir.log(), &error))?;
        let mut command = bin.server("postgres");
        command.args(["-p", &port.to_string(), "-D"]).arg(dir.data());
        let socket = format!("unix_socket_directories={}", dir.path.display());
        let settings = ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", &socket];
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut server = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        match wait_until_ready(&mut server, dir) {
            Ok(()) => return Ok((server, port)),
            Err(reason) => why = reason,
        }
        if !why.contains("could not create any TCP/IP sockets") {
            break;
        }
    }
    Err(why)
}

/// The server says in its own pid file when it is ready, as `pg_ctl` reads it too.
fn wait_until_ready(server: &mut Child, dir: &PrivateDir) -> Result<(), String> {
    let pidfile = dir.data().join("postmaster.pid");
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Ok(Some(status)) = server.try_wait() {
            let log = fs::read_to_string(dir.log()).unwrap_or_default();
            return Err(format!("postgres ended with {status}: {}", log.trim()));
        }
        let ready = fs::read_to_string(&pidfile)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.starts_with("ready")));
        if ready {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
    Err(format!("postgres was not ready after {} s", PATIENCE.as_secs()))
}

/// The folders of Debian's packages, the highest version first.
fn debian_versions() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|&(version, _)| std::cmp::Reverse(version));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// A place for the folder: reachable for the server's owner, and short enough for a socket.
fn parent_for(bin: &Binaries) -> PathBuf {
    let usual = std::env::temp_dir();
    let open =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    let reachable = bin.owner.is_none() || usual.ancestors().all(open);
    if reachable && usual.as_os_str().len() <= 60 { usual } else { "/tmp".into() }
}

/// A program without the caller's own PostgreSQL settings.
fn without_pg_settings(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG"))
    {
        command.env_remove(name);
    }
    // A folder that the server's owner may not enter is no place to run it from.
    command.env("LC_ALL", "C").current_dir("/");
    command
}

fn run(mut command: Command, input: &[u8]) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: io::Error| format!("cannot run {program}: {error}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A program that ends early does not read all of it; its exit status says why.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().map_err(failed)
}

/// What `id` says about us or about another account.
fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("there is no free port: {error}"))
}

fn random_hex() -> Result<String, String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| format!("there is no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), String> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|error| cannot("write", path, &error))
}

fn cannot(act: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {act} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_postgres_answers_and_leaves_nothing_behind() {
        let postgres = match Postgres::start() {
            Ok(postgres) => postgres,
            Err(why) => return require("postgres", &why),
        };
        let answer = postgres.psql("CREATE DATABASE two; SELECT 40 + 2, 'x'").unwrap();
        assert_eq!(answer, "42|x");
        let error = postgres.psql("SELECT secret FROM nowhere").unwrap_err();
        assert!(error.contains("does not exist"), "{error}");
        assert_eq!(postgres.psql("SHOW password_encryption").unwrap(), "scram-sha-256");
        let (dir, port) = (postgres.dir.path.clone(), postgres.port());
        drop(postgres);
        assert!(!dir.exists());
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
