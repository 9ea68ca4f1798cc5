//! The real binary, from the outside.

mod commands;
mod otlp;
mod rotation;
mod support;
