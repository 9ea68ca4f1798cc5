//! The runtime of a process: what carries a changed secret through to everyone who uses it.
//!
//! A [`Runtime`] knows the adapters of its process. A trigger, be it a call of
//! [`Runtime::rotate`], the admin endpoint, or the watcher that notices a change in a store, makes
//! it invalidate, read the new version, prepare every adapter that depends on it, commit all or
//! none, drain the old generations, and report.
//!
//! It is *not* a client of any store and names no provider and no adapter: those are handed in,
//! one by one or as a [`Registry`].
#![forbid(unsafe_code)]

mod runtime;
mod manager;
mod slot;
mod gate;
mod needs;
mod keys;
mod rotation;
pub mod report;
mod watcher;
mod outlook;
pub mod admin;
mod assembly;
mod tally;

pub use assembly::{AdapterFactory, Assembly, ProviderFactory, Registry, default_instance};
pub use runtime::{RotateRequest, Runtime, RuntimeOptions, RuntimeTask, new_rotation_id};
