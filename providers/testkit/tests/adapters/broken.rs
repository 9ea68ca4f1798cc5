//! An adapter that is broken on purpose, in one way at a time, around one that is not.

mod ends;

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use oneiric_core::{
    AdapterId, HookError, LifecycleHook, Managed, ManagedGuard, ManagedHook, Prepared, Refusal,
    RefusalStream, SecretRef, SecretSet, Version,
};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::client::{Client, reference, told};
use crate::server::{Session, ToyServer, Trouble};
use ends::Candidate;

/// The ways in which an adapter is broken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    ChangesItsSecrets,
    // What it prints.
    LeaksInDebug,
    LeaksInError,
    LeaksInCause,
    LeaksInReport,
    LeaksInLog,
    // How it prepares.
    MutatesInPlace,
    NoProof,
    ProvesOverTheOld,
    BelievesAGreeting,
    StopsThenStarts,
    PanicsInPrepare,
    StaysBusy,
    ServesLate,
    LeaksWhenDropped,
    LeaksWhenCutOff,
    FailsAfterADrop,
    AwaitsWithoutEnd,
    AsksWithoutEnd,
    FirstIsOnce,
    RemembersFailures,
    // What it says of a secret that it does not take over.
    RefusalIsFailure,
    MalformedIsRefusal,
    OutageIsRefusal,
    BusyIsRefusal,
    CutOffIsRefusal,
    // How it commits or gives up.
    CommitsLazily,
    ReconnectsWithTheFirst,
    LeaksTheDropped,
    LeaksSomeDropped,
    CommitNeedsRuntime,
    DropNeedsRuntime,
    SharesState,
    ClosesBySecret,
    // How it works.
    NeverReconnects,
    StaysStuck,
    NeverReports,
    ReportsAnother,
    ReportsOutages,
    // How it drains.
    DrainsAtOnce,
    DrainsLate,
    IgnoresTheDeadline,
    LeakNeverEnds,
    LeakEndsEarly,
    ForcedOverALeak,
    PanicsOnThePast,
    DrainsInOrder,
    DroppedDrainStops,
    DrainsWithoutEnd,
    PanicsInClose,
    FailedCloseStops,
    HangsInClose,
    DrainedWithSessions,
    DrainedAtTheDeadline,
    CountsOne,
    ReportsTheDropped,
}

use Defect::{
    AsksWithoutEnd, AwaitsWithoutEnd, BelievesAGreeting, BusyIsRefusal, ChangesItsSecrets,
    CutOffIsRefusal, FailsAfterADrop, FirstIsOnce, LeaksInCause, LeaksInDebug, LeaksInError,
    LeaksInLog, LeaksSomeDropped, LeaksTheDropped, LeaksWhenCutOff, LeaksWhenDropped,
    MalformedIsRefusal, MutatesInPlace, NeverReconnects, NeverReports, NoProof, OutageIsRefusal,
    PanicsInPrepare, ProvesOverTheOld, ReconnectsWithTheFirst, RefusalIsFailure, RemembersFailures,
    ReportsAnother, ReportsOutages, ServesLate, StaysBusy, StaysStuck, StopsThenStarts,
};

/// After how long a unit of work is waited for in another way.
const HURRY: Duration = Duration::from_millis(100);

/// More awaits, and more exchanges, than are tried.
pub(crate) const AWAITS: usize = 5000;
const EXCHANGES: usize = 40;

/// What the adapters of one rig have in common.
#[derive(Default)]
pub(crate) struct Shared {
    /// Sessions and clients that nobody closes any more.
    lost: Mutex<Vec<Session>>,
    lost_clients: Mutex<Vec<Arc<Client>>>,
    /// What all of them use in place of their own.
    current: Mutex<Option<Arc<Client>>>,
}

pub(crate) struct Broken {
    inner: Arc<ManagedHook<Client>>,
    parts: Arc<Parts>,
    references: [Vec<SecretRef>; 2],
}

pub(crate) struct Parts {
    defect: Defect,
    server: Arc<ToyServer>,
    shared: Arc<Shared>,
    managed: OnceLock<Managed<Client>>,
    /// What is used in place of the current generation.
    instead: Mutex<Option<Arc<Client>>>,
    first: OnceLock<String>,
    seen: Mutex<String>,
    failed: Mutex<HashSet<String>>,
    busy: AtomicBool,
    stuck: AtomicBool,
    stopped: AtomicBool,
    prepares: AtomicUsize,
    dropped: AtomicUsize,
    turn: tokio::sync::Mutex<()>,
}

impl Parts {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    async fn prove(&self, client: &Client) -> Result<(), HookError> {
        let proven = match self.defect {
            NoProof => Ok(()),
            ProvesOverTheOld if self.serves(&client.secret) => {
                self.managed.get().unwrap().load().ask().await.map(drop)
            }
            BelievesAGreeting => self.prove_by_greeting(client).await,
            LeaksWhenDropped | LeaksWhenCutOff => self.prove_carelessly(client).await,
            AsksWithoutEnd => self.prove_at_length(client).await,
            _ => client.prove().await,
        };
        proven.map_err(|trouble| match (self.defect, trouble) {
            (RefusalIsFailure, Trouble::Refused) => HookError::failed("it did not work"),
            (OutageIsRefusal, Trouble::Unreachable)
            | (BusyIsRefusal, Trouble::Busy)
            | (CutOffIsRefusal, Trouble::CutOff) => HookError::refused("it did not work"),
            (LeaksInError, Trouble::Refused) => {
                HookError::refused(format!("{} is refused", client.secret))
            }
            (LeaksInCause, Trouble::Refused) => {
                HookError::refused("it is refused").caused_by(format!("login {}", client.secret))
            }
            _ => told(trouble),
        })
    }

    fn serves(&self, secret: &str) -> bool {
        self.managed.get().is_some_and(|managed| managed.load().secret == secret)
    }

    /// Is content with a server that has greeted it and then hung up.
    async fn prove_by_greeting(&self, client: &Client) -> Result<(), Trouble> {
        let mut exchanges = 0;
        client.server.exchange(&mut exchanges).await?;
        match client.server.exchange(&mut exchanges).await {
            Ok(()) => client.prove().await,
            Err(Trouble::CutOff) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    async fn prove_at_length(&self, client: &Client) -> Result<(), Trouble> {
        let mut session = client.server.connect(&client.secret).await?;
        for _ in 0..EXCHANGES {
            session.ask().await?;
        }
        drop(session);
        client.prove().await
    }

    /// Lays its session aside while it asks, and takes it back if all goes well, or whenever it
    /// comes back at all.
    async fn prove_carelessly(&self, client: &Client) -> Result<(), Trouble> {
        let mut session = client.server.connect(&client.secret).await?;
        if self.is(LeaksWhenCutOff) {
            let answer = session.ask().await;
            if answer.is_err() {
                self.shared.lost.lock().unwrap().push(session);
            }
            return answer.map(drop);
        }
        self.shared.lost.lock().unwrap().push(session);
        client.prove().await?;
        self.shared.lost.lock().unwrap().clear();
        Ok(())
    }
}

/// What a user holds while it works.
pub(crate) enum Held {
    Guard(ManagedGuard<Client>),
    Instead(Arc<Client>),
}

impl Held {
    pub(crate) fn report_refused(&self) {
        if let Self::Guard(guard) = self {
            guard.report_refused();
        }
    }
}

impl Deref for Held {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Self::Guard(guard) => guard,
            Self::Instead(client) => client,
        }
    }
}

impl Broken {
    pub(crate) fn new(defect: Defect, server: Arc<ToyServer>, shared: Arc<Shared>) -> Self {
        let parts = Arc::new(Parts {
            defect,
            server: Arc::clone(&server),
            shared,
            managed: OnceLock::new(),
            instead: Mutex::default(),
            first: OnceLock::new(),
            seen: Mutex::default(),
            failed: Mutex::default(),
            busy: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            prepares: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::default(),
        });
        let of_prove = Arc::clone(&parts);
        let keeps = Arc::clone(&parts);
        let inner = ManagedHook::new("toy".parse().unwrap(), [reference()], move |set| {
            let server = Arc::clone(&server);
            async move { Client::of_set(server, &set) }
        })
        .prove(move |client| {
            let parts = Arc::clone(&of_prove);
            async move { parts.prove(&client).await }
        })
        .close(move |client| {
            let parts = Arc::clone(&keeps);
            async move {
                if parts.is(Defect::DrainedWithSessions) && parts.managed.get().is_some() {
                    parts.shared.lost_clients.lock().unwrap().push(client);
                } else {
                    client.close().await;
                }
            }
        });
        let references = [vec![reference()], vec![reference(), reference()]];
        Self { inner: Arc::new(inner), parts, references }
    }

    fn is(&self, defect: Defect) -> bool {
        self.parts.is(defect)
    }

    pub(crate) fn hold(&self) -> Result<Held, String> {
        let shared = self.parts.shared.current.lock().unwrap().clone();
        let instead = shared.or_else(|| self.parts.instead.lock().unwrap().clone());
        if let Some(client) = instead {
            return Ok(Held::Instead(client));
        }
        let managed = self.parts.managed.get().ok_or("nothing serves")?;
        Ok(Held::Guard(managed.load()))
    }

    /// One unit of work, as this adapter lets it be done.
    pub(crate) async fn ask(&self, client: &Held) -> Result<u64, String> {
        let parts = &self.parts;
        if parts.stopped.load(Ordering::SeqCst) {
            return Err("it is stopped".to_owned());
        }
        let answer = match self.parts.defect {
            ReconnectsWithTheFirst if client.idle.lock().unwrap().is_empty() => {
                let first = parts.first.get().unwrap_or(&client.secret);
                match parts.server.connect(first).await {
                    Ok(mut session) => session.ask().await,
                    Err(trouble) => Err(trouble),
                }
            }
            StaysStuck if parts.stuck.load(Ordering::SeqCst) => Err(Trouble::Busy),
            StaysStuck => {
                let mut asking = pin!(client.ask());
                match timeout(HURRY, &mut asking).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        // Whoever is dropped here leaves it so.
                        parts.stuck.store(true, Ordering::SeqCst);
                        let answer = asking.await;
                        parts.stuck.store(false, Ordering::SeqCst);
                        answer
                    }
                }
            }
            _ => client.ask().await,
        };
        if self.is(NeverReconnects) && answer == Err(Trouble::Unreachable) {
            parts.stopped.store(true, Ordering::SeqCst);
        }
        match answer {
            Err(Trouble::Refused) if !self.is(NeverReports) => client.report_refused(),
            Err(Trouble::Unreachable) if self.is(ReportsOutages) => client.report_refused(),
            _ => {}
        }
        answer.map_err(|trouble| format!("{trouble:?}"))
    }

    /// What goes wrong before the next one is built.
    async fn before(&self, next: &SecretSet) -> Result<(), HookError> {
        let parts = &self.parts;
        let value = next.get(&reference()).unwrap();
        let secret = value.expose_str().unwrap_or_default().to_owned();
        parts.prepares.fetch_add(1, Ordering::SeqCst);
        secret.clone_into(&mut parts.seen.lock().unwrap());
        match parts.defect {
            LeaksInLog => tracing::debug!(secret, "preparing"),
            PanicsInPrepare => assert!(!secret.contains('\n'), "a secret has no line break"),
            MalformedIsRefusal if secret.contains('\n') => {
                return Err(HookError::refused("it did not work"));
            }
            MutatesInPlace => {
                let client = Client::of_set(Arc::clone(&parts.server), next)?;
                *parts.instead.lock().unwrap() = Some(Arc::new(client));
            }
            StopsThenStarts => parts.stopped.store(true, Ordering::SeqCst),
            StaysBusy if parts.busy.swap(true, Ordering::SeqCst) => {
                return Err(HookError::failed("it is being prepared already"));
            }
            FailsAfterADrop if parts.busy.swap(true, Ordering::SeqCst) => {
                parts.busy.store(false, Ordering::SeqCst);
                return Err(HookError::failed("it had to tidy up"));
            }
            AwaitsWithoutEnd => {
                for _ in 0..AWAITS {
                    yield_now().await;
                }
            }
            FirstIsOnce => {
                let again = parts.prepares.load(Ordering::SeqCst) > 1;
                if again && parts.managed.get().is_none() {
                    return Err(HookError::failed("its first one exists already"));
                }
            }
            RemembersFailures if parts.failed.lock().unwrap().contains(&secret) => {
                return Err(HookError::failed("it did not work before"));
            }
            ServesLate => {
                let client = Arc::new(Client::of_set(Arc::clone(&parts.server), next)?);
                let (parts, (done, heard)) = (Arc::clone(parts), oneshot::channel());
                tokio::spawn(async move {
                    let proven = client.prove().await;
                    if done.send(()).is_err() && proven.is_ok() {
                        *parts.instead.lock().unwrap() = Some(client);
                    }
                });
                let _ = heard.await;
            }
            _ => {}
        }
        Ok(())
    }

    /// What goes wrong after it was built or was not.
    fn after(&self, next: &SecretSet, ready: bool) {
        let parts = &self.parts;
        let secret = next.get(&reference()).unwrap().expose_str().unwrap_or_default().to_owned();
        match parts.defect {
            StaysBusy | FailsAfterADrop => parts.busy.store(false, Ordering::SeqCst),
            StopsThenStarts if !ready || parts.managed.get().is_none() => {
                parts.stopped.store(false, Ordering::SeqCst);
            }
            RemembersFailures if !ready => {
                parts.failed.lock().unwrap().insert(secret);
            }
            ReconnectsWithTheFirst if ready => {
                let _ = parts.first.set(secret);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts.defect {
            LeaksInDebug => f.debug_tuple("Broken").field(&self.parts.seen).finish(),
            _ => f.write_str("Broken"),
        }
    }
}

#[async_trait]
impl LifecycleHook for Broken {
    fn id(&self) -> &AdapterId {
        self.inner.id()
    }

    fn secrets(&self) -> &[SecretRef] {
        let late = self.is(ChangesItsSecrets) && self.parts.managed.get().is_some();
        &self.references[usize::from(late)]
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        self.before(next).await?;
        let prepared = self.inner.prepare(next).await;
        self.after(next, prepared.is_ok());
        let inner = Some(prepared?);
        let client = match self.parts.defect {
            LeaksTheDropped | LeaksSomeDropped => {
                let client = Client::of_set(Arc::clone(&self.parts.server), next)?;
                client.prove().await.map_err(told)?;
                Some(Arc::new(client))
            }
            _ => None,
        };
        let (parts, hook) = (Arc::clone(&self.parts), Arc::clone(&self.inner));
        let secret = next.get(&reference()).unwrap().expose_str().unwrap_or_default().to_owned();
        Ok(Box::new(Candidate { parts, hook, inner, secret, client }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        let another = |refusal: Refusal| {
            let versions = refusal.versions.into_iter();
            let versions: Vec<_> = versions.map(|(of, _)| (of, Version::numbered(0))).collect();
            Refusal::new(versions)
        };
        let refusals = self.inner.refusals()?;
        Some(if self.is(ReportsAnother) { refusals.map(another).boxed() } else { refusals })
    }

    async fn release(&self, deadline: Instant) {
        self.inner.release(deadline).await;
    }
}
