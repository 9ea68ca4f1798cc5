//! The real binary, from the outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod commands;
mod discovery;
mod exec;
mod otlp;
mod rotation;
#[cfg(target_os = "linux")]
mod run;
mod support;
mod template;
mod writing;
