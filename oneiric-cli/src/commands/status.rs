//! `oneiric status`: what each running instance serves.

use std::time::Duration;

use futures_util::future::join_all;
use oneiric_runtime::report::InstanceStatus;

use super::reach::Reach;
use crate::cli::{Global, Status};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output;
use crate::render::Table;
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global, args: &Status) -> Result<Exit> {
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let reach = Reach::new(&settings);
    let peers = reach.discovered()?;
    let answers = join_all(peers.iter().map(|peer| peer.client.status())).await;
    let mut exit = Exit::DONE;
    let mut statuses = Vec::new();
    for answer in answers {
        match answer {
            Ok(status) => statuses.push(status),
            Err(error) => exit = Failure::new(Exit::FAILED, error).report(),
        }
    }
    if args.json {
        output::json(&statuses)?;
    } else if !statuses.is_empty() {
        output::write(table(&statuses).as_bytes())?;
    }
    telemetry.finish().await;
    if statuses.is_empty() { Err(reach.nobody()) } else { Ok(exit) }
}

fn table(statuses: &[InstanceStatus]) -> String {
    let mut table = Table::new([
        "instance",
        "pid",
        "uptime",
        "adapter",
        "generation",
        "draining",
        "versions",
        "last error",
    ]);
    for status in statuses {
        let instance = || status.instance.to_string();
        let pid = || status.pid.to_string();
        let uptime =
            || humantime::format_duration(Duration::from_secs(status.uptime_s)).to_string();
        for adapter in &status.adapters {
            let versions = adapter.versions.iter();
            let versions = versions.map(|held| format!("{}={}", held.reference, held.version));
            table.row([
                instance(),
                pid(),
                uptime(),
                adapter.adapter.to_string(),
                adapter.generation.to_string(),
                adapter.draining.to_string(),
                versions.collect::<Vec<_>>().join(" "),
                adapter.error.clone().unwrap_or_default(),
            ]);
        }
        if status.adapters.is_empty() {
            let none = String::new;
            table.row([instance(), pid(), uptime(), none(), none(), none(), none(), none()]);
        }
    }
    table.render()
}
