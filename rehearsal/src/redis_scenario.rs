//! The password of a user of a private Redis is replaced under requests, a queue and subscriptions
//! that never pause. The old one is taken away each time, when the server shows that nobody needs
//! it.

use oneiric_adapter_redis::{Redis, RedisConnection};
use oneiric_core::{Managed, SecretValue};
use tokio::time::Instant;

use crate::Plan;
use crate::cache::{Cache, config};
use crate::cache_clients::{Keep, load, said};
use crate::operator::{Operator, new_credential};
use crate::report::{Report, seconds};
use crate::service::Service;
use crate::trials::{Trial, Trials};

const KEY: &str = "redis";

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let first = new_credential();
    let cache = Cache::start(&first).await?;
    let service = Service::start()?;
    let operator = Operator::new(&service.socket(), &service.secrets())?;
    operator.store(KEY, &first)?;
    let redis = adapter(&service, &cache).await?;
    let mut user = User { cache: &cache, operator, old_uses: 0 };
    let load = load(plan, &redis);

    for round in 1..=plan.rotations {
        let next = user.next().await?;
        let version = user.operator.rotate(KEY).await?;
        user.moved_to(&next, &version).await?;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
    }
    let mut after_revoke = cache.refused_logins().await?;
    let mut held = vec![bad_password(&mut user, &redis).await?];
    // What was tried there was tried on purpose, and no more than that.
    let tried = cache.refused_logins().await?;
    held[0].must(tried == 1, || format!("the bad password was tried {tried} times"));
    held.extend(trials(&mut user, &redis).await?);
    let (requests, failed, failures) = load.stop().await?;
    after_revoke += cache.refused_logins().await?;

    let User { operator, old_uses, .. } = user;
    service.stop().await?;
    let (swap_ms, drain_ms, command_ms) = operator.times();
    Ok(Report {
        scenario: "redis",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: after_revoke,
        old_credential_uses_after_commit: old_uses,
        swap_ms,
        drain_ms,
        command_ms,
        trials: held,
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

async fn adapter(service: &Service, cache: &Cache) -> Result<Managed<Redis>, String> {
    let password = "files:redis".parse().expect("it is a valid reference");
    let hook = RedisConnection::new(cache.address()?, password)
        .connection_config(config())
        .into_hook("cache".parse().expect("it is a valid adapter id"));
    service.runtime.manage(hook).await.map_err(|error| error.chain())
}

/// Whose password it is, and who changes that.
struct User<'a> {
    cache: &'a Cache,
    operator: Operator,
    /// Connections that were known by an old password when there was to be none.
    old_uses: u64,
}

impl User<'_> {
    /// Adds a password and puts it into the store.
    async fn next(&self) -> Result<SecretValue, String> {
        let next = self.cache.add().await?;
        let text = next.password().expose_str().ok_or("a password is no text")?;
        self.operator.store(KEY, text)?;
        Ok(next.password().clone())
    }

    /// Takes the others away.
    async fn moved_to(&mut self, password: &SecretValue, version: &str) -> Result<(), String> {
        self.old_uses += self.cache.keep_only(password, version).await?;
        Ok(())
    }
}

async fn bad_password(user: &mut User<'_>, redis: &Managed<Redis>) -> Result<Trial, String> {
    // One rotation more, so that it is known what the store has.
    let good = user.next().await?;
    let version = user.operator.rotate(KEY).await?;
    user.moved_to(&good, &version).await?;
    let good = good.expose_str().ok_or("a password is no text")?;
    let generation = || redis.load().generation();
    let trials = Trials { operator: &user.operator, key: KEY, generation };
    trials.bad_credential("another password", &new_credential(), good).await
}

/// More rotations that must not succeed.
async fn trials(user: &mut User<'_>, redis: &Managed<Redis>) -> Result<Vec<Trial>, String> {
    let generation = || redis.load().generation();
    let trials = Trials { operator: &user.operator, key: KEY, generation };
    let mut held = vec![trials.store_down().await?];
    for keep in Keep::ALL {
        let kept = keep.begin(redis).await.map_err(|error| said(&error))?;
        let next = user.cache.add().await?;
        let password = next.password().expose_str().ok_or("a password is no text")?;
        let trials = Trials { operator: &user.operator, key: KEY, generation };
        let let_go = async || kept.let_go().await;
        held.push(trials.cannot_drain(keep.what(), password, keep.expected(), let_go).await?);
        let attempt = user.operator.attempt(KEY, None).await?;
        let version = attempt.report.keys.iter().find_map(|key| key.to_version.clone());
        let version = version.ok_or("the report names no version")?;
        user.moved_to(next.password(), &version).await?;
    }
    Ok(held)
}
