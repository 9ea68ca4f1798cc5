//! The binary `oneiric`: the agent, rotation, status and configuration, for people and scripts.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod registry;
#[cfg(all(feature = "process", target_os = "linux"))]
mod launch;
mod telemetry;
mod harden;
mod render;
mod output;
mod failure;
mod exit;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser as _;

/// What is freed is wiped first: buffers of parsers and sockets hold secrets, too.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

fn main() -> ExitCode {
    #[cfg(all(feature = "process", target_os = "linux"))]
    if let Some(code) = launch::requested(std::env::args_os()) {
        return code;
    }
    harden::process();
    let exit = commands::run(cli::Cli::parse()).unwrap_or_else(|failure| failure.report());
    ExitCode::from(exit.0)
}
