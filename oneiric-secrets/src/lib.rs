//! The cache, the loader and the resolver: how a process gets secrets, and how it is made sure
//! that none from before an invalidation is served as fresh after it.
//!
//! [`Resolver`] is the one door. Behind it a value is found in the cache or fetched by the
//! single-flight loader; [`Handle`]s follow a secret through its changes;
//! [`Resolver::invalidate_secrets`] is how a change begins.
//!
//! It knows no adapter and no provider by name, and decides nothing about rotation: see
//! `oneiric-runtime`.
#![forbid(unsafe_code)]

mod resolver;
mod options;
mod entry;
mod handle;
mod event;
mod cache;
mod cell;
mod shared;
mod read;
mod alias;
mod prefetch;
mod set;
mod loader;
mod flight;
mod courtesy;
mod invalidate;
mod keeper;
mod epoch;
mod sync;
mod field;
mod verify;
mod ticker;
mod tally;

pub use entry::{CachedSecret, Secret};
pub use event::SecretEvent;
pub use handle::{Handle, HandleGuard, HandleReader};
pub use options::ResolverOptions;
pub use resolver::{Mode, Resolver, Scope};
