//! The socket file: bound without a moment in which others could reach it, replaced only if
//! nobody answers there, and removed only if it is still ours.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use oneiric_core::{Error, ErrorKind, InstanceId, Result};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use super::directory;

/// How many bytes a socket address has room for, with the NUL at its end.
const SUN_PATH: usize = if cfg!(target_os = "linux") { 108 } else { 104 };
/// What a socket is called until it is ready to be found.
const STAGED: &str = ".new";

/// The name of a socket in the file system. It goes with this value, unless it has become
/// somebody else's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.device_and_inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(
                target: "oneiric",
                socket = %self.path.display(),
                %error,
                "the admin socket cannot be removed"
            );
        }
    }
}

/// Binds the socket of an instance in a directory that is this user's alone. In one that is for
/// sockets of instances it `sweeps` out what the dead have left.
pub(super) fn bind(
    path: &Path,
    instance: &InstanceId,
    sweeps: bool,
) -> Result<(UnixListener, SocketFile)> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let staged = parent.join(STAGED);
    check_length(path)?;
    check_length(&staged)?;
    directory::make_private(parent)?;
    let unavailable = |error: io::Error| {
        let message = format!("the admin socket `{}` cannot be bound", path.display());
        Error::with_source(ErrorKind::Unavailable, message, error)
    };
    // Two that start at the same time must not both find that nobody is there.
    let _lock = lock(parent).map_err(unavailable)?;
    check_free(path, instance)?;
    if sweeps {
        sweep(parent);
    }
    bind_over(path, &staged).map_err(unavailable)
}

/// Removes the sockets of instances that have ended without doing so. Nobody binds meanwhile, and a
/// socket has its name only while somebody listens, so one that refuses has lost its process.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let instance = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        let is_instance = instance.is_some_and(|name| name.parse::<InstanceId>().is_ok());
        let is_socket = entry.file_type().is_ok_and(|file| file.is_socket());
        let path = entry.path();
        if is_instance && is_socket && !is_live(&path) && fs::remove_file(&path).is_ok() {
            tracing::info!(
                target: "oneiric",
                socket = %path.display(),
                "a socket is removed that an instance has left behind"
            );
        }
    }
}

/// Whether anything is to be found at a socket: false if nobody listens there any more or nothing
/// is there. Never waits, not even for a process that is stopped.
pub(super) fn is_live(path: &Path) -> bool {
    let connect = || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    !matches!(connect(), Err(Errno::CONNREFUSED | Errno::NOENT))
}

fn bind_over(path: &Path, staged: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::remove_file(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(staged)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(staged, Permissions::from_mode(0o600))?;
    let metadata = fs::symlink_metadata(staged)?;
    fs::rename(staged, path)?;
    let device_and_inode = (metadata.dev(), metadata.ino());
    Ok((listener, SocketFile { path: path.to_owned(), device_and_inode }))
}

fn check_free(path: &Path, instance: &InstanceId) -> Result<()> {
    let there = fs::symlink_metadata(path).ok();
    if there.is_some_and(|metadata| !metadata.file_type().is_socket()) {
        let message = format!("`{}` is in the way: it is not a socket", path.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if is_live(path) {
        let message = format!(
            "instance `{instance}` is already running: somebody listens on `{}`",
            path.display()
        );
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    Ok(())
}

fn check_length(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    if length < SUN_PATH {
        return Ok(());
    }
    let message = format!(
        "the socket path `{}` has {length} bytes, and the system's limit is {}: choose a shorter \
         runtime directory",
        path.display(),
        SUN_PATH - 1
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

fn lock(directory: &Path) -> io::Result<File> {
    let directory = File::open(directory)?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceId {
        "web-1".parse().unwrap()
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_goes_with_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/web-1.sock");
        let (listener, file) = bind(&path, &instance(), false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        assert!(is_live(&path));
        drop((listener, file));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_dead_one_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web-1.sock");
        let dead = UnixListener::bind(&path).unwrap();
        let error = bind(&path, &instance(), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("`web-1` is already running"), "{error}");
        drop(dead);
        assert!(!is_live(&path));
        let _bound = bind(&path, &instance(), false).unwrap();
        assert!(is_live(&path));
    }

    #[test]
    fn a_listener_that_accepts_nothing_is_live_and_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web-1.sock");
        let _stopped = UnixListener::bind(&path).unwrap();
        // More than its queue holds.
        let mut held = Vec::new();
        for _ in 0..10_000 {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None);
            let socket = socket.unwrap();
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            let answer = rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap());
            if answer == Err(Errno::AGAIN) {
                break;
            }
            answer.unwrap();
            held.push(socket);
        }
        assert!(is_live(&path));
    }

    #[test]
    fn what_the_dead_have_left_is_swept_out_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let socket = |name: &str| UnixListener::bind(at(name)).unwrap();
        drop(socket("dead.sock"));
        drop(socket("Not An Instance.sock"));
        drop(socket("dead.other"));
        fs::write(at("file.sock"), "").unwrap();
        std::os::unix::fs::symlink(at("dead.other"), at("link.sock")).unwrap();
        let _live = socket("live.sock");
        let (_listener, _file) = bind(&at("web-1.sock"), &instance(), false).unwrap();
        assert!(at("dead.sock").exists(), "a directory of somebody else's is left as it is");
        let (_listener, _file) = bind(&at("web-2.sock"), &instance(), true).unwrap();
        let mut left: Vec<_> = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let wanted = [
            "Not An Instance.sock",
            "dead.other",
            "file.sock",
            "link.sock",
            "live.sock",
            "web-1.sock",
            "web-2.sock",
        ];
        assert_eq!(left, wanted);
    }

    #[test]
    fn a_successor_keeps_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("web-1.sock");
        let (_listener, file) = bind(&path, &instance(), false).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(is_live(&path));
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let error = bind(&path, &instance(), false).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_path_that_is_too_long_names_itself_and_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("d".repeat(100)).join("web-1.sock");
        let error = bind(&path, &instance(), false).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(&format!("limit is {}", SUN_PATH - 1)), "{error}");
        assert!(!path.parent().unwrap().exists());
    }
}
