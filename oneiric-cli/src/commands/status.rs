//! `oneiric status`: what each running instance serves, and how it hears of changes.

use std::time::Duration;

use futures_util::future::join_all;
use oneiric_runtime::report::{InstanceStatus, ProviderStatus};

use super::reach::{Discovered, Reach};
use crate::cli::{Global, Status};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{self, tell};
use crate::render::Table;
use crate::telemetry::Telemetry;

pub(super) async fn run(global: &Global, args: &Status) -> Result<Exit> {
    let settings = global.settings()?;
    let telemetry = Telemetry::start(&settings.telemetry, global.verbose, None)?;
    let reach = Reach::new(&settings);
    let Discovered { peers, stale } = reach.discovered()?;
    for (instance, endpoint) in &stale {
        tell(&format!(
            "note: `{instance}` has ended and left {endpoint} behind; the next start there removes it"
        ));
    }
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
        output::write(adapters(&statuses).as_bytes())?;
        output::write(format!("\n{}", providers(&statuses)).as_bytes())?;
    }
    telemetry.finish().await;
    if statuses.is_empty() { Err(reach.nobody()) } else { Ok(exit) }
}

fn adapters(statuses: &[InstanceStatus]) -> String {
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
            let versions = versions.map(|held| match &held.fallback {
                None => format!("{}={}", held.reference, held.version),
                Some(provider) => format!("{}={} ({provider})", held.reference, held.version),
            });
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

fn providers(statuses: &[InstanceStatus]) -> String {
    let mut table = Table::new([
        "instance",
        "provider",
        "kind",
        "noticed by",
        "keys",
        "worst case",
        "calls a day",
        "usd a month",
        "missed",
    ]);
    for status in statuses {
        for of in &status.providers {
            table.row([
                status.instance.to_string(),
                of.provider.to_string(),
                of.kind.clone(),
                if of.push_lost { format!("{} (push lost)", of.mode) } else { of.mode.clone() },
                of.keys.to_string(),
                worst_case(of),
                format!("{:.0}", of.calls_a_day),
                of.usd_a_month.map(|usd| format!("{usd:.2}")).unwrap_or_default(),
                of.missed_events.to_string(),
            ]);
        }
    }
    table.render()
}

/// When a change is noticed at the latest. Where the store promises nothing, neither do we.
fn worst_case(of: &ProviderStatus) -> String {
    let shown = |seconds: f64| {
        let duration = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX);
        humantime::format_duration(duration).to_string()
    };
    match (of.worst_case_s, of.at_least_s) {
        (Some(bound), _) => shown(bound),
        (None, Some(ours)) => format!("no bound, at least {}", shown(ours)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(worst_case_s: Option<f64>, at_least_s: Option<f64>) -> ProviderStatus {
        ProviderStatus {
            provider: "cloud".parse().unwrap(),
            kind: "gcp".into(),
            mode: "sweep".into(),
            push_lost: true,
            keys: 1000,
            worst_case_s,
            at_least_s,
            calls_a_day: 1440.0,
            usd_a_month: None,
            missed_events: 2,
        }
    }

    #[test]
    fn a_bound_is_shown_only_where_there_is_one() {
        assert_eq!(worst_case(&provider(Some(32.5), None)), "33s");
        assert_eq!(worst_case(&provider(None, Some(3960.0))), "no bound, at least 1h 6m");
        assert_eq!(worst_case(&provider(None, None)), "");
        let status = InstanceStatus {
            instance: "web-1".parse().unwrap(),
            pid: 1,
            uptime_s: 1,
            adapters: Vec::new(),
            providers: vec![provider(None, Some(66.0))],
        };
        assert_eq!(
            providers(&[status]),
            "INSTANCE  PROVIDER  KIND  NOTICED BY         KEYS  WORST CASE                CALLS A DAY  \
             USD A MONTH  MISSED\n\
             web-1     cloud     gcp   sweep (push lost)  1000  no bound, at least 1m 6s  1440         \
             -            2\n"
        );
    }
}
