//! `oneiric secrets get`: one value, and nothing but it.

use std::io::{self, IsTerminal as _};

use super::providers;
use crate::cli::{Get, Global};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{self, tell};
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global, args: &Get) -> Result<Exit> {
    let terminal = io::stdout().is_terminal();
    if terminal && !args.reveal {
        let failure = Failure::new(Exit::USAGE, "a secret is not printed on a terminal");
        return Err(failure.remedy("pass it on through a pipe, or give --reveal to see it"));
    }
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let secret = providers(&settings)?.resolver.get(&args.reference).await?;
    if let Some(provider) = secret.fallback() {
        tell(&format!(
            "warning: `{}` is from its fallback `{provider}`: those before cannot answer",
            args.reference
        ));
    }
    output::write(secret.value().expose())?;
    if terminal {
        output::write(b"\n")?;
    }
    telemetry.finish().await;
    Ok(Exit::DONE)
}
