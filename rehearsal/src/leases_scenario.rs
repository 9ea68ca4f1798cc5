//! Two pools follow logins that live for four seconds, from lease to lease, while they are queried
//! without pause. Nobody rotates: a lease is replaced before it ends.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneiric_core::settings::Section;
use oneiric_core::{Error, ErrorKind, ProviderId, SecretProvider};
use oneiric_runtime::Registry;
use oneiric_runtime::report::AdapterOutcome;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::database::Database;
use crate::leases::{KEY, LONG, Leases, SHORT};
use crate::load::Load;
use crate::operator::{Attempt, Operator};
use crate::pools::{Keep, Pools};
use crate::postgres_naive::{Plain, client};
use crate::report::Report;
use crate::service::Service;
use crate::trials::{Trial, judge};

/// How long the next lease may take: several lives of one.
const NEXT: Duration = Duration::from_secs(40);
/// How long a client rests. A lease of four seconds leaves three for everything that its successor
/// takes: a machine that is kept busy by queries alone has no time for logins.
const REST: Duration = Duration::from_millis(5);
/// How long an old generation has to end.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the plain cache believes a lease: not for long, and longer than it lives.
const NAIVE_TTL: Duration = Duration::from_secs(6);

pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let leases = Leases::start(&database)?;
    let service = service(&leases)?;
    let operator = Operator::new(&service.socket(), &service.secrets())?.of("db");
    let login = ["db:creds/app#username", "db:creds/app#password"];
    let pools = Pools::start(&service.runtime, &database, login).await?;
    let load = pools.load(plan, REST);

    let mut old_uses = 0;
    for round in 1..=plan.rotations {
        pools.reach(u64::from(round) + 1, NEXT).await?;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        old_uses += database.orphans()?;
    }
    let mut trials = Vec::new();
    for number in 0..3 {
        let failed = load.failed();
        let mut trial = match number {
            0 => bad_lease(&operator, &leases, &pools).await?,
            1 => store_down(&operator, &leases, &pools).await?,
            _ => cannot_drain(&operator, &pools).await?,
        };
        let failed = load.failed() - failed;
        trial.must(failed == 0, || format!("{failed} requests failed meanwhile"));
        trials.push(trial);
    }

    let loaded = load.stop().await?;
    service.stop().await?;
    let report = Report::of("postgres-vault", plan, started, loaded);
    Ok(report.old_uses((old_uses, old_uses)).trials(trials))
}

fn service(leases: &Leases) -> Result<Service, String> {
    let registry = Registry::default().provider("vault", vault);
    let folder = tempfile::TempDir::new().map_err(|error| error.to_string())?;
    let token = leases.token(folder.path())?;
    let mut written = Ok(());
    let service = Service::over(&registry, |secrets| {
        let file = secrets.join("token");
        written = write_private(&file, &token);
        vec![
            ("secrets_watch_interval", "1s".to_owned()),
            ("agent.drain_timeout", format!("{}ms", DRAIN.as_millis())),
            ("providers.db.kind", "vault".to_owned()),
            ("providers.db.address", leases.address()),
            ("providers.db.engine", "leases".to_owned()),
            ("providers.db.auth.token_file", file.display().to_string()),
        ]
    });
    written.and(service)
}

fn write_private(path: &Path, text: &str) -> Result<(), String> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

fn vault(_: &ProviderId, section: &Section) -> oneiric_core::Result<Arc<dyn SecretProvider>> {
    let config: oneiric_provider_vault::Config =
        section.parse().map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(Arc::new(config.build()?))
}

/// Asks for a rotation until it ends with this exit code, or it is late.
async fn until(operator: &Operator, exit_code: i32) -> Result<Attempt, String> {
    let late = Instant::now() + NEXT;
    loop {
        let attempt = operator.attempt(KEY, None).await?;
        if attempt.exit_code == Some(exit_code) || Instant::now() > late {
            return Ok(attempt);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Leases of roles that may not log in are refused, and the one before serves on. An operator mends
/// the role and takes the bad lease away, before the last good one ends.
async fn bad_lease(operator: &Operator, leases: &Leases, pools: &Pools) -> Result<Trial, String> {
    // The first one that comes may have been taken before.
    leases.make(true, LONG)?;
    pools.reach(pools.sqlx.load().generation() + 2, NEXT).await?;
    leases.make(false, LONG)?;
    let attempt = until(operator, 3).await?;
    leases.make(true, SHORT)?;
    let mut trial = judge("leases that may not log in", 3, &attempt);
    trial.must(trial.adapter == Some(AdapterOutcome::Refused), || {
        format!("it was not refused: {}", attempt.said)
    });
    for key in &attempt.report.keys {
        if let Some(bad) = &key.to_version {
            leases.revoke(bad)?;
        }
    }
    let serving = pools.sqlx.load().generation();
    let mended = until(operator, 0).await?;
    trial.must(mended.exit_code == Some(0), || "it was not mended".to_owned());
    pools.reach(serving + 1, NEXT).await?;
    Ok(trial)
}

async fn store_down(operator: &Operator, leases: &Leases, pools: &Pools) -> Result<Trial, String> {
    leases.seal()?;
    let attempt = operator.attempt(KEY, None).await;
    leases.unseal()?;
    let mut trial = judge("the store is sealed", 1, &attempt?);
    trial.must(trial.adapter.is_none(), || "an adapter was touched".to_owned());
    pools.reach(pools.sqlx.load().generation() + 1, NEXT).await?;
    Ok(trial)
}

/// A user of an old lease does not end by itself: the next one serves, and it is said that the old
/// one is not gone, until it is.
async fn cannot_drain(operator: &Operator, pools: &Pools) -> Result<Trial, String> {
    let kept = pools.keep(Keep::Sqlx).await?;
    pools.reach(pools.sqlx.load().generation() + 1, NEXT).await?;
    let attempt = until(operator, 4).await?;
    let mut trial = judge(Keep::Sqlx.what(), 4, &attempt);
    kept.let_go().await?;
    let after = until(operator, 0).await?;
    trial.must(after.exit_code == Some(0), || format!("it is not done after: {}", after.said));
    Ok(trial)
}

/// The same load on plain pools, by a service that takes a lease now and then.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let leases = Leases::start(&database)?;
    let (user, password) = leases.take()?;
    let plain = Plain::new(&database, &user, &password)?;
    let number = AtomicU32::new(0);
    let load = Load::start(plan.clients, |counts| {
        let sqlx = number.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        client(counts, plain.clone(), sqlx)
    });
    let mut old_uses = 0;
    for round in 1..=plan.rotations {
        sleep(NAIVE_TTL).await;
        old_uses += database.orphans()?;
        let (user, password) = leases.take()?;
        plain.notice(&database, &user, &password);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
    }
    let loaded = load.stop().await?;
    plain.close().await;
    let report =
        Report::of("postgres-vault, plain pools with a cached lease", plan, started, loaded);
    Ok(report.old_uses((old_uses, old_uses)))
}
