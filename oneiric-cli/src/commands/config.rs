//! `oneiric config`: which settings hold.

use serde::Serialize;

use super::{check, sequential};
use crate::cli::{ConfigCommand, Global};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output;
use crate::render::Table;

/// One setting in `--json`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: Option<&'a str>,
    origin: String,
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> Result<Exit> {
    let settings = global.settings()?;
    match command {
        ConfigCommand::Show { json: true } => {
            let shown = settings.explain().iter().map(|setting| Shown {
                key: &setting.key,
                value: setting.value.as_deref(),
                origin: setting.origin.to_string(),
            });
            output::json(&shown.collect::<Vec<_>>())?;
        }
        ConfigCommand::Show { json: false } => {
            let mut table = Table::new(["key", "value", "from"]);
            for setting in settings.explain() {
                let value = setting.value.clone().unwrap_or_default();
                table.row([setting.key.clone(), value, setting.origin.to_string()]);
            }
            output::write(table.render().as_bytes())?;
        }
        ConfigCommand::Check(args) => return sequential(check::run(global, &settings, args)),
    }
    Ok(Exit::DONE)
}
