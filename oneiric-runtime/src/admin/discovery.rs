//! Finding the instances that run on this machine.

use std::fs;
use std::io;
use std::path::Path;

use oneiric_core::{Error, ErrorKind, InstanceId, Result};

use super::directory;
use super::endpoint::Endpoint;
use super::socket::is_live;

/// A socket in the runtime directory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Found {
    /// Whose it is.
    pub instance: InstanceId,
    /// How to reach it.
    pub endpoint: Endpoint,
    /// Whether anybody listens there. If not, its instance ended without removing it, and the
    /// next one that starts in this directory will.
    pub live: bool,
}

/// The instances that have a socket in a runtime directory, by name. None if the directory is not
/// there. Nothing is sent to them, and nothing is deleted.
///
/// # Errors
/// `Invalid` if somebody else could have put sockets there, `Denied` if it is another user's and not
/// ours to read, `Unavailable` if it cannot be read.
pub fn discover(runtime_dir: &Path) -> Result<Vec<Found>> {
    let unreadable = |error: io::Error| {
        let message = format!("the runtime directory `{}` cannot be read", runtime_dir.display());
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Error::with_source(kind, message, error)
    };
    match fs::symlink_metadata(runtime_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        _ => directory::check_trusted(runtime_dir)?,
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(runtime_dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let instance = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        let Some(Ok(instance)) = instance.map(str::parse::<InstanceId>) else { continue };
        let path = runtime_dir.join(&name);
        let live = is_live(&path);
        found.push(Found { instance, endpoint: Endpoint::Unix(path), live });
    }
    found.sort_by(|a, b| a.instance.cmp(&b.instance));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn instances_are_found_and_the_dead_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let socket = |name: &str| UnixListener::bind(home.path().join(name)).unwrap();
        let _live = socket("web-2.example.sock");
        drop(socket("web-1.sock"));
        drop(socket("Not An Instance.sock"));
        fs::write(home.path().join("notes.txt"), "").unwrap();
        let found = discover(home.path()).unwrap();
        let told: Vec<_> =
            found.iter().map(|found| (found.instance.as_str(), found.live)).collect();
        assert_eq!(told, [("web-1", false), ("web-2.example", true)]);
        assert!(home.path().join("web-1.sock").exists());
        assert_eq!(found[1].endpoint, Endpoint::Unix(home.path().join("web-2.example.sock")));
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_instances() {
        let home = tempfile::tempdir().unwrap();
        assert!(discover(&home.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(discover(home.path()).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
