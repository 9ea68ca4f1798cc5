//! Our own identity: the token that is sent along, got once for all who need it, and replaced
//! when it has ended or is refused.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::config::Auth;
use crate::error::{about, late};
use crate::http::{Ask, Body, Http};
use crate::{error::Call, keeper, login};

/// One identity, with the connection that it is used over.
pub(crate) struct Session {
    pub(crate) http: Http,
    pub(crate) auth: Auth,
    state: Mutex<State>,
    /// The number of the token in use, for those who hold something that ends with theirs.
    logins: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Whoever needs a token while one is being got waits for that one.
    flight: Option<Flight>,
    keeper: Option<AbortHandle>,
    generation: u64,
    /// Whether our tokens may not look at themselves, so that nobody can tell a dead one.
    blind: bool,
    /// A token that wraps a secret id, and what was in it: it can be opened once.
    unwrapped: Option<(SecretValue, SecretValue)>,
}

type Flight = Shared<BoxFuture<'static, Result<Token>>>;

struct Held {
    token: Token,
    expires: Option<Instant>,
    file: Option<FileMark>,
}

impl Held {
    /// Whether it has not ended, as far as we know.
    fn is_alive(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

/// A token, and the how many-th of this session it is.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: SecretValue,
    pub(crate) generation: u64,
    /// What is known of its life by now, by whoever holds it.
    life: Arc<Mutex<Life>>,
}

impl Token {
    pub(crate) fn new(text: SecretValue, generation: u64, life: Life) -> Self {
        Self { text, generation, life: Arc::new(Mutex::new(life)) }
    }

    pub(crate) fn life(&self) -> Life {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, life: Life) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }
}

/// A token as it was got.
pub(crate) struct Grant {
    pub(crate) text: SecretValue,
    pub(crate) life: Life,
    pub(crate) file: Option<FileMark>,
}

/// What is known of how long a token lives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Life {
    /// It is to be asked for.
    Unknown,
    /// It does not end.
    Endless,
    /// It ends, and can be prolonged or not.
    Limited { since: Instant, ttl: Duration, renewable: bool },
}

impl Life {
    pub(crate) fn new(since: Instant, seconds: u64, renewable: bool) -> Self {
        match seconds {
            0 => Self::Endless,
            // No token lives for ever, and no clock counts so far.
            seconds => {
                let ttl = Duration::from_secs(seconds.min(10 * 365 * 86_400));
                Self::Limited { since, ttl, renewable }
            }
        }
    }

    fn expires(self) -> Option<Instant> {
        match self {
            Self::Limited { since, ttl, .. } => Some(since + ttl),
            Self::Unknown | Self::Endless => None,
        }
    }
}

/// What shows that a file is still the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileMark {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

impl FileMark {
    pub(crate) async fn of(path: &Path) -> Option<Self> {
        let metadata = tokio::fs::metadata(path).await.ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.state().generation;
        f.debug_struct("Session")
            .field("http", &self.http)
            .field("auth", &self.auth)
            .field("generation", &generation)
            .finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(keeper) = self.state().keeper.take() {
            keeper.abort();
        }
    }
}

impl Session {
    pub(crate) fn new(http: Http, auth: Auth) -> Self {
        Self { http, auth, state: Mutex::default(), logins: watch::Sender::new(0) }
    }

    /// A token that has not ended, as far as we know.
    pub(crate) async fn token(
        self: &Arc<Self>,
        what: &str,
        deadline: Option<Instant>,
    ) -> Result<Token> {
        let mut stale = None;
        if let Some(path) = &self.auth.token_file {
            let mark = FileMark::of(path).await;
            let state = self.state();
            // A file that is gone for a moment takes nothing away.
            if let (Some(mark), Some(held)) = (mark, &state.held)
                && held.file.as_ref() != Some(&mark)
            {
                stale = Some(held.token.clone());
            }
        }
        let refused = stale.as_ref().map(|token| token.generation);
        match (self.obtain(refused, what, deadline).await, stale) {
            // Nor does one that is half-written.
            (Err(error), Some(held)) if error.kind() == ErrorKind::Unauthenticated => Ok(held),
            (token, _) => token,
        }
    }

    /// What to do about a 403 to this token: try it with the one in the answer, or, if there is
    /// none, believe it. An error where the token itself is not known any more.
    pub(crate) async fn refused(
        self: &Arc<Self>,
        token: &Token,
        what: &str,
        deadline: Option<Instant>,
    ) -> Result<Option<Token>> {
        {
            let state = self.state();
            match &state.held {
                Some(held) if held.token.generation != token.generation => {
                    return Ok(Some(held.token.clone()));
                }
                _ if state.blind => return Ok(None),
                _ => {}
            }
        }
        if !self.is_dead(token, deadline).await {
            return Ok(None);
        }
        let unknown = || about(ErrorKind::Unauthenticated, what);
        if self.auth.token.is_some() {
            return Err(unknown());
        }
        let new = self.obtain(Some(token.generation), what, deadline).await?;
        if self.auth.token_file.is_some() && new.text.same_as(&token.text) {
            return Err(unknown());
        }
        Ok(Some(new))
    }

    /// The same for a 403 to a token that has just taken the place of another.
    pub(crate) async fn refused_again(&self, token: &Token, what: &str) -> Result<()> {
        if !self.is_dead(token, None).await {
            return Ok(());
        }
        if self.logs_in() {
            // It is alive, since the server has just made it.
            self.state().blind = true;
            return Ok(());
        }
        Err(about(ErrorKind::Unauthenticated, what))
    }

    /// Whether the server says that it does not know the token. A token that may not look at
    /// itself is answered in the same way.
    async fn is_dead(&self, token: &Token, deadline: Option<Instant>) -> bool {
        let ask = Ask::get(vec!["auth", "token", "lookup-self"], "our own token", deadline);
        let reply = self.http.send(&ask, Some(&token.text)).await;
        reply.is_ok_and(|reply| reply.status == 403)
    }

    /// Whether a new token can be had without anybody's help.
    pub(crate) fn logs_in(&self) -> bool {
        self.auth.token.is_none() && self.auth.token_file.is_none()
    }

    /// A token that is not the refused one, or what its file has by now. Getting it belongs to a task of its own, since what
    /// unwraps a secret id must not be broken off.
    pub(crate) async fn obtain(
        self: &Arc<Self>,
        refused: Option<u64>,
        what: &str,
        deadline: Option<Instant>,
    ) -> Result<Token> {
        let flight = {
            let mut state = self.state();
            if let Some(held) = &state.held
                && Some(held.token.generation) != refused
                && held.is_alive()
            {
                return Ok(held.token.clone());
            }
            match &state.flight {
                Some(flight) if flight.peek().is_none() => flight.clone(),
                _ => {
                    let flight = Arc::clone(self).depart();
                    state.flight = Some(flight.clone());
                    flight
                }
            }
        };
        match deadline {
            None => flight.await,
            Some(deadline) => timeout_at(deadline, flight).await.map_err(|_| late(what))?,
        }
    }

    fn depart(self: Arc<Self>) -> Flight {
        let task = tokio::spawn(async move {
            let grant = login::login(&self).await;
            self.land(grant)
        });
        let landed = task.map(|landed| {
            landed.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "a login ended in a panic")))
        });
        landed.boxed().shared()
    }

    fn land(self: &Arc<Self>, grant: Result<Grant>) -> Result<Token> {
        let mut state = self.state();
        state.flight = None;
        let Grant { text, life, file } = grant?;
        // The same one, written again, is no other: what ends with a token need not be replaced.
        if let (Some(file), Some(held)) = (&file, &mut state.held)
            && held.is_alive()
            && held.token.text.same_as(&text)
        {
            held.file = Some(file.clone());
            return Ok(held.token.clone());
        }
        state.generation += 1;
        let token = Token::new(text, state.generation, life);
        state.held = Some(Held { token: token.clone(), expires: life.expires(), file });
        if let Some(keeper) = state.keeper.take() {
            keeper.abort();
        }
        if life != Life::Endless {
            let keeper = keeper::keep(Arc::downgrade(self), token.clone(), life);
            state.keeper = Some(tokio::spawn(keeper).abort_handle());
        }
        self.logins.send_replace(token.generation);
        Ok(token)
    }

    /// Tells of every token that takes the place of another.
    pub(crate) fn logins(&self) -> watch::Receiver<u64> {
        self.logins.subscribe()
    }

    /// Whether nobody keeps this token alive any more, since there is another one.
    pub(crate) fn has_replaced(&self, token: &Token) -> bool {
        *self.logins.borrow() != token.generation
    }

    /// Notes how long the token lives by now.
    pub(crate) fn prolong(&self, token: &Token, life: Life) {
        token.learn(life);
        if let Some(held) = &mut self.state().held
            && held.token.generation == token.generation
        {
            held.expires = life.expires();
        }
    }

    /// Asks how long the token lives.
    pub(crate) async fn look_up(&self, token: &Token) -> Result<Life> {
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            ttl: u64,
            #[serde(default)]
            renewable: bool,
        }
        let ask = Ask::get(vec!["auth", "token", "lookup-self"], "our own token", None);
        let since = Instant::now();
        let reply = self.http.send(&ask, Some(&token.text)).await?;
        match reply.read::<Answer>() {
            Some(Answer { data }) if reply.is_success() => {
                Ok(Life::new(since, data.ttl, data.renewable))
            }
            _ => Err(reply.failure(&ask)),
        }
    }

    /// Has the token live longer.
    pub(crate) async fn renew(&self, token: &Token) -> Result<Life> {
        let path = vec!["auth", "token", "renew-self"];
        let body = Body::json(&serde_json::json!({}));
        let ask = Ask::post(path, body, Call::Read, "our own token");
        let since = Instant::now();
        let reply = self.http.send(&ask, Some(&token.text)).await?;
        match reply.read::<login::Answer>().and_then(|answer| answer.auth) {
            Some(auth) if reply.is_success() => {
                Ok(Life::new(since, auth.lease_duration, auth.renewable))
            }
            _ => Err(reply.failure(&ask)),
        }
    }

    /// What the wrapping token held, if it was opened before.
    pub(crate) fn unwrapped(&self, wrapping: &SecretValue) -> Option<SecretValue> {
        let state = self.state();
        let (known, secret_id) = state.unwrapped.as_ref()?;
        known.same_as(wrapping).then(|| secret_id.clone())
    }

    pub(crate) fn keep_unwrapped(&self, wrapping: SecretValue, secret_id: SecretValue) {
        self.state().unwrapped = Some((wrapping, secret_id));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
