//! Against a private Redis: what users of the adapter notice of a rotation, and what the server sees
//! of it.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod server;
mod rotations;
mod dedicated;
mod refusals;
mod acl;
