//! `oneiric secrets versions`: what the store keeps of one secret.

use oneiric_core::{ErrorKind, VersionInfo};
use serde::Serialize;

use super::store::{Store, whole};
use crate::cli::{Global, Versions};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;
use crate::render::Table;
use crate::telemetry::Telemetry;

/// One version in `--json`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    version: String,
    state: &'static str,
    current: bool,
    labels: &'a [String],
    created: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Versions) -> Result<Exit> {
    let key = whole(&args.reference)?;
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let store = Store::of(&settings, &args.reference)?;
    let versions = store.versions(key).await.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => store.cannot("list the versions of a secret"),
        _ => Failure::from(error),
    })?;
    if args.json {
        output::json(&versions.iter().map(Shown::from).collect::<Vec<_>>())?;
    } else {
        output::write(table(&versions).as_bytes())?;
    }
    telemetry.finish().await;
    Ok(Exit::DONE)
}

impl<'a> From<&'a VersionInfo> for Shown<'a> {
    fn from(info: &'a VersionInfo) -> Self {
        let created = info.created.map(|time| humantime::format_rfc3339_seconds(time).to_string());
        Self {
            version: info.version.to_string(),
            state: info.state.token(),
            current: info.current,
            labels: &info.labels,
            created,
        }
    }
}

fn table(versions: &[VersionInfo]) -> String {
    let mut table = Table::new(["version", "state", "current", "labels", "created"]);
    for shown in versions.iter().map(Shown::from) {
        table.row([
            shown.version,
            shown.state.to_owned(),
            if shown.current { "yes".to_owned() } else { String::new() },
            shown.labels.join(" "),
            shown.created.unwrap_or_default(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use oneiric_core::{Version, VersionState};

    use super::*;

    #[test]
    fn the_table_says_all_that_is_known() {
        let mut newest = VersionInfo::new(Version::numbered(7), VersionState::Enabled);
        newest.current = true;
        newest.labels = vec!["current".into(), "blue".into()];
        newest.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        let oldest = VersionInfo::new(Version::opaque("x"), VersionState::Destroyed);
        assert_eq!(
            table(&[newest, oldest]),
            "VERSION  STATE      CURRENT  LABELS        CREATED\n\
             7        enabled    yes      current blue  1970-01-01T00:00:01Z\n\
             x        destroyed  -        -             -\n"
        );
    }
}
