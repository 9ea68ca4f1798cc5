//! Which processes there are.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, getpid};
use zeroize::Zeroizing;

use crate::delivery::MARK;

/// The processes that run, of this group or with a mark that this is the beginning of. What is dead
/// and was not waited for is none.
pub(crate) fn of(group: Option<Pid>, mark: &str) -> Vec<Pid> {
    all().filter(|pid| is_in_group(*pid, group) || is_marked(*pid, mark)).collect()
}

/// Those that have the mark and are not of this group.
pub(crate) fn strays(group: Option<Pid>, mark: &str) -> Vec<Pid> {
    all().filter(|pid| is_marked(*pid, mark) && !is_in_group(*pid, group)).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).filter(|pid| *pid != getpid())
}

fn is_in_group(pid: Pid, group: Option<Pid>) -> bool {
    let Some(group) = group else { return false };
    Stat::of(pid).is_some_and(|stat| !stat.is_dead() && stat.group == group.as_raw_nonzero().get())
}

/// What the system says of a process.
struct Stat {
    state: u8,
    parent: i32,
    group: i32,
    /// When it was started, which tells two processes with one number apart.
    started: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        let text = fs::read(path(pid, "stat")).ok()?;
        // The name in parentheses may hold anything.
        let at = text.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<_> = str::from_utf8(text.get(at + 2..)?).ok()?.split(' ').collect();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// The children of this process that have ended and were not buried, with the times of their
/// starts.
pub(crate) fn dead_children() -> Vec<(i32, u64)> {
    let own = getpid().as_raw_nonzero().get();
    let dead = all().filter_map(|pid| {
        let stat = Stat::of(pid).filter(|stat| stat.is_dead() && stat.parent == own)?;
        Some((pid.as_raw_nonzero().get(), stat.started))
    });
    dead.collect()
}

/// What is dead has no environment any more.
fn is_marked(pid: Pid, mark: &str) -> bool {
    if mark.is_empty() {
        return false;
    }
    // It holds secrets.
    let environment = Zeroizing::new(fs::read(path(pid, "environ")).unwrap_or_default());
    environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(MARK.as_bytes());
        let value = value.and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| value.starts_with(mark.as_bytes()))
    })
}

fn path(pid: Pid, name: &str) -> std::path::PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join(name)
}

/// Whether one of these processes has a socket that listens on this port. `None` if that cannot be
/// seen.
pub(crate) fn listens(pids: &[Pid], port: u16) -> Option<bool> {
    let sockets = listening(port);
    let mut seen = false;
    for pid in pids {
        let Ok(entries) = fs::read_dir(path(*pid, "fd")) else { continue };
        seen = true;
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if sockets.iter().any(|socket| socket.as_bytes() == target.as_os_str().as_bytes()) {
                return Some(true);
            }
        }
    }
    seen.then_some(false)
}

/// What the descriptors of the sockets are called that listen on this port.
fn listening(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.filter_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let number = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == "0A" && number == port).then(|| format!("socket:[{inode}]"))
    })
    .collect()
}
