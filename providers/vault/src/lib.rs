//! Secrets from the key-value engines of HashiCorp Vault and OpenBao, and credentials that they
//! lease, over their HTTP API.
//!
//! A key is the path of a secret within one mount. Of KV version 2 the versions are numbers, the
//! newest is current, and changes are noticed by its metadata, without reading a value. KV version
//! 1 keeps one value and says nothing about it, so it is read and no more. The login is our own:
//! a token, or one of AppRole, Kubernetes and JWT, kept alive and replaced when it is refused.
//!
//! Of an engine that leases credentials, one lease of each key is held, renewed, replaced before it
//! ends, and given back when the process is done.
//!
//! It does *not* cache or retry: the resolver does. It makes no roles and changes no engine.
#![forbid(unsafe_code)]

mod config;
mod client;
mod kv;
mod payload;
mod lister;
mod leases;
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
pub use config::{AppRole, Auth, Config, Engine, Jwt, Kubernetes, Kv};
