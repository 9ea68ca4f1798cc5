//! `tidy`: what no compiler checks. Each check is a function from text to a list of problems, so
//! that its own tests can show that it fails where it should.

mod tree;
mod edges;
mod sources;
mod markdown;
mod architecture;
mod docs;
mod commands;
mod api;
mod telemetry;
mod snippets;

use crate::process::{Failure, Result};
use crate::workspace::Workspace;

use tree::Tree;

/// What is wrong, each in one sentence that names the place.
type Problems = Vec<String>;

/// All that a check may look at.
struct Context<'a> {
    workspace: &'a Workspace,
    tree: Tree,
    fix: bool,
}

/// A check: its name, and what it does.
type Check = (&'static str, fn(&Context<'_>) -> Result<Problems>);

const CHECKS: [Check; 8] = [
    ("edges", |context| Ok(edges::check(&context.workspace.packages))),
    ("sources", sources::check),
    ("architecture", architecture::check),
    ("docs", docs::check),
    ("commands", commands::check),
    ("api", api::check),
    ("telemetry", telemetry::check),
    ("snippets", snippets::check),
];

/// `cargo xtask tidy`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let fix = match args {
        [] => false,
        [flag] if flag == "--fix" => true,
        _ => return Err(Failure::usage("tidy takes `--fix` or nothing")),
    };
    let context = Context { workspace, tree: Tree::load(&workspace.root)?, fix };
    let mut count = 0;
    for (name, check) in CHECKS {
        let problems = check(&context)?;
        for problem in &problems {
            println!("tidy: {name}: {problem}");
        }
        if problems.is_empty() {
            println!("tidy: {name}: ok");
        }
        count += problems.len();
    }
    match count {
        0 => Ok(()),
        1 => Err(Failure::new("tidy found one problem")),
        _ => Err(Failure::new(format!("tidy found {count} problems"))),
    }
}
