//! Two login roles of a private PostgreSQL alternate under two pools that are queried without
//! pause.

use std::time::Duration;

use tokio::time::Instant;

use crate::Plan;
use crate::database::{Database, ROLES};
use crate::operator::{Operator, new_credential};
use crate::pools::{Keep, Pools};
use crate::report::Report;
use crate::service::Service;
use crate::trials::{Trial, Trials};

const KEY: &str = "db.json";

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let service = Service::start()?;
    let operator = Operator::new(&service.socket(), &service.secrets())?;
    let mut roles = Roles { database: &database, operator, serving: String::new(), old_uses: 0 };
    let first = roles.next().await?;
    let login = ["files:db.json#user", "files:db.json#password"];
    let pools = Pools::start(&service.runtime, &database, login).await?;
    roles.serving = first.0;
    let load = pools.load(plan, Duration::ZERO);

    for round in 1..=plan.rotations {
        let (next, _) = roles.next().await?;
        roles.operator.rotate(KEY).await?;
        // Every adapter has drained: no session of the old role is left to be cut off.
        roles.moved_to(next).await?;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
    }
    let trials = trials(&mut roles, &pools).await?;

    let loaded = load.stop().await?;
    let Roles { operator, old_uses, .. } = roles;
    service.stop().await?;
    let report = Report::of("postgres", plan, started, loaded);
    Ok(report.old_uses((old_uses, old_uses)).times(operator.times()).trials(trials))
}

/// Which role serves, and who changes that.
struct Roles<'a> {
    database: &'a Database,
    operator: Operator,
    serving: String,
    /// Sessions of roles that were to be closed.
    old_uses: u64,
}

impl Roles<'_> {
    /// Opens the other role and puts its login into the store.
    async fn next(&self) -> Result<(String, String), String> {
        let serving = if self.serving.is_empty() { ROLES[1] } else { &self.serving };
        let next = self.database.open(serving).await?;
        let secret = next.secret();
        let text = secret.expose_str().ok_or("a login is no text")?;
        self.operator.store(KEY, text)?;
        Ok((next.user().to_owned(), text.to_owned()))
    }

    /// Closes the role that served before.
    async fn moved_to(&mut self, next: String) -> Result<(), String> {
        let old = std::mem::replace(&mut self.serving, next);
        self.old_uses += self.database.close(&old).await?;
        Ok(())
    }
}

/// Rotations that must not succeed.
async fn trials(roles: &mut Roles<'_>, pools: &Pools) -> Result<Vec<Trial>, String> {
    let generation = || pools.generation();
    // One rotation more, so that it is known what the store has.
    let (next, good) = roles.next().await?;
    roles.operator.rotate(KEY).await?;
    roles.moved_to(next).await?;
    let bad = serde_json::json!({ "user": roles.serving, "password": new_credential() });
    let trials = Trials { operator: &roles.operator, key: KEY, generation };
    let mut held = vec![
        trials.bad_credential("another password", &bad.to_string(), &good).await?,
        trials.store_down().await?,
    ];
    for keep in Keep::ALL {
        let kept = pools.keep(keep).await?;
        let (next, login) = roles.next().await?;
        let trials = Trials { operator: &roles.operator, key: KEY, generation };
        let let_go = async || kept.let_go().await;
        held.push(trials.cannot_drain(keep.what(), &login, keep.expected(), let_go).await?);
        roles.moved_to(next).await?;
    }
    Ok(held)
}
