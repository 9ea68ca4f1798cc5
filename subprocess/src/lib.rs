//! One run of a command that an adapter calls: fed, bounded in time, and ended with everything that
//! it started.
//!
//! A [`Step`] says what runs and in which surroundings. What the command says is repeated only
//! through a [`Redactor`], which knows what must not be seen.
//!
//! It is *not* a shell: a command is a list of arguments, and nothing in it is expanded. Nor does
//! it keep anything running.
#![forbid(unsafe_code)]

mod step;
mod redact;
mod child;

pub use redact::Redactor;
pub use step::{PASSED_ON, Step};
