//! The credential header of an HTTP client, replaced under running requests.
//!
//! [`HttpCredential`] holds one header (bearer, basic or any other) in the types of the `http`
//! crate, so it works with every client that uses them.
//!
//! It is *not* a client: it sends nothing, so the proof, a real request, is yours to give. Nor
//! does it repeat a request that was refused.
#![forbid(unsafe_code)]

mod credential;
mod hook;

pub use credential::HttpCredential;
