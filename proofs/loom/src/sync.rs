//! The twin of `oneiric-secrets/src/sync.rs`.

pub(crate) use loom::sync::atomic;
