//! Invalidation: what makes sure that nothing from before is served as fresh.

use std::sync::Arc;

use oneiric_core::telemetry::{event, span};
use oneiric_core::{ProviderId, Result};

use crate::cell::Cell;
use crate::epoch::Bounds;
use crate::event::SecretEvent;
use crate::resolver::{Mode, Scope};
use crate::shared::Shared;

impl Bounds {
    /// Says of a whole provider what an invalidation says.
    fn invalidate(&self, mode: Mode, epoch: u64) {
        match mode {
            Mode::Soft => {}
            Mode::Hard => self.usable.raise(epoch),
            Mode::Rollback => self.older_allowed.raise(epoch),
        }
        self.fresh.raise(epoch);
    }
}

impl Shared {
    /// See [`Resolver::invalidate_secrets`](crate::Resolver::invalidate_secrets). The work is that
    /// of the named keys, or of the providers, whatever the size of the cache.
    pub(crate) fn invalidate(self: &Arc<Self>, scope: &Scope, mode: Mode) -> Result<()> {
        let span = tracing::info_span!(
            target: "oneiric",
            "secrets.invalidate",
            otel.name = span::INVALIDATE,
            mode = mode.token()
        );
        let _entered = span.enter();
        let all: Vec<_>;
        let (sources, keys, name) = match scope {
            Scope::All => {
                all = self.cache.sources.values().collect();
                (all, None, "all")
            }
            Scope::Provider(id) => (vec![self.cache.source(id)?], None, "provider"),
            Scope::Keys(id, keys) => (vec![self.cache.source(id)?], Some(keys), "keys"),
        };
        let saying = self.saying();
        // First the epoch, then the cells: one that is missed began its first fetch after it.
        let epoch = self.epochs.open();
        let cells: Vec<Arc<Cell>> = match keys {
            Some(keys) => {
                let id = &sources[0].id;
                keys.iter().flat_map(|key| self.cache.cells_of(id, key)).collect()
            }
            None => Vec::new(),
        };
        match keys {
            Some(_) => cells.iter().for_each(|cell| cell.invalidate(mode, epoch)),
            None => sources.iter().for_each(|source| source.bounds.invalidate(mode, epoch)),
        }
        drop(saying);
        if mode == Mode::Hard {
            match keys {
                Some(_) => cells.iter().for_each(|cell| cell.wipe(epoch)),
                None => self.sweep(sources.iter().map(|source| source.id.clone()).collect(), epoch),
            }
        }
        self.tally.invalidated(mode.token(), name);
        for source in sources {
            tracing::info!(
                target: "oneiric",
                event = event::CACHE_INVALIDATED,
                provider = %source.id,
                scope = name,
                mode = mode.token(),
                "secrets are invalidated"
            );
            self.tell(SecretEvent::Invalidated {
                provider: source.id.clone(),
                keys: keys.cloned(),
                mode,
            });
        }
        self.keeper.wake.notify_one();
        Ok(())
    }

    /// Wipes what a hard invalidation of whole providers has hidden, behind the caller's back.
    fn sweep(self: &Arc<Self>, providers: Vec<ProviderId>, epoch: u64) {
        let shared = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            for provider in &providers {
                let cells = shared.cache.cells_of_provider(provider);
                cells.iter().for_each(|cell| cell.wipe(epoch));
            }
        });
    }
}
