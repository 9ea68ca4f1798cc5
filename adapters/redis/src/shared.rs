//! The connection that all requests of a generation share.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oneiric_core::{Managed, ManagedGuard};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::Instant;

use crate::error::{Trouble, ended, refuses, refuses_in};
use crate::link::{Link, Sessions};
use crate::login::{Login, Server};

/// For how long a login that was refused is not tried again by the generation that was told so.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// One generation: a login, and the connection that it is used over. Requests are made with
/// [`acquire`].
///
/// A connection that is lost is opened anew, with the same login, by the next request. The requests
/// that were on it fail: whether they were done is not known.
pub struct Redis {
    pub(crate) server: Arc<Server>,
    pub(crate) login: Login,
    sessions: Arc<Sessions>,
    link: Mutex<Option<Link>>,
    /// Taken to connect. When and how the last attempt failed, if it did.
    connecting: tokio::sync::Mutex<Option<(Instant, RedisError)>>,
}

impl Redis {
    /// A generation without a connection.
    pub(crate) fn new(server: Arc<Server>, login: Login) -> Self {
        let (sessions, link, connecting) = Default::default();
        Self { server, login, sessions, link, connecting }
    }

    /// Its connection, opened if there is none. However many ask, one is opened, and if that fails
    /// they are all told so.
    pub(crate) async fn link(&self) -> RedisResult<Link> {
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        let asked = Instant::now();
        let mut failed = self.connecting.lock().await;
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        if let Some((at, error)) = &*failed {
            let refused = Trouble::from(error).is_refusal();
            if *at >= asked || (refused && at.elapsed() < REFUSED_FOR) {
                return Err(error.clone());
            }
        }
        let opened = Link::open(&self.server, &self.login, &self.sessions, None).await;
        *failed = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        self.keep(opened?)
    }

    fn open_link(&self) -> Option<Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(Link::is_open)
    }

    fn keep(&self, link: Link) -> RedisResult<Link> {
        let mut kept = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        // Closing takes what is there under this lock, after it has said so.
        if self.sessions.is_cut() {
            return Err(ended());
        }
        *kept = Some(link.clone());
        Ok(link)
    }

    /// Ends its connection, whatever is under way on it, and waits until it is closed. From then on
    /// there is none.
    pub(crate) async fn close(&self) {
        self.sessions.cut();
        self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.sessions.ended().await;
    }

    /// Does something over its connection.
    async fn run<'a, T>(
        &self,
        work: impl FnOnce(MultiplexedConnection) -> BoxFuture<'a, RedisResult<T>>,
    ) -> RedisResult<T> {
        self.sessions
            .until_cut(async {
                let link = self.link().await?;
                work(link.connection).await
            })
            .await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("name", &self.login.mark).finish_non_exhaustive()
    }
}

/// Takes the connection of the generation that serves, for one request or a few: it is shared, and
/// takes all of them at the same time.
///
/// Where the server does not accept the login, now or in one of the requests, that is
/// [reported](ManagedGuard::report_refused), so that the store is asked for a newer one. If the
/// generation ends while its connection is waited for, it is that of the next: nothing was done
/// with the old one yet.
///
/// # Errors
/// Those of the driver. A login that was refused is not tried again for a second.
///
/// # Cancellation
/// Dropping the future takes nothing.
#[cfg_attr(debug_assertions, track_caller)]
pub fn acquire(redis: &Managed<Redis>) -> impl Future<Output = RedisResult<Lease>> + Send + use<> {
    let (redis, guard) = (redis.clone(), redis.load());
    async move {
        let (_, guard) = of_the_serving(&redis, guard, |redis| redis.link().boxed()).await?;
        Ok(Lease { guard })
    }
}

/// Opens something with the generation that serves, and reports a refusal of its login.
pub(crate) async fn of_the_serving<T>(
    redis: &Managed<Redis>,
    mut guard: ManagedGuard<Redis>,
    open: impl for<'a> Fn(&'a Redis) -> BoxFuture<'a, RedisResult<T>> + Send,
) -> RedisResult<(T, ManagedGuard<Redis>)> {
    loop {
        let error = match open(&guard).await {
            Ok(opened) => return Ok((opened, guard)),
            Err(error) => error,
        };
        let now = redis.load();
        let refused = Trouble::from(&error).is_refusal();
        if now.generation() == guard.generation() {
            if refused {
                guard.report_refused();
            }
            return Err(error);
        }
        // What was cut off under us, or refused, is another one's now.
        if !refused && !guard.sessions.is_cut() {
            return Err(error);
        }
        guard = now;
    }
}

/// The shared connection with the guard of its generation: the generation is not over before it is
/// dropped, so let go of it after the request. It takes commands like any connection of the driver:
///
/// ```
/// # async fn example(redis: &oneiric_core::Managed<oneiric_adapter_redis::Redis>) -> redis::RedisResult<()> {
/// use redis::AsyncCommands as _;
///
/// let mut lease = oneiric_adapter_redis::acquire(redis).await?;
/// let greeting: Option<String> = lease.get("greeting").await?;
/// redis::pipe().atomic().incr("greeted", 1).ignore().exec_async(&mut lease).await?;
/// # Ok(())
/// # }
/// ```
///
/// What blocks its connection, or belongs to it, such as `BLPOP`, `WATCH`, `SUBSCRIBE` and
/// `CLIENT REPLY`, needs a [`dedicated`](crate::dedicated) one.
pub struct Lease {
    guard: ManagedGuard<Redis>,
}

impl Lease {
    /// The generation of the connection.
    pub fn generation(&self) -> u64 {
        self.guard.generation()
    }

    /// As [`ManagedGuard::retired`].
    pub fn retired(&self) -> BoxFuture<'static, ()> {
        self.guard.retired()
    }

    /// As [`ManagedGuard::cut_off`]. Requests that are under way fail a moment later.
    pub fn cut_off(&self) -> BoxFuture<'static, ()> {
        self.guard.cut_off()
    }

    /// The number of the connection in `CLIENT LIST`.
    ///
    /// # Errors
    /// Those of the driver, where it was lost and cannot be opened anew.
    pub async fn id(&self) -> RedisResult<u64> {
        Ok(self.guard.link().await?.id)
    }
}

impl ConnectionLike for Lease {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let send = |mut connection: MultiplexedConnection| {
                async move { connection.send_packed_command(cmd).await }.boxed()
            };
            let answer = self.guard.run(send).await;
            if refuses(&answer) {
                self.guard.report_refused();
            }
            answer
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let send = |mut connection: MultiplexedConnection| {
                async move { connection.send_packed_commands(pipeline, offset, count).await }
                    .boxed()
            };
            let answers = self.guard.run(send).await;
            let refused = match &answers {
                Ok(answers) => answers.iter().any(refuses_in),
                Err(error) => Trouble::from(error).is_refusal(),
            };
            if refused {
                self.guard.report_refused();
            }
            answers
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.guard.server.as_given().redis_settings().db()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
