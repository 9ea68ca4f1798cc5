//! For those who write providers and adapters, and for the tests of everything that calls them.
//!
//! [`conformance`] tries a provider on everything that its contract and its declared capabilities
//! promise; its author brings a [`Rig`], which puts the store out of order by one [`Fault`] after
//! the other. [`MemoryProvider`] is a store that a test scripts: slow, hanging, failing or changing
//! on demand. [`scan_for_canary`] finds a secret in captured output,
//! however it was encoded, and [`poll_at_most`] cancels a future at each of its awaits. [`live`]
//! starts real servers for suites that need them.
//!
//! [`adapter_conformance`] is the sibling for adapters: it drives a hook as the runtime does, and
//! its author brings an [`AdapterRig`], which mints, revokes and counts credentials at the server
//! and puts it out of order by one [`ServerFault`] after the other.
//!
//! It is a dev-dependency only, and no place to keep a real secret: a double counts and holds
//! what it is given for as long as the test runs.
#![forbid(unsafe_code)]

mod rig;
mod report;
mod conformance;
mod cases;
mod bench;
mod capture;
mod poll;
mod canary;
mod memory;
mod adapter;
pub mod live;

pub use adapter::{
    AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
    adapter_conformance,
};
pub use canary::scan_for_canary;
pub use conformance::conformance;
pub use memory::MemoryProvider;
pub use poll::poll_at_most;
pub use report::{Outcome, Report};
pub use rig::{Ability, Fault, Rig};
