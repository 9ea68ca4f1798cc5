//! Invalidation: what makes sure that nothing from before is served as fresh.

use std::collections::BTreeMap;
use std::sync::Arc;

use oneiric_core::telemetry::{event, span};
use oneiric_core::{ProviderId, Result, SecretKey, SecretRef};

use crate::cell::{Cell, Source};
use crate::epoch::Bounds;
use crate::event::SecretEvent;
use crate::resolver::{Mode, Scope};
use crate::shared::Shared;

/// A provider, and those of its secrets that are meant; all of them if `None`.
type Part<'a> = (&'a Arc<Source>, Option<Vec<SecretKey>>);

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
        let (sources, name): (Vec<Part<'_>>, _) = match scope {
            Scope::All => (self.cache.sources.values().map(|of| (of, None)).collect(), "all"),
            Scope::Provider(id) => (vec![(self.cache.source(id)?, None)], "provider"),
            Scope::Keys(id, keys) => (vec![(self.cache.source(id)?, Some(keys.clone()))], "keys"),
            Scope::Secrets(references) => {
                let named = self.named(references)?;
                let of_source = |(id, keys)| Ok((self.cache.source(&id)?, Some(keys)));
                (named.into_iter().map(of_source).collect::<Result<_>>()?, "keys")
            }
        };
        let saying = self.saying();
        // First the epoch, then the cells: one that is missed began its first fetch after it.
        let epoch = self.epochs.open();
        let mut cells: Vec<Arc<Cell>> = Vec::new();
        let mut whole = Vec::new();
        for (source, keys) in &sources {
            match keys {
                Some(keys) => {
                    cells.extend(keys.iter().flat_map(|key| self.cache.cells_of(&source.id, key)));
                }
                None => {
                    source.bounds.invalidate(mode, epoch);
                    whole.push(source.id.clone());
                }
            }
        }
        cells.iter().for_each(|cell| cell.invalidate(mode, epoch));
        drop(saying);
        if mode == Mode::Hard {
            cells.iter().for_each(|cell| cell.wipe(epoch));
            if !whole.is_empty() {
                self.sweep(whole, epoch);
            }
        }
        self.tally.invalidated(mode.token(), name);
        for (source, keys) in sources {
            tracing::info!(
                target: "oneiric",
                event = event::CACHE_INVALIDATED,
                provider = %source.id,
                scope = name,
                mode = mode.token(),
                "secrets are invalidated"
            );
            self.tell(SecretEvent::Invalidated { provider: source.id.clone(), keys, mode });
        }
        self.keeper.wake.notify_one();
        Ok(())
    }

    /// The secrets of these references by their providers; those of an alias are all of its
    /// candidates'.
    fn named(&self, references: &[SecretRef]) -> Result<BTreeMap<ProviderId, Vec<SecretKey>>> {
        let mut named: BTreeMap<ProviderId, Vec<SecretKey>> = BTreeMap::new();
        for reference in references {
            for secret in self.candidates(reference)? {
                let keys = named.entry(secret.provider().clone()).or_default();
                if !keys.contains(secret.key()) {
                    keys.push(secret.key().clone());
                }
            }
        }
        Ok(named)
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
