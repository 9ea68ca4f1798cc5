//! Secrets from a directory tree: one file per key, or a JSON, TOML, YAML or dotenv file whose
//! fields are addressed by `#field`.
//!
//! A key is a path relative to the root, such as `db/password`. Files may be replaced by a rename
//! or, as Kubernetes does it, all at once by swapping a `..data` link; what is read in one call
//! under such a link is of one swap. Writers that change a file in place are detected where the
//! file system shows it, but only a rename or a swap is atomic.
//!
//! With `write = true` it keeps the versions of what it writes beside the tree, and a process that
//! is killed while it writes leaves the old secret or the new one, never half of either.
//!
//! It does *not* cache or retry, and it never follows a link out of its root.
#![forbid(unsafe_code)]

mod config;
mod client;
mod view;
mod tree;
mod read;
mod grain;
mod content;
mod dotenv;
mod list;
mod watch;
mod pending;
mod permissions;
mod store;
mod writer;
mod error;

pub use client::FileProvider;
pub use config::{Config, Format};
pub use permissions::Permissions;
