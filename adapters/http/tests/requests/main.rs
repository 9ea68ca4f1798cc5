//! What becomes of single requests: which credential they carry, when they are sent once more, and
//! how long a generation is in use. Nothing here needs a network; time is the test's.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod support;
mod attempts;
mod holding;
mod whole_clients;
