//! A PostgreSQL pool whose login is replaced under running queries.
//!
//! [`PostgresPool`] says where the server is and which secrets are the login; it becomes a
//! [`ManagedHook`](oneiric_core::ManagedHook) that builds one sqlx pool per generation. A new
//! login is proven by a fresh connection and a real statement before its pool serves; the old
//! pool is closed when its last user is done.
//!
//! It is *not* a way to change passwords or roles in the server, and it opens no transaction of
//! its own. Encrypted connections need one of sqlx's `tls-…` features in your own `Cargo.toml`.
#![forbid(unsafe_code)]

mod config;
mod error;
mod hook;

pub use config::PostgresPool;
