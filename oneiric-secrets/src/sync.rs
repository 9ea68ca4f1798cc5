//! The synchronisation that the promises of the cache rest on, in one place: `proofs/` includes
//! these sources with twins of it whose every step a checker decides.

pub(crate) use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
