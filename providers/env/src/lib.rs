//! Secrets from the environment variables of this process: the key `db/password` is the variable
//! `ONEIRIC_SECRET_DB_PASSWORD`.
//!
//! The environment of a process is set when it starts, and nobody outside can change it after:
//! there is no push, and a rotation takes a new process or an embedder that sets the variable
//! itself. It is *not* the way in which Oneiric's own settings are given.
#![forbid(unsafe_code)]

mod config;
mod client;

pub use client::EnvProvider;
pub use config::Config;
