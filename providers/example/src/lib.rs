//! Secrets from a shelf: a small HTTP store that numbers the versions of what lies on it.
//!
//! It is the provider of `docs/providers/writing-a-provider.md`, and does what a provider must and
//! no more. It is *not* for use: its HTTP is plain, so a shelf must be on the same machine.
#![forbid(unsafe_code)]

mod config;
mod client;
mod error;

pub use client::ExampleProvider;
pub use config::Config;
