//! The cache itself under a scheduler that a checker decides: the sources of `oneiric-secrets` as
//! they stand, with twins of the locks, atomics, tasks and channels whose every use is a point at
//! which another task may go on.
//!
//! Not watched is `arc-swap`: its operations are taken as single steps.
#![forbid(unsafe_code)]

#[path = "../../../oneiric-secrets/src/resolver.rs"]
mod resolver;
#[path = "../../../oneiric-secrets/src/options.rs"]
mod options;
#[path = "../../../oneiric-secrets/src/entry.rs"]
mod entry;
#[path = "../../../oneiric-secrets/src/handle.rs"]
mod handle;
#[path = "../../../oneiric-secrets/src/event.rs"]
mod event;
#[path = "../../../oneiric-secrets/src/cache.rs"]
mod cache;
#[path = "../../../oneiric-secrets/src/cell.rs"]
mod cell;
#[path = "../../../oneiric-secrets/src/shared.rs"]
mod shared;
#[path = "../../../oneiric-secrets/src/read.rs"]
mod read;
#[path = "../../../oneiric-secrets/src/alias.rs"]
mod alias;
#[path = "../../../oneiric-secrets/src/prefetch.rs"]
mod prefetch;
#[path = "../../../oneiric-secrets/src/set.rs"]
mod set;
#[path = "../../../oneiric-secrets/src/loader.rs"]
mod loader;
#[path = "../../../oneiric-secrets/src/flight.rs"]
mod flight;
#[path = "../../../oneiric-secrets/src/courtesy.rs"]
mod courtesy;
#[path = "../../../oneiric-secrets/src/invalidate.rs"]
mod invalidate;
#[path = "../../../oneiric-secrets/src/keeper.rs"]
mod keeper;
#[path = "../../../oneiric-secrets/src/epoch.rs"]
mod epoch;
mod sync;
#[path = "../../../oneiric-secrets/src/field.rs"]
mod field;
#[path = "../../../oneiric-secrets/src/verify.rs"]
mod verify;
#[path = "../../../oneiric-secrets/src/ticker.rs"]
mod ticker;
#[path = "../../../oneiric-secrets/src/tally.rs"]
mod tally;

pub use entry::{CachedSecret, Secret};
pub use event::SecretEvent;
pub use handle::{Handle, HandleGuard, HandleReader};
pub use options::ResolverOptions;
pub use resolver::{Mode, Resolver, Scope};
