//! The core of the cache under a checker that tries every schedule.
//!
//! What is real: `oneiric-secrets/src/epoch.rs`, included as it stands, with atomics that loom
//! watches. What is modelled, in [`protocol`]: the steps of `cell.rs`, `loader.rs`, `set.rs` and
//! `invalidate.rs` over it, in their order and under their locks, with an entry packed into one
//! atomic where the product has an `ArcSwap`. A change of those steps there is a change here; the
//! mutants in `mutants/` break the product itself.
#![forbid(unsafe_code)]

#[path = "../../../oneiric-secrets/src/epoch.rs"]
mod epoch;
mod sync;

pub mod protocol;
