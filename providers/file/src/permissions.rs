//! Who else may read or change the file of a secret, and what is done about it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oneiric_core::{ErrorKind, Result};
use serde::Deserialize;

use crate::error::refused;
use crate::read::Facts;

/// What is done about a file of a secret that every user may read, that others than its owner may
/// change, or that belongs to somebody who is neither root nor the user of this process. That its
/// group may read it is no fault: that is how a service is let in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permissions {
    /// It is served, and warned of once.
    #[default]
    Warn,
    /// It is refused as `Denied`, with what to do about it.
    Refuse,
    /// It is served.
    Ignore,
}

/// The files that were warned of.
#[derive(Debug, Default)]
pub(crate) struct Warned(Mutex<HashSet<PathBuf>>);

impl Permissions {
    /// Looks at a file before it is read.
    pub(crate) fn check(self, facts: &Facts, path: &Path, warned: &Warned) -> Result<()> {
        let us = rustix::process::geteuid().as_raw();
        let (mode, (owner, _)) = (facts.mode(), facts.owner());
        let fault = || fault(mode, owner, us);
        let remedy = || remedy(path, mode, owner, us);
        match self {
            Self::Ignore => Ok(()),
            Self::Refuse => match fault() {
                None => Ok(()),
                Some(fault) => {
                    let what = format!(
                        "{fault}, and such files are refused (`permissions`): {}",
                        remedy()
                    );
                    Err(refused(ErrorKind::Denied, path, &what))
                }
            },
            Self::Warn => {
                if let Some(fault) = fault() {
                    let mut warned = warned.0.lock().unwrap_or_else(PoisonError::into_inner);
                    if warned.insert(path.to_owned()) {
                        let remedy = remedy();
                        let path = path.display();
                        tracing::warn!(%path, %fault, %remedy, "the file of a secret is exposed");
                    }
                }
                Ok(())
            }
        }
    }
}

/// What is wrong with this mode and this owner, if anything.
fn fault(mode: u32, owner: u32, us: u32) -> Option<String> {
    let what = if owner != 0 && owner != us {
        "belongs to somebody else"
    } else if mode & 0o022 != 0 {
        "may be changed by others than its owner"
    } else if mode & 0o004 != 0 {
        "may be read by every user"
    } else {
        return None;
    };
    Some(format!("{what} (mode {mode:04o}, owner {owner})"))
}

/// What would put it right.
fn remedy(path: &Path, mode: u32, owner: u32, us: u32) -> String {
    let (mode, path) = (mode & !0o027, path.display());
    if owner == 0 || owner == us {
        format!("chmod {mode:04o} {path}")
    } else {
        format!("chown {us} {path} && chmod {mode:04o} {path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_others_in_is_a_fault() {
        for (mode, owner, part) in [
            (0o600, 1000, None),
            (0o400, 0, None),
            (0o640, 0, None),
            (0o644, 1000, Some("may be read by every user (mode 0644, owner 1000)")),
            (0o660, 1000, Some("may be changed by others")),
            (0o602, 1000, Some("may be changed by others")),
            (0o600, 1001, Some("belongs to somebody else (mode 0600, owner 1001)")),
        ] {
            let found = fault(mode, owner, 1000);
            match part {
                None => assert_eq!(found, None, "{mode:o} {owner}"),
                Some(part) => assert!(found.unwrap().contains(part), "{mode:o} {owner}"),
            }
        }
    }

    #[test]
    fn the_remedy_takes_no_more_than_it_must() {
        let path = Path::new("/s");
        assert_eq!(remedy(path, 0o644, 1000, 1000), "chmod 0640 /s");
        assert_eq!(remedy(path, 0o666, 0, 1000), "chmod 0640 /s");
        assert_eq!(remedy(path, 0o640, 7, 1000), "chown 1000 /s && chmod 0640 /s");
    }
}
