//! What dead owners have left behind.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::place::Place;
use super::{LOCK, mark_of};
use crate::config::{Config, Orphans};
use crate::processes;

/// How often it is looked whether the last of them has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// What an owner writes down of what becomes of its children: the signal that stops them and the
/// milliseconds that they have, or that they are kept.
pub(super) fn will(config: &Config, orphans: Orphans) -> String {
    match orphans {
        Orphans::Stop => {
            format!("stop {} {}", config.stop_signal.number(), config.kill_timeout.as_millis())
        }
        Orphans::Keep => "keep".to_owned(),
    }
}

/// The folders whose owners are dead.
pub(super) struct Leftovers(Vec<Leftover>);

struct Leftover {
    path: PathBuf,
    /// Held, so that no other looks at it.
    _lock: Option<File>,
    will: String,
}

impl Leftovers {
    /// All that there are. The place is locked.
    pub(super) fn find(place: &Place) -> Self {
        let entries = fs::read_dir(&place.path).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path());
        let folders = folders.filter(|path| path.is_dir() && is_a_folder_of_ours(path));
        Self(folders.filter_map(Leftover::of).collect())
    }

    /// Removes them: at once where nobody uses them, and otherwise when their children have ended.
    /// Those that are kept keep theirs.
    pub(super) fn remove(self) -> Option<JoinHandle<()>> {
        let mut waiting = Vec::new();
        for leftover in self.0 {
            let left = leftover.children();
            if left.is_empty() {
                leftover.remove();
            } else if let Some((signal, patience)) = leftover.stops() {
                for pid in left {
                    let _ = kill_process(pid, signal);
                }
                waiting.push((leftover, Instant::now() + patience));
            }
        }
        if waiting.is_empty() {
            return None;
        }
        let end = move || waiting.into_iter().for_each(|(leftover, until)| leftover.end(until));
        thread::Builder::new().name("oneiric-sweep".to_owned()).spawn(end).ok()
    }
}

/// What it is called by which `Folder::create_in` has made it.
fn is_a_folder_of_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split_once('-')).is_some_and(|(pid, random)| {
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        pid.parse::<u32>().is_ok() && random.len() == 16 && is_hex(random)
    })
}

impl Leftover {
    /// Nothing if its owner lives.
    fn of(path: PathBuf) -> Option<Self> {
        let lock = OpenOptions::new().read(true).write(true).open(path.join(LOCK));
        let Ok(lock) = lock else {
            // Its owner has died while it made or removed it.
            return Some(Self { path, _lock: None, will: String::new() });
        };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let will = fs::read_to_string(path.join(LOCK)).unwrap_or_default();
        Some(Self { path, _lock: Some(lock), will })
    }

    fn children(&self) -> Vec<Pid> {
        processes::of(None, &mark_of(&self.path))
    }

    fn stops(&self) -> Option<(Signal, Duration)> {
        let (signal, patience) = self.will.strip_prefix("stop ")?.split_once(' ')?;
        let signal = Signal::from_named_raw(signal.parse().ok()?)?;
        Some((signal, Duration::from_millis(patience.parse().ok()?)))
    }

    fn end(&self, until: Instant) {
        loop {
            let left = self.children();
            if left.is_empty() {
                return self.remove();
            }
            if Instant::now() >= until {
                left.into_iter().for_each(|pid| {
                    let _ = kill_process(pid, Signal::KILL);
                });
            }
            thread::sleep(PAUSE);
        }
    }

    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
