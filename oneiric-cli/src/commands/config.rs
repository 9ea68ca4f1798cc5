//! `oneiric config`: which settings hold, and whether they are good.

use oneiric_runtime::Assembly;
use serde::Serialize;

use crate::cli::{ConfigCommand, Global};
use crate::exit::Exit;
use crate::failure::Result;
use crate::registry::registry;
use crate::render::Table;
use crate::{output, telemetry};

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
        ConfigCommand::Check => {
            telemetry::log_filter(&settings.telemetry, 0)?;
            let assembly = Assembly::from_settings(&settings, &registry())?;
            let providers = assembly.resolver.providers().count();
            let adapters = assembly.adapters.len();
            let aliases = match settings.secrets.len() {
                0 => String::new(),
                number => format!(", {number} aliases"),
            };
            output::line(&format!("OK: {providers} providers, {adapters} adapters{aliases}"))?;
        }
    }
    Ok(Exit::DONE)
}
