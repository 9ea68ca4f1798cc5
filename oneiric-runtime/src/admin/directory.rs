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

/// Where an instance puts its socket: `explicit`, else the first of `$ONEIRIC_RUNTIME_DIR`, else
/// `$XDG_RUNTIME_DIR/oneiric`, else `/run/oneiric` for root, else `oneiric-<uid>` in the
/// directory for temporary files.
pub fn runtime_dir(explicit: Option<&Path>) -> PathBuf {
    choose(explicit, |name| env::var_os(name), own_uid())
}

/// Where the sockets of running instances may be, that of [`runtime_dir`] first: `explicit`, else
/// all of `$ONEIRIC_RUNTIME_DIR`, else every place that [`runtime_dir`] would choose for this user
/// in any session, and for root those of every user. Where nothing is said, the first is named and
/// of the others those that are there.
pub fn runtime_dirs(explicit: Option<&Path>) -> Vec<PathBuf> {
    let named = named(explicit, |name| env::var_os(name));
    if !named.is_empty() {
        return named;
    }
    let owner = |path: &Path| fs::symlink_metadata(path).ok().map(|metadata| metadata.uid());
    usual(runtime_dir(None), Path::new("/run"), &env::temp_dir(), own_uid(), owner)
}

/// The first, and the others that are there and this user's; root reaches those of everybody.
fn usual(
    first: PathBuf,
    run: &Path,
    temporary: &Path,
    uid: u32,
    owner: impl Fn(&Path) -> Option<u32>,
) -> Vec<PathBuf> {
    let mut others = vec![run.join("oneiric")];
    match uid {
        0 => {
            let users = fs::read_dir(run.join("user")).into_iter().flatten().flatten();
            let mut users: Vec<_> = users.map(|user| user.path().join("oneiric")).collect();
            users.sort();
            others.append(&mut users);
        }
        uid => others.push(run.join("user").join(uid.to_string()).join("oneiric")),
    }
    others.push(temporary.join(format!("oneiric-{uid}")));
    others.retain(|other| {
        *other != first && owner(other).is_some_and(|owner| uid == 0 || owner == uid)
    });
    [vec![first], others].concat()
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

/// What is said in so many words.
fn named(explicit: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(explicit) = explicit {
        return vec![explicit.to_owned()];
    }
    let set = variable(names::RUNTIME_DIR).unwrap_or_default();
    env::split_paths(&set).filter(|path| !path.as_os_str().is_empty()).collect()
}

fn choose(
    explicit: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
    uid: u32,
) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(first) = named(explicit, &variable).into_iter().next() {
        first
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
    fn several_places_are_looked_at() {
        let several = |name: &str| (name == "ONEIRIC_RUNTIME_DIR").then(|| "/own::/shop".into());
        assert_eq!(named(None, several), [Path::new("/own"), Path::new("/shop")]);
        assert_eq!(choose(None, several, 7), Path::new("/own"));
        assert_eq!(named(Some("/flag".as_ref()), several), [Path::new("/flag")]);

        let home = tempfile::tempdir().unwrap();
        let (run, temporary) = (home.path().join("run"), home.path().join("tmp"));
        let places = ["run/oneiric", "run/user/7/oneiric", "run/user/8/oneiric", "tmp/oneiric-7"];
        for place in places {
            fs::create_dir_all(home.path().join(place)).unwrap();
        }
        let looked = |first: &str, uid| {
            let owner = |path: &Path| match path.strip_prefix(home.path()).unwrap().to_str() {
                Some("run/oneiric") => Some(0),
                Some("run/user/8/oneiric") => Some(8),
                _ => path.exists().then_some(7),
            };
            let first = home.path().join(first);
            let found = usual(first, &run, &temporary, uid, owner).into_iter();
            found
                .map(|path| path.strip_prefix(home.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(looked("run/user/7/oneiric", 7), [places[1], places[3]], "his own");
        assert_eq!(looked("run/oneiric", 0), [places[0], places[1], places[2]], "everybody's");
        assert_eq!(looked("gone", 9), ["gone"]);
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
