//! `oneiric secrets list`: which secrets there are.

use oneiric_core::{Error, ErrorKind, ProviderId, SecretKey, SecretProvider, SecretRef};
use serde::Serialize;

use super::providers;
use crate::cli::{Global, List};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;
use crate::telemetry::Telemetry;

/// One secret in `--json`.
#[derive(Debug, Serialize)]
struct Listed {
    reference: SecretRef,
    provider: ProviderId,
    key: String,
}

pub(super) async fn run(global: &Global, args: &List) -> Result<Exit> {
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let resolver = providers(&settings)?.resolver;
    if let Some(id) = &args.provider
        && !resolver.providers().any(|(known, _)| known == id)
    {
        let known: Vec<_> = resolver.providers().map(|(id, _)| id.as_str()).collect();
        let failure = Failure::new(Exit::FAILED, format!("there is no provider `{id}`"));
        return Err(failure.remedy(format!("the settings have: {}", known.join(", "))));
    }
    let mut listed = Vec::new();
    let mut exit = Exit::DONE;
    for (id, provider) in resolver.providers() {
        if args.provider.as_ref().is_some_and(|only| only != id) {
            continue;
        }
        match keys(id, provider.as_ref()).await {
            Ok(keys) => listed.extend(keys.into_iter().map(|key| Listed {
                reference: SecretRef::new(id.clone(), key.clone()),
                provider: id.clone(),
                key: key.to_string(),
            })),
            // The others are listed all the same.
            Err(error) => exit = Failure::from(error).report(),
        }
    }
    if args.json {
        output::json(&listed)?;
    } else {
        let lines = listed.iter().map(|secret| format!("{}\n", secret.reference));
        output::write(lines.collect::<String>().as_bytes())?;
    }
    telemetry.finish().await;
    Ok(exit)
}

async fn keys(
    id: &ProviderId,
    provider: &dyn SecretProvider,
) -> oneiric_core::Result<Vec<SecretKey>> {
    let Some(lister) = provider.lister() else {
        let kind = provider.descriptor().kind;
        let message = format!("provider `{id}` cannot list its secrets: no `{kind}` can");
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    let keys = lister.list().await;
    keys.map_err(|error| error.context(format!("cannot list the secrets of provider `{id}`")))
}
