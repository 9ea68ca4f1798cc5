//! Files with secrets in them, rendered from templates and replaced so that no reader sees half of
//! one.
//!
//! A [`Config`] names secrets, templates and their targets. [`TemplateHook`] renders all files of
//! an adapter from one consistent set, proves them, puts each in place by a rename, and tells their
//! reader. [`check`] renders them without a secret.
//!
//! It is *not* a general engine for pages: a template is one file, includes nothing, and nothing in
//! it is escaped unless it says so. Nor does it keep the reader running.
#![forbid(unsafe_code)]

mod config;
mod hook;
mod check;
mod template;
mod names;
mod values;
mod filters;
mod format;
mod forms;
mod staging;
mod target;
mod owner;
mod signal;

pub use check::{CheckReport, CheckedFile, check};
pub use config::{Config, FileConfig, SignalConfig};
pub use format::Format;
pub use hook::TemplateHook;
pub use signal::SignalName;
