//! The service of the conformance suite: it has a token, which it tries at a server of files, and
//! lets users in at a door of its own.

use std::fs;
use std::io::Write as _;
use std::io::{ErrorKind, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(5);
const COULD_NOT_TRY: u8 = 75;

/// The token that there is now, or nothing if it is no text.
fn token() -> Option<String> {
    let dir = PathBuf::from(std::env::var_os("ONEIRIC_SECRETS_DIR").unwrap());
    String::from_utf8(fs::read(dir.join("token")).unwrap()).ok()
}

/// Says that this process has the token, for as long as it runs.
fn hold(token: &str) {
    let holders = Path::new("../server/holders");
    let pid = std::process::id().to_string();
    let next = holders.join(format!(".{pid}"));
    fs::write(&next, format!("{token}\n")).unwrap();
    fs::rename(next, holders.join(pid)).unwrap();
}

/// Tries the token, as a client of the server would. What it says is repeated, so it should not say
/// the token; it does.
#[expect(clippy::print_stderr, reason = "an adapter repeats it")]
pub(crate) fn prove() -> Result<String, ExitCode> {
    let fault = || fs::read_to_string("../server/fault").unwrap();
    let Some(token) = token() else { return Err(ExitCode::from(COULD_NOT_TRY)) };
    hold(&token);
    match fault().as_str() {
        "down" | "busy" | "cut 0" => {
            eprintln!("the server cannot be asked with {token}");
            return Err(ExitCode::from(COULD_NOT_TRY));
        }
        "hang" => {
            while fault() == "hang" {
                sleep(PAUSE);
            }
        }
        fault => {
            if let Some(seconds) = fault.strip_prefix("slow ") {
                sleep(Duration::from_secs_f64(seconds.parse().unwrap()));
            }
        }
    }
    let mut shown = fs::OpenOptions::new().append(true).open("../server/shown").unwrap();
    shown.write_all(format!("{token}\n").as_bytes()).unwrap();
    let accepted = fs::read_to_string("../server/accepted").unwrap();
    if !accepted.lines().any(|known| known == token) {
        eprintln!("{token} is refused");
        return Err(ExitCode::from(1));
    }
    Ok(token)
}

/// Serves until it is asked to end and its last user has gone. When it is told to, it takes a new
/// token for those who come, and says so when those who came before are gone.
pub(crate) fn serve() -> ExitCode {
    let (ends, reloads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&ends)).unwrap();
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reloads)).unwrap();
    let mut serving = match prove() {
        Ok(token) => token,
        Err(code) => return code,
    };
    let generation = std::env::var("ONEIRIC_GENERATION").unwrap();
    let door = Path::new("doors").join(generation);
    let listener = UnixListener::bind(&door).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut inside: Vec<(UnixStream, String)> = Vec::new();
    let mut owed = true;
    let mut is_open = true;
    loop {
        if ends.load(Ordering::Relaxed) && is_open {
            fs::remove_file(&door).unwrap();
            is_open = false;
        }
        if reloads.swap(false, Ordering::Relaxed) {
            serving = token().unwrap();
            hold(&serving);
            owed = true;
        }
        while let Ok((mut user, _)) = listener.accept() {
            user.set_nonblocking(true).unwrap();
            if user.write_all(format!("{} {serving}\n", std::process::id()).as_bytes()).is_ok() {
                inside.push((user, serving.clone()));
            }
        }
        inside.retain_mut(|(user, _)| {
            matches!(user.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        if owed && inside.iter().all(|(_, token)| *token == serving) {
            fs::write("next", &serving).unwrap();
            fs::rename("next", "ready").unwrap();
            owed = false;
        }
        if !is_open && inside.is_empty() {
            return ExitCode::SUCCESS;
        }
        sleep(PAUSE);
    }
}
