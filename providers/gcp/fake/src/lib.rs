//! A fake of Google Cloud Secret Manager and of as much of Pub/Sub as its change events need:
//! HTTP/1.1 and JSON, written from the documentation of the public API.
//!
//! It has what a client must cope with: `latest`, aliases, lists and metadata that show late,
//! quotas, etags, pages, checksums, versions that are disabled or destroyed; and faults on demand.
//! Its books hold every call with its time.
//!
//! It is *not* the real thing: where the documentation is silent, it guesses, and
//! `docs/providers/gcp.md` lists what was never seen on the real service. It knows nothing of
//! Oneiric, so that it cannot agree with a mistake of ours, and it holds what it is given in plain
//! memory: no place for a real secret.
#![forbid(unsafe_code)]

mod fake;
mod fault;
mod books;
mod server;
mod reply;
mod resource;
mod store;
mod secrets;
mod pubsub;

pub use books::{Entry, Quota};
pub use fake::Fake;
pub use fault::{Fault, PushFault, Retry};
pub use pubsub::Feed;
