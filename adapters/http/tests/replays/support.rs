//! An upstream of several verifiers, a service that uses it without pause, and the same service on
//! a plain cache.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use oneiric_adapter_http::{CredentialLayer, HttpCredential};
use oneiric_core::{
    Clock, FetchRequest, HookError, Managed, ManagedHook, SecretProvider as _, SecretValue,
};
use oneiric_runtime::report::{AdapterStatus, InstanceReport};
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::Service;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// How long the plain cache believes a token.
const NAIVE_TTL: Duration = Duration::from_secs(10);
const USERS: usize = 8;

/// Several servers behind one address, each with a mind of its own; requests go to one after the
/// other.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Verifiers>);

struct Verifiers {
    accepted: Vec<Mutex<BTreeSet<String>>>,
    next: AtomicUsize,
    refused: AtomicU64,
}

impl Upstream {
    pub(crate) fn of(verifiers: usize) -> Self {
        let accepted = (0..verifiers).map(|_| Mutex::default()).collect();
        Self(Arc::new(Verifiers {
            accepted,
            next: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// From now on these accept a token.
    pub(crate) fn accept(&self, which: impl RangeBounds<usize>, token: &str) {
        for (number, accepted) in self.0.accepted.iter().enumerate() {
            if which.contains(&number) {
                accepted.lock().unwrap().insert(token.to_owned());
            }
        }
    }

    /// None accepts it any more.
    pub(crate) fn revoke(&self, token: &str) {
        self.0.accepted.iter().for_each(|accepted| {
            accepted.lock().unwrap().remove(token);
        });
    }

    /// How many requests were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::SeqCst)
    }

    fn judge(&self, number: usize, given: &[u8]) -> StatusCode {
        let accepted = self.0.accepted[number].lock().unwrap();
        let known = accepted.iter().any(|token| format!("Bearer {token}").as_bytes() == given);
        if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    }
}

impl Service<Request<Empty<Bytes>>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            sleep(Duration::from_millis(5)).await;
            let number = this.0.next.fetch_add(1, Ordering::SeqCst) % this.0.accepted.len();
            let given = request.headers()[AUTHORIZATION].as_bytes();
            let mut answer = Response::new(Full::from("an answer"));
            *answer.status_mut() = this.judge(number, given);
            this.0.refused.fetch_add(u64::from(!answer.status().is_success()), Ordering::SeqCst);
            Ok(answer)
        })
    }
}

/// A process with a runtime in it.
pub(crate) struct Process {
    pub(crate) runtime: Runtime,
    pub(crate) credentials: Managed<HttpCredential>,
    pub(crate) proofs: Arc<AtomicU64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    /// It proves a token by a request to the first verifier.
    pub(crate) async fn start(store: &Arc<MemoryProvider>, upstream: &Upstream) -> Self {
        let upstream = upstream.clone();
        let prove = move |credential: Arc<HttpCredential>| {
            let status = upstream.judge(0, credential.header().1.as_bytes());
            async move { status }
        };
        Self::proving(store, Duration::from_secs(30), Clock::held(), prove).await
    }

    pub(crate) async fn proving<F>(
        store: &Arc<MemoryProvider>,
        watch_interval: Duration,
        clock: Clock,
        prove: impl Fn(Arc<HttpCredential>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = StatusCode> + Send + 'static,
    {
        let mut options = ResolverOptions::default();
        options.clock = clock.clone();
        let store = Arc::clone(store) as _;
        let resolver = Resolver::new([("mem".parse().unwrap(), store)], options);
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = watch_interval;
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let ticking = stop.clone();
        let task = tokio::spawn(async move {
            // Ages pass with the time of the test.
            let ages = async {
                while clock.is_held() && !ticking.is_cancelled() {
                    sleep(MINUTE / 2).await;
                    clock.advance(MINUTE / 2);
                }
            };
            tokio::join!(task.run(ticking.clone()), ages);
        });
        let proofs = Arc::<AtomicU64>::default();
        let hook = hook(Arc::clone(&proofs), prove);
        let credentials = runtime.manage(hook).await.unwrap();
        Self { runtime, credentials, proofs, stop, task }
    }

    pub(crate) async fn rotate(&self) -> InstanceReport {
        let scope = Scope::Keys("mem".parse().unwrap(), vec!["token".parse().unwrap()]);
        self.runtime.rotate(RotateRequest::new(scope)).await
    }

    pub(crate) async fn status(&self) -> AdapterStatus {
        self.runtime.status().await.unwrap().adapters.remove(0)
    }

    /// Users of the upstream, who send their requests through the adapter.
    pub(crate) fn users(&self, upstream: &Upstream) -> Load {
        let api = CredentialLayer::new(self.credentials.clone()).over(upstream.clone());
        Load::start(move || {
            let api = api.clone();
            Box::pin(async move {
                let answer = api.send(Request::new(Empty::new())).await.unwrap();
                let status = answer.status();
                answer.into_body().collect().await.unwrap();
                status.is_success()
            })
        })
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn hook<F>(
    proofs: Arc<AtomicU64>,
    prove: impl Fn(Arc<HttpCredential>) -> F + Send + Sync + 'static,
) -> ManagedHook<HttpCredential>
where
    F: Future<Output = StatusCode> + Send + 'static,
{
    let hook = HttpCredential::bearer("api".parse().unwrap(), "mem:token".parse().unwrap());
    hook.prove(move |credential| {
        proofs.fetch_add(1, Ordering::SeqCst);
        let asking = prove(credential);
        async move {
            if asking.await.is_success() { Ok(()) } else { Err(HookError::refused("not known")) }
        }
    })
}

/// What most services have: users of the upstream with the token that was read last, while that is
/// young, and no second attempt.
pub(crate) fn naive_users(store: &Arc<MemoryProvider>, upstream: &Upstream) -> Load {
    type Held = tokio::sync::Mutex<Option<(SecretValue, Instant)>>;
    let (store, upstream) = (Arc::clone(store), upstream.clone());
    let held = Arc::<Held>::default();
    Load::start(move || {
        let (store, mut upstream, held) = (Arc::clone(&store), upstream.clone(), Arc::clone(&held));
        Box::pin(async move {
            let mut held = held.lock().await;
            if held.as_ref().is_none_or(|(_, since)| since.elapsed() >= NAIVE_TTL) {
                match store.fetch(&FetchRequest::new("token".parse().unwrap())).await {
                    Ok(fetched) => *held = Some((fetched.value, Instant::now())),
                    Err(_) => return false,
                }
            }
            let token = held.as_ref().unwrap().0.expose_str().unwrap().to_owned();
            drop(held);
            let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {token}"));
            let answer = upstream.call(request.body(Empty::new()).unwrap()).await.unwrap();
            answer.status().is_success()
        })
    })
}

/// Users who send one request after the other.
pub(crate) struct Load {
    counts: Arc<Counts>,
    users: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds between two requests of a user.
    pause: AtomicU64,
}

impl Load {
    fn start(send: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Self {
        let (counts, send) = (Arc::<Counts>::default(), Arc::new(send));
        let load = Self { counts: Arc::clone(&counts), users: JoinSet::new() };
        load.every(SECOND / 4);
        let mut users = JoinSet::new();
        for number in 0..USERS {
            let (counts, send) = (Arc::clone(&counts), Arc::clone(&send));
            users.spawn(async move {
                // They do not march in step.
                sleep(Duration::from_millis(13 * number as u64)).await;
                loop {
                    let succeeded = send().await;
                    counts.sent.fetch_add(1, Ordering::SeqCst);
                    counts.failed.fetch_add(u64::from(!succeeded), Ordering::SeqCst);
                    sleep(Duration::from_millis(counts.pause.load(Ordering::SeqCst))).await;
                }
            });
        }
        Self { users, ..load }
    }

    /// From now on a user pauses this long between two requests.
    pub(crate) fn every(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap();
        self.counts.pause.store(pause, Ordering::SeqCst);
    }

    /// How many were sent, and how many of them failed, so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.sent.load(Ordering::SeqCst), self.counts.failed.load(Ordering::SeqCst))
    }

    /// Ends it. The same, at the end.
    pub(crate) async fn stop(mut self) -> (u64, u64) {
        self.users.shutdown().await;
        self.counts()
    }
}
