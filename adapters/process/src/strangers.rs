//! Processes that have lost their parent and were left to us.
//!
//! The first process of a container inherits all of them, and has to bury them. What others in this
//! program have started looks the same, and is theirs to wait for; but they do so at once. What
//! has been dead for a while is nobody's.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::leader;
use crate::processes;

/// How long others have for what is theirs.
const PAUSE: Duration = Duration::from_secs(5);

/// Buries strangers for as long as the adapter is there, where that is ours to do.
pub(crate) async fn bury(closing: CancellationToken) {
    if getpid() == Pid::INIT {
        closing.run_until_cancelled(go_round()).await;
    }
}

async fn go_round() {
    let mut before = BTreeSet::new();
    loop {
        sleep(PAUSE).await;
        let dead: BTreeSet<_> = processes::dead_children().into_iter().collect();
        let nobodys = dead.intersection(&before).filter_map(|(pid, _)| Pid::from_raw(*pid));
        for pid in nobodys.filter(|pid| !leader::is_ours(*pid)) {
            // Whoever is there before us is right.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        before = dead;
    }
}
