//! The recipes of the manual, each with the real program, the real agent and a load that never pauses.
//! What is in `docs/recipes` is used to the letter, but for where things are.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(dead_code, reason = "the scenarios use the rest of what they share with these tests")]

#[path = "../../src/certificates.rs"]
mod certificates;
#[path = "../../src/https.rs"]
mod https;
#[path = "../../src/load.rs"]
mod load;
#[path = "../../src/nginx.rs"]
mod nginx;
#[path = "../../src/operator.rs"]
mod operator;
#[path = "../../src/program.rs"]
mod program;
#[path = "../../src/recipe.rs"]
mod recipe;
#[path = "../../src/report.rs"]
mod report;
#[path = "../../src/trials.rs"]
mod trials;

mod haproxy;
mod postgresql;
mod rig;
mod socket;
mod units;
mod web;

/// What a report says of the plan that it was made by.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rotations: u32,
}
