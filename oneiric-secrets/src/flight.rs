//! A fetch on its way: who needs what it brings waits for its landing.

use std::sync::{Arc, OnceLock};

use oneiric_core::Result;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::entry::Entry;

/// One fetch of one secret. It lands once; those who come later find that it has.
#[derive(Debug)]
pub(crate) struct Flight {
    landing: OnceLock<Landing>,
    landed: Notify,
    pub(crate) began: Instant,
}

/// What a fetch has brought.
pub(crate) type Landing = Result<Arc<Entry>>;

impl Flight {
    /// One that begins now.
    pub(crate) fn begin() -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Self { landing: OnceLock::new(), landed: Notify::new(), began })
    }

    /// Tells those who wait. The first landing counts.
    pub(crate) fn land(&self, landing: Landing) {
        if self.landing.set(landing).is_ok() {
            self.landed.notify_waiters();
        }
    }

    pub(crate) fn has_landed(&self) -> bool {
        self.landing.get().is_some()
    }

    /// Waits for the landing. Dropping the future changes nothing for others.
    pub(crate) async fn landing(&self) -> Landing {
        loop {
            // It is told of every landing from here on, so none is missed after the look.
            let landed = self.landed.notified();
            if let Some(landing) = self.landing.get() {
                return landing.clone();
            }
            landed.await;
        }
    }
}
