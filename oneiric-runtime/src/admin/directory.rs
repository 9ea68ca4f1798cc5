//! The directory in which the sockets of running instances are found, and whether it can be
//! trusted.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use oneiric_core::settings::env as names;
use oneiric_core::{Error, ErrorKind, Result};

/// Bits that let the group or others change what is in a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Where the sockets of running instances are: `explicit`, else `$ONEIRIC_RUNTIME_DIR`, else
/// `$XDG_RUNTIME_DIR/oneiric`, else `/run/oneiric` for root, else `oneiric-<uid>` in the
/// directory for temporary files.
pub fn runtime_dir(explicit: Option<&Path>) -> PathBuf {
    choose(explicit, |name| env::var_os(name), own_uid())
}

/// Makes a directory, for this user alone, if it is not there.
pub(super) fn make_private(directory: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        let message = format!("the runtime directory `{}` cannot be made", directory.display());
        Error::with_source(ErrorKind::Unavailable, message, error)
    })?;
    check(directory, |owner| owner == own_uid())
}

/// Whether nobody but this user and root can have put something into a directory.
pub(super) fn check_trusted(directory: &Path) -> Result<()> {
    let own = own_uid();
    // Root looks into everybody's: it could be misled by no more than what the owner is told.
    check(directory, |owner| owner == own || owner == 0 || own == 0)
}

pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn check(directory: &Path, trusts_owner: impl Fn(u32) -> bool) -> Result<()> {
    let refuse = |why: String| {
        let message = format!("the runtime directory `{}` {why}", directory.display());
        Err(Error::new(ErrorKind::Invalid, message))
    };
    // Not following links: in a directory that all may write to, a link is anybody's.
    let metadata = fs::symlink_metadata(directory).map_err(|error| {
        let message = format!("the runtime directory `{}` cannot be read", directory.display());
        Error::with_source(ErrorKind::Unavailable, message, error)
    })?;
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_dir() {
        refuse("is not a directory".into())
    } else if !trusts_owner(metadata.uid()) {
        refuse(format!("belongs to uid {}, and this is uid {}", metadata.uid(), own_uid()))
    } else if mode & WRITABLE_BY_OTHERS != 0 {
        refuse(format!("has mode {mode:04o}: others than its owner may write to it"))
    } else {
        Ok(())
    }
}

fn choose(
    explicit: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
    uid: u32,
) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(explicit) = explicit {
        explicit.to_owned()
    } else if let Some(directory) = set(names::RUNTIME_DIR) {
        directory
    } else if let Some(directory) = set("XDG_RUNTIME_DIR") {
        directory.join("oneiric")
    } else if uid == 0 {
        "/run/oneiric".into()
    } else {
        env::temp_dir().join(format!("oneiric-{uid}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_first_place_that_is_named_is_taken() {
        let both = |name: &str| match name {
            "ONEIRIC_RUNTIME_DIR" => Some("/own".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            _ => None,
        };
        let empty = |name: &str| match name {
            "ONEIRIC_RUNTIME_DIR" => Some(OsString::new()),
            name => both(name),
        };
        assert_eq!(choose(Some("/flag".as_ref()), both, 7), Path::new("/flag"));
        assert_eq!(choose(None, both, 7), Path::new("/own"));
        assert_eq!(choose(None, empty, 7), Path::new("/run/user/7/oneiric"));
        assert_eq!(choose(None, |_| None, 0), Path::new("/run/oneiric"));
        assert_eq!(choose(None, |_| None, 7), env::temp_dir().join("oneiric-7"));
    }

    #[test]
    fn a_directory_is_made_for_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("a/b");
        make_private(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
        make_private(&directory).unwrap();
    }

    #[test]
    fn what_others_may_change_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o707, 0o777, 0o1777] {
            fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = make_private(home.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
            check_trusted(home.path()).unwrap_err();
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make_private(home.path()).unwrap();
        check_trusted(home.path()).unwrap();
    }

    #[test]
    fn what_belongs_to_another_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let error = check(home.path(), |owner| owner != own_uid()).unwrap_err().to_string();
        assert!(error.contains("belongs to uid"), "{error}");
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let error = make_private(&link).unwrap_err().to_string();
        assert!(error.contains("is not a directory"), "{error}");
    }
}
