//! In which steps a file system notes times: two writes within one step bear the same time.

use std::fs::File;
use std::time::Duration;

/// What is taken for a file system that is not known: the coarsest step in common use.
pub(crate) const COARSEST: Duration = Duration::from_millis(10);

/// The step in which this file's times are noted; zero where a look at a file makes its next write
/// bear a later time.
#[cfg(target_os = "linux")]
pub(crate) fn of(file: &File) -> Duration {
    /// ext2 to ext4, XFS, Btrfs and tmpfs, by statfs(2). Each notes the time of the kernel's coarse
    /// clock.
    const LOCAL: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    let is_local = rustix::fs::fstatfs(file)
        .is_ok_and(|of| LOCAL.iter().any(|local| *local as rustix::fs::FsWord == of.f_type));
    match (is_local, has_multigrain_times()) {
        (false, _) => COARSEST,
        (true, true) => Duration::ZERO,
        (true, false) => coarse_clock(),
    }
}

/// Elsewhere nothing is known.
#[cfg(not(target_os = "linux"))]
pub(crate) fn of(_: &File) -> Duration {
    COARSEST
}

/// Since Linux 6.13 these file systems note a fine time where the one before was looked at
/// (Documentation/filesystems/multigrain-ts.rst).
#[cfg(target_os = "linux")]
fn has_multigrain_times() -> bool {
    static KNOWN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| at_least_6_13(&rustix::system::uname().release().to_string_lossy()))
}

#[cfg(target_os = "linux")]
fn at_least_6_13(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 13),
        _ => false,
    }
}

#[cfg(target_os = "linux")]
fn coarse_clock() -> Duration {
    let step = rustix::time::clock_getres(rustix::time::ClockId::RealtimeCoarse);
    Duration::try_from(step).map_or(COARSEST, |step| step.min(COARSEST))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_known_by_its_release() {
        for (release, new) in [
            ("6.13.0", true),
            ("6.18.44-1-amd64", true),
            ("7.0-rc1", true),
            ("6.12.9", false),
            ("5.15.0-91-generic", false),
            ("", false),
            ("six", false),
        ] {
            assert_eq!(at_least_6_13(release), new, "{release}");
        }
    }

    /// What the step says holds on this machine, for the folder of temporary files and for one in
    /// memory: after that long, or at once where it is zero, a write bears another time.
    #[test]
    fn a_write_after_the_step_bears_another_time() {
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(dir) = tempfile::TempDir::new_in(&dir) else { continue };
            let path = dir.path().join("secret");
            std::fs::write(&path, "0000").unwrap();
            for round in 0..500 {
                let file = File::open(&path).unwrap();
                let before = file.metadata().unwrap().modified().unwrap();
                std::thread::sleep(of(&file));
                std::fs::write(&path, format!("{round:04}")).unwrap();
                let after = std::fs::metadata(&path).unwrap().modified().unwrap();
                assert_ne!(before, after, "in {}, round {round}", dir.path().display());
            }
        }
    }
}
