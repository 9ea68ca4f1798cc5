//! How the broken adapter commits, gives up and drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{DrainOutcome, DrainReport, ManagedHook, Prepared, Retired};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{AWAITS, Defect, Parts};
use crate::client::Client;

/// How long a lazy commit takes to be true, and a lazy drain looks after its users.
const LAZY: Duration = Duration::from_millis(200);
/// Every so many that are dropped one is forgotten.
const FORGOTTEN: usize = 7;

pub(super) struct Candidate {
    pub(super) parts: Arc<Parts>,
    pub(super) hook: Arc<ManagedHook<Client>>,
    /// Gone when it was committed.
    pub(super) inner: Option<Box<dyn Prepared>>,
    pub(super) secret: String,
    /// What is lost with it, where something is.
    pub(super) client: Option<Arc<Client>>,
}

impl Prepared for Candidate {
    fn commit(mut self: Box<Self>) -> Box<dyn Retired> {
        let parts = Arc::clone(&self.parts);
        if parts.is(Defect::CommitNeedsRuntime) {
            drop(Handle::current());
        }
        let old = parts.managed.get().map(|managed| managed.load().secret.clone());
        let inner = self.inner.take().expect("it is committed once").commit();
        parts.managed.get_or_init(|| self.hook.managed().expect("it was committed"));
        parts.stopped.store(false, Ordering::SeqCst);
        *parts.instead.lock().unwrap() = None;
        let server = || Arc::clone(&parts.server);
        match (parts.defect, &old) {
            (Defect::SharesState, _) => {
                let client = Client::new(server(), &self.secret).unwrap();
                *parts.shared.current.lock().unwrap() = Some(Arc::new(client));
            }
            (Defect::CommitsLazily, Some(old)) => {
                let client = Client::new(server(), old).unwrap();
                *parts.instead.lock().unwrap() = Some(Arc::new(client));
                let parts = Arc::clone(&parts);
                tokio::spawn(async move {
                    sleep(LAZY).await;
                    *parts.instead.lock().unwrap() = None;
                });
            }
            _ => {}
        }
        Box::new(Ending { parts, inner, old })
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.inner.is_none() {
            return;
        }
        let parts = &self.parts;
        let dropped = parts.dropped.fetch_add(1, Ordering::SeqCst) + 1;
        match parts.defect {
            Defect::LeaksTheDropped => {
                parts.shared.lost_clients.lock().unwrap().extend(self.client.take());
            }
            Defect::LeaksSomeDropped if dropped.is_multiple_of(FORGOTTEN) => {
                parts.shared.lost_clients.lock().unwrap().extend(self.client.take());
            }
            Defect::DropNeedsRuntime => drop(Handle::current()),
            Defect::ClosesBySecret => parts.server.kick(&self.secret),
            _ => {}
        }
    }
}

struct Ending {
    parts: Arc<Parts>,
    inner: Box<dyn Retired>,
    /// The secret of the old one, if there was one.
    old: Option<String>,
}

/// Stops the adapter if it is dropped.
struct StopsIfDropped(Arc<Parts>);

impl Drop for StopsIfDropped {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Retired for Ending {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let Self { parts, inner, old } = *self;
        let dropped = parts.dropped.swap(0, Ordering::SeqCst);
        match (parts.defect, &old) {
            (Defect::DrainsAtOnce, _) => return DrainReport::drained(),
            (Defect::DrainsLate, _) => {
                let mut draining = inner.drain(deadline);
                // Where there is a user, it looks again only at the deadline.
                return match timeout(LAZY, &mut draining).await {
                    Ok(report) => report,
                    Err(_) => {
                        sleep_until(deadline).await;
                        draining.await
                    }
                };
            }
            (Defect::IgnoresTheDeadline, _) => {
                return inner.drain(deadline + Duration::from_secs(3600)).await;
            }
            (Defect::PanicsOnThePast, _) => assert!(deadline >= Instant::now(), "no time"),
            (Defect::DrainsInOrder, _) => {
                let _turn = parts.turn.lock().await;
                return inner.drain(deadline).await;
            }
            (Defect::DroppedDrainStops, _) => {
                let unfinished = StopsIfDropped(Arc::clone(&parts));
                let report = inner.drain(deadline).await;
                std::mem::forget(unfinished);
                return report;
            }
            (Defect::DrainsWithoutEnd, Some(_)) => {
                for _ in 0..AWAITS {
                    yield_now().await;
                }
            }
            (Defect::PanicsInClose, Some(_)) => panic!("cannot close it"),
            (Defect::FailedCloseStops, Some(old)) => {
                let refused = parts.server.connect(old).await.is_err();
                parts.stopped.fetch_or(refused, Ordering::SeqCst);
            }
            (Defect::HangsInClose, Some(old)) => drop(parts.server.connect(old).await),
            _ => {}
        }
        let mut report = inner.drain(deadline).await;
        let leaked = report.outcome == DrainOutcome::Leaked;
        match parts.defect {
            Defect::LeaksInReport => {
                let secret = parts.seen.lock().unwrap().clone();
                return report.with_error(format!("closing {secret}"));
            }
            Defect::LeakNeverEnds if leaked => {
                return DrainReport::leaked(report.in_flight).ended_by(std::future::pending());
            }
            Defect::LeakEndsEarly if leaked => {
                return DrainReport::leaked(report.in_flight).ended_by(std::future::ready(()));
            }
            Defect::ForcedOverALeak if leaked => return DrainReport::forced(report.in_flight),
            Defect::DrainedAtTheDeadline => return DrainReport::drained(),
            Defect::CountsOne => report.in_flight = report.in_flight.min(1),
            Defect::ReportsTheDropped => report.in_flight += dropped,
            _ => {}
        }
        report
    }
}
