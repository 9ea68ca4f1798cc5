//! The behaviour of children, each promise by its name, with real ones.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod common;
mod container;
mod once;
mod overlap;
mod restart;
mod signal;
mod ends;
mod orphans;
mod sockets;
mod storm;
mod terminal;
