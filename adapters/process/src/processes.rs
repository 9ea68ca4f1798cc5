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
    let stat = fs::read_to_string(path(pid, "stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let (state, number) = (fields.next(), fields.nth(1));
    !matches!(state, Some("Z" | "X")) && number == Some(&group.as_raw_nonzero().to_string())
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
