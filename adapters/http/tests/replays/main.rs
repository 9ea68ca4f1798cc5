//! Incidents that others had, replayed on the credential of an HTTP client: with this adapter no
//! request fails, and with a plain cache some do. Time is the test's, but for the storm.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod support;
mod damaged;
mod outage;
mod late_verifiers;
mod storm;
