//! The cache beside its peers: what `cargo xtask bench` runs.
//!
//! Everything here goes through the public interface of `oneiric-secrets`, as an embedder would.
//! It is *not* a place where anything is tested: it measures, compares with the target, and
//! reports what it saw, whether that is pleasing or not.
#![forbid(unsafe_code)]

pub mod report;
pub mod workload;
pub mod ours;
pub mod peers;
#[cfg(feature = "aws")]
mod aws;
pub mod variant;
pub mod hits;
pub mod children;
pub mod calls;
pub mod failures;
pub mod large;
pub mod program;
pub mod resident;
pub mod swaps;
