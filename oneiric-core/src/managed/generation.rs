//! One generation: what was built, and who uses it.

#[cfg(debug_assertions)]
use std::collections::{BTreeMap, BTreeSet};
#[cfg(debug_assertions)]
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use crate::hook::Refusal;
use crate::provider::Version;
use crate::reference::SecretRef;

/// How far a generation is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// A newer one serves.
    Retired,
    /// The drain deadline has passed, and it was still in use.
    CutOff,
}

pub(super) struct Generation<T> {
    pub(super) number: u64,
    pub(super) value: Arc<T>,
    versions: Vec<(SecretRef, Version)>,
    phase: watch::Sender<Phase>,
    refusals: mpsc::Sender<Refusal>,
    /// Where its guards were taken.
    #[cfg(debug_assertions)]
    pub(super) holders: Holders,
    /// Dropped with the last guard, which the one who drains hears.
    _in_use: oneshot::Sender<()>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl<T> Generation<T> {
    pub(super) fn new(
        number: u64,
        value: Arc<T>,
        versions: Vec<(SecretRef, Version)>,
        refusals: mpsc::Sender<Refusal>,
    ) -> Arc<Self> {
        let (in_use, ended) = oneshot::channel();
        Arc::new(Self {
            number,
            value,
            versions,
            phase: watch::Sender::new(Phase::Serving),
            refusals,
            #[cfg(debug_assertions)]
            holders: Holders::default(),
            _in_use: in_use,
            ended: Some(ended).into(),
        })
    }

    /// Tells its users that it is no longer the current one, and hands out what tells of the end
    /// of the last of them.
    pub(super) fn retire(&self) -> oneshot::Receiver<()> {
        self.enter(Phase::Retired);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.expect("a generation is retired once")
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Resolves in this phase, and at the generation's end.
    pub(super) fn reaches(&self, phase: Phase) -> BoxFuture<'static, ()> {
        let mut reached = self.phase.subscribe();
        Box::pin(async move {
            // An error is the end of the generation.
            let _ = reached.wait_for(|reached| *reached >= phase).await;
        })
    }

    pub(super) fn report_refused(&self) {
        if *self.phase.borrow() == Phase::Serving {
            // Where one report waits to be heard, another one says nothing new.
            let _ = self.refusals.try_send(Refusal { versions: self.versions.clone() });
        }
    }
}

impl<T> Generation<T> {
    /// Where the guards were taken that live, each place once; empty where that is not recorded.
    pub(super) fn held_at(&self) -> Vec<String> {
        #[cfg(debug_assertions)]
        return self.holders.places();
        #[cfg(not(debug_assertions))]
        Vec::new()
    }
}

/// Where the guards that live were taken.
#[cfg(debug_assertions)]
#[derive(Default)]
pub(super) struct Holders(Mutex<(u64, BTreeMap<u64, &'static Location<'static>>)>);

#[cfg(debug_assertions)]
impl Holders {
    /// Notes a new guard, by a name under which it leaves.
    pub(super) fn enter(&self, place: &'static Location<'static>) -> u64 {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.0 += 1;
        let name = holders.0;
        holders.1.insert(name, place);
        name
    }

    pub(super) fn leave(&self, name: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&name);
    }

    fn places(&self) -> Vec<String> {
        let holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places: BTreeSet<_> = holders.1.values().map(ToString::to_string).collect();
        places.into_iter().collect()
    }
}
