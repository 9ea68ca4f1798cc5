//! Secrets from Google Cloud Secret Manager, through Google's own client.
//!
//! A key is the id of a secret in the configured project, or the full name of a secret. Versions
//! are numbers. Which one is current is what the settings say: `latest`, the newest that is
//! enabled, or what a pointer names: an alias or an annotation that whoever rotates moves. With a
//! pointer, one call shows every change in a project, and no call of any mode of detection reads a
//! value.
//!
//! It does *not* cache or retry: Google's client is told not to, and the resolver does both. It
//! does keep the one quota that nobody else can see, that of metadata reads.
#![forbid(unsafe_code)]

mod config;
mod client;
mod current;
mod stamps;
mod api;
mod pace;
mod auth;
mod names;
mod payload;
mod push;
mod message;
mod lister;
mod writer;
mod attempts;
mod error;

pub use client::GcpProvider;
pub use config::{Config, Create, Current, Identity, Push};
