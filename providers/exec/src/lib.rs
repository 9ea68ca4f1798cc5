//! Secrets from a program: anything that reads JSON lines and writes JSON lines can be a provider.
//!
//! One process runs as long as the provider does. It is started by the first question, told each
//! further one with an id, and may answer several at once and in any order. The protocol is
//! `docs/providers/exec-protocol.md`.
//!
//! It is *not* a way to run a command per secret, and it never puts a value into arguments or the
//! environment. It does not cache or retry: a program that ends is started again, and what it was
//! asked is answered with an error.
#![forbid(unsafe_code)]

mod config;
mod client;
mod protocol;
mod manager;
mod session;
mod child;
mod lines;
mod stderr;
mod redact;
mod error;

pub use client::ExecProvider;
pub use config::{Capability, Config};
