//! A private Redis with an ACL file.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Folder, PATIENCE, PORT_ATTEMPTS, cannot, free_port, random_hex};

/// A private Redis on a free port of 127.0.0.1, in memory, with users in an ACL file: `admin`, who
/// may do everything, and `default`, who may not log in.
///
/// Dropping it stops the server at once and removes its folder, so keep it in the test and not in a
/// `static`.
#[derive(Debug)]
pub struct Redis {
    server: Option<Child>,
    program: PathBuf,
    port: u16,
    admin_password: String,
    folder: Folder,
}

impl Redis {
    /// Starts a server. Blocks for a moment.
    ///
    /// # Errors
    /// Why it cannot be had, in one sentence, for [`require`](super::require).
    pub fn start() -> Result<Self, String> {
        let program = find()?;
        let folder = Folder::create("redis")?;
        let admin_password = random_hex()?;
        let acl = folder.path().join("users.acl");
        let users = format!("user default off\nuser admin on >{admin_password} ~* &* +@all\n");
        super::write_private(&acl, users.as_bytes())?;
        let mut redis = Self { server: None, program, port: 0, admin_password, folder };
        let mut why = String::new();
        for _ in 0..PORT_ATTEMPTS {
            redis.port = free_port()?;
            match redis.launch() {
                Ok(()) => return Ok(redis),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of the user `admin`.
    pub fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// What the server has written down.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Stops the server at once. What it had in memory is forgotten.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again, on the same port, with the users that it had saved.
    ///
    /// # Errors
    /// Why it did not start.
    pub fn start_again(&mut self) -> Result<(), String> {
        self.stop();
        self.launch()
    }

    fn launch(&mut self) -> Result<(), String> {
        let log = self.folder.path().join("log");
        let out = File::options().create(true).append(true).open(&log);
        let out = out.map_err(|error| cannot("create", &log, &error))?;
        let errors = out.try_clone().map_err(|error| cannot("share", &log, &error))?;
        let mut command = Command::new(&self.program);
        let settings = [
            ("--bind", "127.0.0.1"),
            ("--port", &self.port.to_string()),
            ("--save", ""),
            ("--appendonly", "no"),
            ("--daemonize", "no"),
            ("--aclfile", "users.acl"),
        ];
        for (name, value) in settings {
            command.args([name, value]);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(out).stderr(errors);
        let mut server = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        let ready = wait_until_ready(&mut server, &log, self.port);
        if ready.is_err() {
            let _ = server.kill();
            let _ = server.wait();
            return ready;
        }
        self.server = Some(server);
        ready
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program that is named, or the one on the PATH.
fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("ONEIRIC_REDIS_BIN") {
        let named = PathBuf::from(named);
        let there = named.is_file();
        return there.then_some(named).ok_or_else(|| "ONEIRIC_REDIS_BIN is not there".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("redis-server"))
        .find(|program| program.is_file())
        .ok_or_else(|| "there is no redis-server in ONEIRIC_REDIS_BIN or PATH".to_owned())
}

/// Waits until the server answers, and is the one that was started: another one on the port would
/// let that one end.
fn wait_until_ready(server: &mut Child, log: &Path, port: u16) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Ok(Some(status)) = server.try_wait() {
            let log = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("redis ended with {status}: {}", log.trim()));
        }
        if answers(port) == Some(true) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("redis was not ready after {} s", PATIENCE.as_secs()))
}

/// Whether it asks who we are.
fn answers(port: u16) -> Option<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).ok()?;
    Some(&answer == b"-NOAUTH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_redis_answers_and_leaves_nothing_behind() {
        let mut redis = match Redis::start() {
            Ok(redis) => redis,
            Err(why) => return crate::live::require("redis", &why),
        };
        let folder = redis.folder.path().to_owned();
        let port = redis.port();
        redis.stop();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        redis.start_again().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        write!(stream, "AUTH admin {}\r\n", redis.admin_password()).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
        drop(redis);
        assert!(!folder.exists());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
