//! The signals that this process ignores.

use crate::config::SignalName;

/// Whether this process ignores the signal: because it was called so, as by `nohup`, or chose to.
/// Who takes a signal up in spite of that breaks what its caller has asked for.
///
/// The answer is of this moment. `false` where the system does not tell.
///
/// ```
/// assert!(!oneiric_adapter_process::is_ignored("TERM".parse()?));
/// # Ok::<(), oneiric_core::Error>(())
/// ```
pub fn is_ignored(signal: SignalName) -> bool {
    Ignored::now().holds(signal.number())
}

/// All of them, as a mask.
pub(crate) struct Ignored(u64);

impl Ignored {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether the signal with this number is among them.
    pub(crate) fn holds(&self, number: i32) -> bool {
        self.0 & (1 << (number - 1)) != 0
    }
}
