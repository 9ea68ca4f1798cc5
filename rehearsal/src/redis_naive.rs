//! The same load on plain connections whose password is read again now and then, and an operator
//! who waits a while. Nothing fails at the rotation, since Redis lets connections live on: it fails
//! when they are opened anew.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::AsyncCommands as _;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::cache::{Cache, connect};
use crate::cache_clients::said;
use crate::load::{Counts, Load};
use crate::operator::new_credential;
use crate::report::{Report, Spread, seconds};

/// How long a plain connection lives. Servers and load balancers close those that were idle for
/// minutes; nobody wants to wait that long to see it fail.
const LIFETIME: Duration = Duration::from_millis(300);
/// How long the plain cache believes a password.
const TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old password is taken away.
const GRACE: Duration = Duration::from_millis(500);
/// How long a client waits after it was refused.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let first = new_credential();
    let cache = Arc::new(Cache::start(&first).await?);
    let believed = Arc::new(Mutex::new(first));
    let load = Load::start(plan.clients, |counts| {
        client(counts, Arc::clone(&cache), Arc::clone(&believed))
    });

    let mut old_uses = 0;
    for round in 1..=plan.rotations {
        let next = new_credential();
        let stored = Instant::now();
        sleep(GRACE).await;
        cache.replace(&next).await?;
        sleep(TTL.saturating_sub(stored.elapsed())).await;
        *believed.lock().unwrap_or_else(PoisonError::into_inner) = next;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        old_uses += cache.refused_logins().await?;
    }

    let (requests, failed, failures) = load.stop().await?;
    Ok(Report {
        scenario: "redis, plain connections with a cached password",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: old_uses,
        old_credential_uses_after_commit: old_uses,
        swap_ms: Spread::default(),
        drain_ms: Spread::default(),
        command_ms: Spread::default(),
        trials: Vec::new(),
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

async fn client(counts: Arc<Counts>, cache: Arc<Cache>, believed: Arc<Mutex<String>>) {
    while counts.goes_on() {
        let password = believed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let opened = async { connect(cache.login(&password)?).await };
        let mut connection = match opened.await {
            Ok(connection) => connection,
            Err(refused) => {
                counts.count(Err(refused));
                sleep(PAUSE).await;
                continue;
            }
        };
        let until = Instant::now() + LIFETIME;
        while counts.goes_on() && Instant::now() < until {
            let counted = connection.incr::<_, _, ()>("count", 1).await;
            counts.count(counted.map_err(|error| said(&error)));
        }
    }
}
