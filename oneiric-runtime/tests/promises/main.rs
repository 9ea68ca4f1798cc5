//! The promises of the lifecycle and of the watcher, kept by a runtime over a store in memory.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;
mod metered;
mod optional;
mod lifecycle;
mod aliases;
mod start;
mod calls;
mod watcher;
mod push;
mod preparing;
mod refusals;
mod sweep;
