//! A service in any language, moved to new secrets by commands of its own.
//!
//! A [`Config`] names up to three commands: `prove` tries the new secrets, `apply` gives them to
//! the service, and `drain` says whether anybody still uses the old ones. [`CommandHook`] runs
//! them at their moments of a rotation. Secrets reach a command as one JSON object on its
//! standard input, never as arguments or in its environment.
//!
//! It is *not* a shell: a command is a list of arguments, and nothing in it is expanded. Nor does
//! it keep the service running.
#![forbid(unsafe_code)]

mod config;
mod hook;
mod delivery;

pub use config::Config;
pub use hook::CommandHook;
