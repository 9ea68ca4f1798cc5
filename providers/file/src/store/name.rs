//! The names of the files that versions are kept in. All there is to know of a version but its
//! value and the attempt that made it is in the name, so that one look at a directory tells it.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use oneiric_core::{Version, VersionInfo, VersionState};

/// A time as file systems note it: seconds and nanoseconds.
pub(crate) type Time = (i64, i64);

/// One version: `..7@1732460000.123456789`, with `-4711` behind it if it was found in the tree and
/// not made here, and with `.disabled` or `.destroyed` at the end if it is.
///
/// The time is the one that the live file bears while it is this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) time: Time,
    /// The inode of a file that somebody else had written.
    pub(crate) found: Option<u64>,
    pub(crate) state: VersionState,
}

impl Kept {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (rest, state) = [VersionState::Disabled, VersionState::Destroyed]
            .into_iter()
            .find_map(|state| Some((name.strip_suffix(state.token())?.strip_suffix('.')?, state)))
            .unwrap_or((name, VersionState::Enabled));
        let (number, rest) = rest.strip_prefix("..")?.split_once('@')?;
        let (time, found) = match rest.split_once('-') {
            Some((time, inode)) => (time, Some(inode.parse().ok()?)),
            None => (rest, None),
        };
        let (seconds, nanos) = time.split_once('.')?;
        let time = (seconds.parse().ok()?, nanos.parse().ok()?);
        let kept = Self { number: number.parse().ok()?, time, found, state };
        // One spelling for each, so that no two files are the same version.
        (kept.name() == name).then_some(kept)
    }

    pub(crate) fn name(&self) -> String {
        let Self { number, time: (seconds, nanos), found, state } = self;
        let found = found.map(|inode| format!("-{inode}")).unwrap_or_default();
        let state = match state {
            VersionState::Enabled => String::new(),
            state => format!(".{}", state.token()),
        };
        format!("..{number}@{seconds}.{nanos:09}{found}{state}")
    }

    /// The same version in another state.
    pub(crate) fn turned(&self, state: VersionState) -> Self {
        Self { state, ..self.clone() }
    }

    /// A number for what was made here. What was found keeps the id that it had as a plain file.
    pub(crate) fn version(&self) -> Version {
        match self.found {
            None => Version::numbered(self.number),
            Some(inode) => plain_version(self.time, inode),
        }
    }

    pub(crate) fn info(&self, current: bool) -> VersionInfo {
        let mut info = VersionInfo::new(self.version(), self.state);
        info.current = current;
        let since = u64::try_from(self.time.0).ok().zip(u32::try_from(self.time.1).ok());
        info.created = since.and_then(|(seconds, nanos)| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
        });
        info
    }
}

/// The version of a plain file that nobody keeps. It stands in no order, since putting an older
/// file back is a change like any other, and it does not tell the size.
pub(crate) fn plain_version((seconds, nanos): Time, inode: u64) -> Version {
    Version::opaque(format!("{seconds}.{nanos:09}-{inode}"))
}

/// The versions of these names, the newest first. One that has two names was on its way from one
/// state to a later one, and is in the later.
pub(crate) fn versions<'n>(names: impl Iterator<Item = &'n str>) -> Vec<Kept> {
    let mut versions: Vec<Kept> = names.filter_map(Kept::parse).collect();
    let rank = |state| match state {
        VersionState::Destroyed => 0,
        VersionState::Disabled => 1,
        VersionState::Enabled => 2,
    };
    versions.sort_by_key(|kept| (Reverse(kept.number), rank(kept.state)));
    versions.dedup_by_key(|kept| kept.number);
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (name, id) in [
            ("..7@1732460000.000000001", "7"),
            ("..7@1732460000.000000001.disabled", "7"),
            ("..8@1732460000.123456789-4711", "1732460000.123456789-4711"),
            ("..8@1732460000.123456789-4711.destroyed", "1732460000.123456789-4711"),
        ] {
            let kept = Kept::parse(name).unwrap();
            assert_eq!((kept.name().as_str(), &*kept.version().id()), (name, id));
        }
        for other in ["..7", "..lock", "..new", "7@1.000000001", "..7@1.1", "..07@1.000000001"] {
            assert_eq!(Kept::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_later_state_counts() {
        let names = [
            "..1@1.000000000",
            "..2@2.000000000.destroyed",
            "..2@2.000000000",
            "..10@3.000000000.disabled",
            "..new",
        ];
        let versions = versions(names.into_iter());
        let states: Vec<_> = versions.iter().map(|kept| (kept.number, kept.state)).collect();
        let expected = [
            (10, VersionState::Disabled),
            (2, VersionState::Destroyed),
            (1, VersionState::Enabled),
        ];
        assert_eq!(states, expected);
    }
}
