//! The admin endpoint over real sockets: who is answered, what, and for how long.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;
mod rules;
mod limits;
mod rotation;
mod reading;
mod life;
mod trace;
