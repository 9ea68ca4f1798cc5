//! `oneiric config check`: whether the settings are good, and the secrets that they name.

use oneiric_core::settings::{SecretSettings, Settings};
use oneiric_core::{AliasId, Error, ErrorKind, SecretRef};
use oneiric_runtime::Assembly;
use oneiric_secrets::{Resolver, Secret};
use serde::Serialize;

use super::ending;
use crate::cli::{Check, Global};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;
use crate::registry::registry;
use crate::render::Table;
use crate::telemetry::{self, Telemetry};

/// How the secret of one alias stands.
#[derive(Debug, Serialize)]
struct Standing {
    alias: AliasId,
    /// Where it is: by whom it was answered or, of what nobody answered, who is asked first.
    reference: String,
    /// The variable in which a command gets it.
    env: String,
    required: bool,
    kind: Option<&'static str>,
    description: Option<String>,
    /// `ok`, `default`, `absent`, `missing`, or the kind of the error.
    status: String,
    error: Option<String>,
}

pub(super) async fn run(global: &Global, settings: &Settings, args: &Check) -> Result<Exit> {
    telemetry::log_filter(&settings.telemetry, 0)?;
    let assembly = Assembly::from_settings(settings, &registry())?;
    for note in settings.notes() {
        output::tell(&format!("note: {note}"));
    }
    if !args.secrets {
        let providers = assembly.resolver.providers().count();
        let adapters = assembly.adapters.len();
        let aliases = match settings.secrets.len() {
            0 => String::new(),
            number => format!(", {number} aliases"),
        };
        output::line(&format!("OK: {providers} providers, {adapters} adapters{aliases}"))?;
        return Ok(Exit::DONE);
    }
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let standings = read(settings, &assembly.resolver).await;
    ending::close(&assembly.resolver).await;
    telemetry.finish().await;
    if args.json {
        output::json(&standings)?;
    } else {
        output::write(table(&standings).as_bytes())?;
    }
    let bad: Vec<_> = standings.iter().filter(|of| !of.is_good()).collect();
    if bad.is_empty() {
        return Ok(Exit::DONE);
    }
    let names: Vec<_> = bad.iter().map(|of| format!("`{}`", of.alias)).collect();
    Err(Failure::new(Exit::FAILED, format!("not good: {}", names.join(", "))))
}

/// Reads every alias, as patiently as a start does.
async fn read(settings: &Settings, resolver: &Resolver) -> Vec<Standing> {
    let aliases: Vec<_> = settings.secrets.keys().cloned().map(SecretRef::from).collect();
    let prefetched = resolver.prefetch(&aliases).await;
    let secrets = resolver.get_many(&aliases).await;
    let answers = prefetched.into_iter().zip(secrets).map(|(read, secret)| read.and(secret));
    let standing = |((alias, of), answer)| Standing::new(alias, of, answer, resolver);
    settings.secrets.iter().zip(answers).map(standing).collect()
}

impl Standing {
    fn new(
        alias: &AliasId,
        of: &SecretSettings,
        answer: oneiric_core::Result<Secret>,
        resolver: &Resolver,
    ) -> Self {
        let reference = SecretRef::from(alias.clone());
        let place = resolver.answering(&reference).map(|of| of.to_string()).unwrap_or_default();
        let (status, error) = match &answer {
            Ok(secret) if secret.is_default() => ("default".to_owned(), None),
            Ok(_) => ("ok".to_owned(), None),
            Err(error) => (status(of, error), Some(error.chain())),
        };
        Self {
            alias: alias.clone(),
            reference: place,
            env: of.variable(alias),
            required: of.required,
            kind: of.kind.map(oneiric_core::SecretKind::token),
            description: of.description.clone(),
            status,
            // That it is not there is no error of what need not be.
            error: error.filter(|_| !answer.is_err_and(|error| is_absence(of, &error))),
        }
    }

    fn is_good(&self) -> bool {
        ["ok", "default", "absent"].contains(&self.status.as_str())
    }
}

fn is_absence(of: &SecretSettings, error: &Error) -> bool {
    !of.required && error.kind() == ErrorKind::NotFound
}

fn status(of: &SecretSettings, error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound if of.required => "missing".to_owned(),
        // What has a default and is not there with one, but perhaps with another.
        ErrorKind::NotFound if of.default.is_some() => "missing".to_owned(),
        ErrorKind::NotFound => "absent".to_owned(),
        kind => kind.token().to_owned(),
    }
}

fn table(standings: &[Standing]) -> String {
    let mut table =
        Table::new(["alias", "status", "required", "kind", "reference", "what for", "why"]);
    for of in standings {
        table.row([
            of.alias.to_string(),
            of.status.clone(),
            if of.required { "yes" } else { "no" }.to_owned(),
            of.kind.unwrap_or_default().to_owned(),
            of.reference.clone(),
            of.description.clone().unwrap_or_default(),
            of.error.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}
