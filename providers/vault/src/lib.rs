//! Secrets from the key-value engines of HashiCorp Vault and OpenBao, over their HTTP API.
//!
//! A key is the path of a secret within one mount. Of KV version 2 the versions are numbers, the
//! newest is current, and changes are noticed by its metadata, without reading a value. KV version
//! 1 keeps one value and says nothing about it, so it is read and no more. The login is our own:
//! a token, or one of AppRole, Kubernetes and JWT, kept alive and replaced when it is refused.
//!
//! It does *not* cache or retry: the resolver does. It hands out no leases: dynamic credentials
//! are not here.
#![forbid(unsafe_code)]

mod config;
mod client;
mod kv;
mod payload;
mod lister;
mod writer;
mod attempts;
mod api;
mod session;
mod keeper;
mod login;
mod http;
mod nodes;
mod error;

pub use client::VaultProvider;
pub use config::{AppRole, Auth, Config, Jwt, Kubernetes, Kv};
