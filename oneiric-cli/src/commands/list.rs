//! `oneiric secrets list`: which secrets there are.

use oneiric_core::settings::{SecretSettings, Settings};
use oneiric_core::{
    AliasId, Error, ErrorKind, ProviderId, SecretKey, SecretKind, SecretProvider, SecretRef,
};
use serde::Serialize;

use super::providers;
use crate::cli::{Global, List};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;
use crate::render::Table;
use crate::telemetry::Telemetry;

/// One secret in `--json`.
#[derive(Debug, Serialize)]
struct Listed {
    reference: SecretRef,
    provider: ProviderId,
    key: String,
}

/// One alias in `--json`.
#[derive(Debug, Serialize)]
struct Alias<'a> {
    alias: &'a AliasId,
    /// Who may answer, the first one first.
    references: &'a [SecretRef],
    /// The variable in which a command gets it.
    env: String,
    required: bool,
    has_default: bool,
    kind: Option<&'static str>,
    description: Option<&'a str>,
}

pub(super) async fn run(global: &Global, args: &List) -> Result<Exit> {
    let settings = global.settings()?;
    if args.aliases {
        return aliases(&settings, args.json);
    }
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

fn aliases(settings: &Settings, json: bool) -> Result<Exit> {
    let aliases: Vec<_> = settings.secrets.iter().map(|(id, of)| Alias::new(id, of)).collect();
    if json {
        output::json(&aliases)?;
        return Ok(Exit::DONE);
    }
    let mut table = Table::new(["alias", "references", "variable", "required", "kind", "what for"]);
    for of in aliases {
        let references: Vec<_> = of.references.iter().map(ToString::to_string).collect();
        let required = match (of.required, of.has_default) {
            (true, _) => "yes",
            (false, true) => "no, has a default",
            (false, false) => "no",
        };
        table.row([
            of.alias.to_string(),
            references.join(" "),
            of.env,
            required.to_owned(),
            of.kind.unwrap_or_default().to_owned(),
            of.description.unwrap_or_default().to_owned(),
        ]);
    }
    output::write(table.render().as_bytes())?;
    Ok(Exit::DONE)
}

impl<'a> Alias<'a> {
    fn new(alias: &'a AliasId, of: &'a SecretSettings) -> Self {
        Self {
            alias,
            references: &of.candidates,
            env: of.variable(alias),
            required: of.required,
            has_default: of.default.is_some(),
            kind: of.kind.map(SecretKind::token),
            description: of.description.as_deref(),
        }
    }
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
