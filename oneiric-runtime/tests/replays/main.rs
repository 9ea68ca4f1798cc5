//! Incidents played again: what happened to others must not happen here, and must happen to what
//! most services have instead.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod events;
mod server;
