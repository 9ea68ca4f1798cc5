//! Secrets from AWS Secrets Manager, through Amazon's own client.
//!
//! A key is the name of a secret or its ARN, with or without the six characters that AWS adds. The
//! current version is the one with the label `AWSCURRENT`. Changes are noticed by one sorted list,
//! whatever the number of secrets, and by EventBridge through a queue; neither reads a value.
//!
//! Everything that Secrets Manager answers is eventually consistent, and its version ids stand in
//! no order. So this crate keeps, for each secret, which version it has seen to be current and
//! since when, and takes no older answer for a newer one.
//!
//! It does *not* cache values or retry: Amazon's client is told not to, and the resolver does both.
#![forbid(unsafe_code)]

mod config;
mod client;
mod batch;
mod stamps;
mod known;
mod api;
mod pace;
mod identity;
mod names;
mod payload;
mod push;
mod message;
mod lister;
mod writer;
mod error;

pub use client::AwsProvider;
pub use config::{Config, Create, Push, Role};
