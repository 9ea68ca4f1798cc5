//! The nodes of one cluster, and which of them is asked first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oneiric_core::ErrorKind;
use reqwest::Url;

use crate::error::{Call, Seen};

/// The addresses in the order of the settings. The one that answered last is asked first, until it
/// fails: a client that wanders would see now the newest state, now one that lags behind.
#[derive(Debug)]
pub(crate) struct Nodes {
    urls: Vec<Url>,
    chosen: AtomicUsize,
}

impl Nodes {
    /// There is at least one.
    pub(crate) fn new(urls: Vec<Url>) -> Self {
        Self { urls, chosen: AtomicUsize::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.urls.len()
    }

    pub(crate) fn all_plain(&self) -> bool {
        self.urls.iter().all(|url| url.scheme() == "http")
    }

    /// Each once, the chosen one first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (usize, &Url)> {
        let (first, count) = (self.chosen.load(Ordering::Relaxed), self.urls.len());
        (0..count).map(move |step| {
            let at = (first + step) % count;
            (at, &self.urls[at])
        })
    }

    /// Notes that this node has not answered what cannot be asked of another one: that one is asked
    /// first from now on.
    pub(crate) fn leave(&self, at: usize) {
        self.choose((at + 1) % self.urls.len());
    }

    /// Notes that this node has answered.
    pub(crate) fn choose(&self, at: usize) {
        if self.chosen.swap(at, Ordering::Relaxed) != at {
            tracing::info!(node = %self.urls[at], "another node is asked from now on");
        }
    }
}

/// Whether another node may be asked the same: this one has done nothing, or what it may have done
/// matters to nobody. What was refused for our own sake is not asked again.
pub(crate) fn may_go_on(seen: Seen, call: Call) -> bool {
    // Of what is given once the first may have been, as a write may have been made.
    let call = if call == Call::Once { Call::Write } else { call };
    match seen {
        Seen::NoConnection => true,
        Seen::NoRequest => false,
        // Of a lease it says that the server has asked its store: it has an answer.
        Seen::Status { status: 400, .. } => false,
        _ => matches!(seen.kind(call), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded),
    }
}

/// How long one of the nodes that are left may take, of the time that is left. What is not sent to
/// another node when its time is up gets all of it.
pub(crate) fn share(left: Duration, nodes_left: usize, call: Call) -> Duration {
    match (call, u32::try_from(nodes_left)) {
        (Call::Read | Call::OfLease, Ok(nodes)) if nodes > 1 => left / nodes,
        _ => left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_answered_last_is_asked_first() {
        let urls = ["https://a", "https://b", "https://c"].map(|url| Url::parse(url).unwrap());
        let nodes = Nodes::new(urls.to_vec());
        let order = |nodes: &Nodes| nodes.in_turn().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(order(&nodes), [0, 1, 2]);
        nodes.choose(1);
        assert_eq!(order(&nodes), [1, 2, 0]);
        nodes.leave(1);
        assert_eq!(order(&nodes), [2, 0, 1]);
        nodes.leave(2);
        assert_eq!(order(&nodes), [0, 1, 2]);
    }

    #[test]
    fn a_write_that_may_have_happened_is_not_sent_to_another_node() {
        let status = |status, own| Seen::Status { status, retry_after: None, own, explained: own };
        for (seen, read, write) in [
            (Seen::NoConnection, true, true),
            (Seen::Lost, true, false),
            (Seen::Timeout, true, false),
            (Seen::Garbled, true, false),
            (Seen::NoRequest, false, false),
            (status(503, true), true, true),
            (status(472, true), true, true),
            (status(473, true), true, true),
            (status(412, true), true, true),
            (status(307, true), true, true),
            (status(500, true), true, false),
            (status(502, false), true, false),
            (status(429, true), false, false),
            (status(403, true), false, false),
            (status(404, true), false, false),
            (status(400, true), false, false),
        ] {
            assert_eq!(may_go_on(seen, Call::Read), read, "{seen:?}");
            assert_eq!(may_go_on(seen, Call::OfLease), read, "{seen:?}");
            assert_eq!(may_go_on(seen, Call::Once), write, "{seen:?}");
            assert_eq!(may_go_on(seen, Call::Write), write, "{seen:?}");
            assert_eq!(may_go_on(seen, Call::WriteOfValue), write, "{seen:?}");
        }
    }

    #[test]
    fn a_node_that_hangs_leaves_time_for_the_others() {
        let left = Duration::from_secs(9);
        assert_eq!(share(left, 3, Call::Read), Duration::from_secs(3));
        assert_eq!(share(left, 3, Call::OfLease), Duration::from_secs(3));
        assert_eq!(share(left, 1, Call::Read), left);
        assert_eq!(share(left, 3, Call::Once), left);
        assert_eq!(share(left, 3, Call::Write), left);
    }
}
