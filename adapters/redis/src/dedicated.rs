//! A connection of one user that cannot be replaced without a loss. It lives through rotations, and
//! is authenticated anew in each.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oneiric_core::{Managed, ManagedGuard};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Arg, Cmd, Msg, Pipeline, PushInfo, RedisFuture, RedisResult, ToRedisArgs, Value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::error::{Trouble, ended};
use crate::link::{Link, Sessions};
use crate::shared::{Redis, of_the_serving};

/// How long it is until a connection that could not be authenticated anew is tried again, at first
/// and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Opens a connection of one's own, for what blocks a connection or belongs to it: `BLPOP`,
/// `WATCH`, subscriptions.
///
/// When a newer generation serves, it is authenticated anew in place: nothing on it is lost, and
/// what waits goes on waiting. Until the server has said yes to that, it counts as a user of the old
/// generation, and the old password is not to be removed.
///
/// # Errors
/// Those of the driver. A login that the server refuses is reported, as by
/// [`acquire`](crate::acquire).
///
/// # Cancellation
/// Dropping the future closes what was opened.
#[cfg_attr(debug_assertions, track_caller)]
pub fn dedicated(
    redis: &Managed<Redis>,
) -> impl Future<Output = RedisResult<Dedicated>> + Send + use<> {
    let (redis, guard) = (redis.clone(), redis.load());
    async move {
        let ((link, sessions, messages), guard) = of_the_serving(&redis, guard, open).await?;
        let held = Arc::new(Held {
            id: link.id,
            db: guard.server.as_given().redis_settings().db(),
            link: Some(link).into(),
            sessions,
            generation: guard.generation().into(),
            turn: Arc::default(),
        });
        let keeper = tokio::spawn(follow(Arc::clone(&held), redis, guard)).abort_handle();
        Ok(Dedicated { held, messages, transaction: None, keeper })
    }
}

type Opened = (Link, Arc<Sessions>, UnboundedReceiver<PushInfo>);

fn open(redis: &Redis) -> BoxFuture<'_, RedisResult<Opened>> {
    async move {
        // Nobody says how long one may have to wait.
        let mut server = (*redis.server).clone();
        server.config = server.config.set_response_timeout(None);
        let (pushed, messages) = unbounded_channel();
        let sessions = Arc::<Sessions>::default();
        let link = Link::open(&server, &redis.login, &sessions, Some(pushed)).await?;
        Ok((link, sessions, messages))
    }
    .boxed()
}

/// A connection of one's own that follows the generations: see [`dedicated`]. It takes commands
/// like any connection of the driver, one after the other.
///
/// ```
/// # async fn example(redis: &oneiric_core::Managed<oneiric_adapter_redis::Redis>) -> redis::RedisResult<()> {
/// use redis::AsyncCommands as _;
///
/// let mut queue = oneiric_adapter_redis::dedicated(redis).await?;
/// let job: Option<(String, String)> = queue.blpop("jobs", 5.0).await?;
///
/// let mut news = oneiric_adapter_redis::dedicated(redis).await?;
/// news.subscribe("news").await?;
/// while let Some(message) = news.message().await {
///     println!("{}", message.get_payload::<String>()?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # How it ends
/// When it is dropped, or lost: then every request fails and [`message`](Self::message) is `None`,
/// and a new one is opened, since what belonged to it is lost too. And when it cannot be
/// authenticated anew before the drain deadline of the old generation, because what it waits for
/// does not come, or a `MULTI` is not ended: then it is cut, and reported as *forced*.
pub struct Dedicated {
    held: Arc<Held>,
    messages: UnboundedReceiver<PushInfo>,
    /// While a `MULTI` is open.
    transaction: Option<OwnedMutexGuard<()>>,
    keeper: AbortHandle,
}

struct Held {
    id: u64,
    db: i64,
    link: std::sync::Mutex<Option<Link>>,
    /// Of this connection alone.
    sessions: Arc<Sessions>,
    /// By whose login it is known to the server.
    generation: AtomicU64,
    /// Whose turn it is: of a transaction, which would be lost if a login came into it, or of that.
    turn: Arc<Mutex<()>>,
}

impl Held {
    fn link(&self) -> RedisResult<Link> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.clone().ok_or_else(ended)
    }

    /// Authenticates it anew.
    async fn greet(&self, next: &Redis) -> RedisResult<u64> {
        let _turn = self.turn.lock().await;
        next.login.greet(&mut self.link()?.connection).await
    }

    /// Ends it, and waits until it is closed.
    async fn cut(&self) {
        self.sessions.cut();
        self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.sessions.ended().await;
    }
}

/// Authenticates a connection anew whenever there is a newer generation. It holds the guard of the
/// one that the server knows it by, so that this one is not over before.
async fn follow(held: Arc<Held>, redis: Managed<Redis>, mut mine: ManagedGuard<Redis>) {
    let mut pause = PAUSES[0];
    loop {
        tokio::select! {
            () = mine.retired() => {}
            () = held.sessions.ended() => return,
        }
        let next = redis.load();
        // The answer comes when what the connection waits for has come. Until then it may be known
        // by either login, so that both generations are held.
        let greeted = tokio::select! {
            greeted = held.greet(&next) => Some(greeted),
            () = held.sessions.ended() => return,
            () = mine.cut_off() => None,
            () = next.cut_off() => None,
        };
        let Some(greeted) = greeted else { return held.cut().await };
        let Err(error) = greeted else {
            held.generation.store(next.generation(), Ordering::Release);
            (mine, pause) = (next, PAUSES[0]);
            continue;
        };
        if Trouble::from(&error).is_refusal() {
            // It is known by the old login still, which may be gone back to.
            next.report_refused();
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = next.retired() => {}
            () = held.sessions.ended() => return,
            () = mine.cut_off() => return held.cut().await,
        }
        pause = (pause * 2).min(PAUSES[1]);
    }
}

impl Dedicated {
    /// The generation whose login the server knows it by.
    pub fn generation(&self) -> u64 {
        self.held.generation.load(Ordering::Acquire)
    }

    /// Its number in `CLIENT LIST`, which it keeps.
    pub fn id(&self) -> u64 {
        self.held.id
    }

    /// Subscribes to channels. What is published there comes by [`message`](Self::message).
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        let mut link = self.held.link()?;
        self.held.sessions.until_cut(link.connection.subscribe(channels)).await
    }

    /// Subscribes to all channels whose names match a pattern.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        let mut link = self.held.link()?;
        self.held.sessions.until_cut(link.connection.psubscribe(patterns)).await
    }

    /// Ends subscriptions to channels.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        let mut link = self.held.link()?;
        self.held.sessions.until_cut(link.connection.unsubscribe(channels)).await
    }

    /// Ends subscriptions to patterns.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        let mut link = self.held.link()?;
        self.held.sessions.until_cut(link.connection.punsubscribe(patterns)).await
    }

    /// The next message of what was subscribed to; `None` when the connection has ended. Messages
    /// that nobody takes are kept.
    ///
    /// # Cancellation
    /// Dropping the future loses no message.
    pub async fn message(&mut self) -> Option<Msg> {
        loop {
            let pushed = self.messages.recv().await?;
            if let Some(message) = Msg::from_push_info(pushed) {
                return Some(message);
            }
        }
    }
}

/// What a command does to a transaction.
#[derive(PartialEq, Eq)]
enum Turn {
    Begins,
    Ends,
}

impl Turn {
    fn of(cmd: &Cmd) -> Option<Self> {
        let Some(Arg::Simple(name)) = cmd.args_iter().next() else { return None };
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        if is("MULTI") {
            Some(Self::Begins)
        } else if ["EXEC", "DISCARD", "RESET"].into_iter().any(is) {
            Some(Self::Ends)
        } else {
            None
        }
    }
}

impl Dedicated {
    /// Takes the turn if these commands begin a transaction. What comes as one message, such as an
    /// atomic pipeline, is not divided anyway.
    ///
    /// # Cancellation
    /// The turn is taken or not; once it is, it is kept until the transaction has ended.
    async fn begin<'a>(&mut self, mut cmds: impl Iterator<Item = &'a Cmd>) -> RedisResult<()> {
        if self.transaction.is_none() && cmds.any(|cmd| Turn::of(cmd) == Some(Turn::Begins)) {
            let turn = Arc::clone(&self.held.turn).lock_owned();
            let turn = self.held.sessions.until_cut(async { Ok(turn.await) }).await?;
            self.transaction = Some(turn);
        }
        Ok(())
    }

    /// Gives it back where the last of them has ended it.
    fn end<'a>(&mut self, cmds: impl Iterator<Item = &'a Cmd>) {
        if cmds.filter_map(Turn::of).last() == Some(Turn::Ends) {
            self.transaction = None;
        }
    }
}

impl ConnectionLike for Dedicated {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let mut connection: MultiplexedConnection = self.held.link()?.connection;
            self.begin([cmd].into_iter()).await?;
            let sent = connection.send_packed_command(cmd);
            let answer = self.held.sessions.until_cut(sent).await;
            self.end([cmd].into_iter());
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
            let mut connection: MultiplexedConnection = self.held.link()?.connection;
            self.begin(pipeline.cmd_iter()).await?;
            let sent = connection.send_packed_commands(pipeline, offset, count);
            let answers = self.held.sessions.until_cut(sent).await;
            self.end(pipeline.cmd_iter());
            answers
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.held.db
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("id", &self.id())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
