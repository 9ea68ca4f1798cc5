//! Certificates and keys of TLS servers and clients, replaced under open connections.
//!
//! [`TlsServer`] says which secrets are a server's identities and how they are proven; [`TlsClient`]
//! does so for a client, with the roots that it believes. Each becomes a [`TlsHook`] that builds
//! one rustls configuration per generation: new handshakes get the new one at once, connections
//! that are open keep theirs, are counted, and are told when to end. That a listener serves what
//! was committed is not believed but read back from it, by a real handshake.
//!
//! It is *not* an ACME client or an authority: somebody else issues certificates and puts them into
//! the store. It accepts no connections by itself and speaks no protocol above TLS. TLS is rustls
//! on ring.
#![forbid(unsafe_code)]

mod identity;
mod roots;
mod proof;
mod probe;
mod server;
mod client;
mod connection;
mod hook;
mod tally;

pub use client::{ClientTls, TlsClient};
pub use connection::Connection;
pub use hook::TlsHook;
pub use identity::Identity;
pub use probe::{Served, served};
pub use roots::Roots;
pub use server::{Resumption, ServerTls, TlsServer};
