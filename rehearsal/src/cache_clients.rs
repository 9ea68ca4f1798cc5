//! Those who use a Redis through the adapter: with requests, with a queue, and as subscribers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oneiric_adapter_redis::{Dedicated, Redis, acquire, dedicated};
use oneiric_core::Managed;
use oneiric_runtime::report::AdapterOutcome;
use redis::{AsyncCommands as _, RedisError, RedisResult};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Plan;
use crate::load::{Counts, Load};

/// Loads it in every way at the same time.
pub(crate) fn load(plan: Plan, redis: &Managed<Redis>) -> Load {
    let number = AtomicU32::new(0);
    Load::start(plan.clients, |counts| {
        client(counts, redis.clone(), number.fetch_add(1, Ordering::Relaxed))
    })
}

async fn client(counts: Arc<Counts>, redis: Managed<Redis>, number: u32) {
    let name = format!("own:{number}");
    let own = match number % 4 {
        2 => dedicated(&redis).await,
        3 => subscribed(&redis, &name).await,
        kind => {
            while counts.goes_on() {
                let request = match kind {
                    0 => count(&redis, number).await,
                    _ => transfer(&redis, number).await,
                };
                counts.count(request.map_err(|error| said(&error)));
            }
            return;
        }
    };
    // One connection all the time, through every rotation.
    let mut own = match own {
        Ok(own) => own,
        Err(error) => return counts.count(Err(said(&error))),
    };
    let mut round = 0;
    while counts.goes_on() {
        round += 1;
        let request = match number % 4 {
            2 => through_a_queue(&redis, &mut own, &name, round).await,
            _ => through_a_channel(&redis, &mut own, &name, round).await,
        };
        counts.count(request.map_err(|error| said(&error)));
    }
}

async fn subscribed(redis: &Managed<Redis>, channel: &str) -> RedisResult<Dedicated> {
    let mut own = dedicated(redis).await?;
    own.subscribe(channel).await?;
    Ok(own)
}

/// One command.
async fn count(redis: &Managed<Redis>, number: u32) -> RedisResult<()> {
    acquire(redis).await?.incr(format!("count:{number}"), 1).await
}

/// A transaction, of which nobody may see a half.
async fn transfer(redis: &Managed<Redis>, number: u32) -> RedisResult<()> {
    let mut both = redis::pipe();
    both.atomic().incr(format!("to:{number}"), 1).decr(format!("from:{number}"), 1);
    let (to, from): (i64, i64) = both.query_async(&mut acquire(redis).await?).await?;
    same(to, -from)
}

/// A job goes in by one connection, and is waited for on the other.
async fn through_a_queue(
    redis: &Managed<Redis>,
    worker: &mut Dedicated,
    queue: &str,
    job: i64,
) -> RedisResult<()> {
    acquire(redis).await?.rpush::<_, _, ()>(queue, job).await?;
    let (_, got): (String, i64) = worker.blpop(queue, 0.0).await?;
    same(got, job)
}

async fn through_a_channel(
    redis: &Managed<Redis>,
    news: &mut Dedicated,
    channel: &str,
    number: i64,
) -> RedisResult<()> {
    acquire(redis).await?.publish::<_, _, ()>(channel, number).await?;
    match news.message().await {
        Some(message) => same(message.get_payload()?, number),
        None => Err(other("the subscription has ended")),
    }
}

fn same(got: i64, expected: i64) -> RedisResult<()> {
    if got == expected { Ok(()) } else { Err(other("the answer was another one")) }
}

fn other(why: &'static str) -> RedisError {
    (redis::ErrorKind::Client, why).into()
}

pub(crate) fn said(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("refused: {code}"),
        None => format!("the request failed: {error}"),
    }
}

/// A user that is in the way of a rotation, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    LeaseUntilCutOff,
    Lease,
    Waiting,
}

impl Keep {
    pub(crate) const ALL: [Self; 3] = [Self::LeaseUntilCutOff, Self::Lease, Self::Waiting];

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::LeaseUntilCutOff => "a user ends when cut off",
            Self::Lease => "a user never ends",
            Self::Waiting => "a user waits for ever",
        }
    }

    /// What becomes of the old generation.
    pub(crate) fn expected(self) -> AdapterOutcome {
        match self {
            Self::LeaseUntilCutOff | Self::Waiting => AdapterOutcome::Forced,
            Self::Lease => AdapterOutcome::Leaked,
        }
    }

    /// Begins to be in the way.
    pub(crate) async fn begin(self, redis: &Managed<Redis>) -> RedisResult<Kept> {
        let (end, ended) = oneshot::channel::<()>();
        let task = match self {
            Self::Waiting => {
                let mut own = dedicated(redis).await?;
                tokio::spawn(async move {
                    // It is cut, and its user hears of it.
                    let job: RedisResult<(String, i64)> = own.blpop("nothing", 0.0).await;
                    job.is_err()
                })
            }
            Self::Lease | Self::LeaseUntilCutOff => {
                let lease = acquire(redis).await?;
                tokio::spawn(async move {
                    match self {
                        Self::Lease => _ = ended.await,
                        _ => lease.cut_off().await,
                    }
                    drop(lease);
                    true
                })
            }
        };
        Ok(Kept { end, task })
    }
}

/// It, until it lets go.
pub(crate) struct Kept {
    end: oneshot::Sender<()>,
    task: JoinHandle<bool>,
}

impl Kept {
    pub(crate) async fn let_go(self) -> Result<(), String> {
        drop(self.end);
        match self.task.await {
            Ok(true) => Ok(()),
            Ok(false) => Err("who waited for ever has got something".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
