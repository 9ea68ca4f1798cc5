//! Sockets that are listened on once and handed to one child after the other.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::listen;

/// How many connections may wait to be accepted; the system has a limit of its own.
const WAITING: i32 = 4096;

/// The sockets of one adapter. They take connections for as long as it lives, whether a child runs
/// or not. Dropping it removes the files of Unix sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listening: Vec<OwnedFd>,
    paths: Vec<PathBuf>,
}

impl Sockets {
    /// Listens on all of them.
    pub(crate) fn bind(addresses: &[String]) -> io::Result<Self> {
        let mut sockets = Self::default();
        for address in addresses {
            let bound = if address.starts_with('/') {
                let path = PathBuf::from(address);
                let bound = unix(&path);
                if bound.is_ok() {
                    sockets.paths.push(path);
                }
                bound
            } else {
                TcpListener::bind(address).map(OwnedFd::from)
            };
            let socket = bound.and_then(|socket| {
                listen(&socket, WAITING)?;
                Ok(socket)
            });
            sockets.listening.push(socket.map_err(|error| {
                io::Error::new(error.kind(), format!("`{address}` cannot be listened on ({error})"))
            })?);
        }
        Ok(sockets)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}

/// Takes the place of a socket that nobody listens on any more.
fn unix(path: &Path) -> io::Result<OwnedFd> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        let address = path.display().to_string();
        let sockets = Sockets::bind(std::slice::from_ref(&address)).unwrap();
        let error = Sockets::bind(std::slice::from_ref(&address)).unwrap_err().to_string();
        assert!(error.contains(&format!("`{address}` cannot be listened on")), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(sockets);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        fs::write(&path, "data").unwrap();
        assert!(Sockets::bind(&[path.display().to_string()]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
