//! Against real handshakes: what is refused, what is served, what is resumed, and how the old ends.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod authority;
mod client;
mod expiry;
mod parts;
mod refusals;
mod resumption;
mod served;
mod server;
