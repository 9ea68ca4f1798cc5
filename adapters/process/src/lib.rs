//! A child process with secrets, moved to new ones.
//!
//! A [`Config`] says what runs, which secrets it is given in its environment, as files and on
//! descriptors, and what happens when one of them changes. [`ProcessHook`] runs it as an adapter:
//! it starts a new child beside the old one, or one after the other, or signals the one that there
//! is. [`OneShot`] runs a command once, without a runtime, as if it had been called in our place.
//!
//! It is *not* a shell: nothing in a command is expanded. Nor is it an init system: it knows the
//! children that it has started and nothing of what they depend on. It is for Linux.
#![forbid(unsafe_code)]

mod config;
mod hook;
mod moves;
mod supervise;
mod slot;
mod generation;
mod ready;
mod ground;
mod spawner;
mod leader;
mod strangers;
mod once;
mod ignored;
mod ending;
mod terminal;
mod child;
pub mod launcher;
mod delivery;
mod folder;
mod sockets;
mod processes;

pub use config::{Config, OnChange, OnExit, Orphans, Ready, SignalName};
pub use ending::Ending;
pub use hook::ProcessHook;
pub use ignored::is_ignored;
pub use launcher::Launcher;
pub use once::OneShot;
