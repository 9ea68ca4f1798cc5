//! One connection to the server that many may use, and that can be ended from here whatever they
//! do.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::{MultiplexedConnection, SendError};
use redis::{Client, PushInfo, PushKind, RedisResult};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::error::ended;
use crate::login::{Login, Server, WITHIN};

/// The connections of one owner: how many are open, and whether they are to end.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: watch::Sender<usize>,
    cut: watch::Sender<bool>,
}

impl Sessions {
    /// Makes everything that is done over its connections fail. They end when it has.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Resolves when every connection is closed.
    pub(crate) async fn ended(&self) {
        let mut live = self.live.subscribe();
        // The sender is ours.
        let _ = live.wait_for(|live| *live == 0).await;
    }

    /// Does something over a connection, until that is cut.
    pub(crate) async fn until_cut<T>(
        &self,
        work: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut cut = self.cut.subscribe();
        tokio::select! {
            biased;
            _ = cut.wait_for(|cut| *cut) => Err(ended()),
            done = work => done,
        }
    }
}

/// A connection, until its socket is closed: the driver has it, and drops it then, however it came
/// to that.
struct Live {
    sessions: Arc<Sessions>,
    open: Arc<AtomicBool>,
}

impl Live {
    fn new(sessions: &Arc<Sessions>) -> Self {
        sessions.live.send_modify(|live| *live += 1);
        Self { sessions: Arc::clone(sessions), open: Arc::new(true.into()) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Release);
        self.sessions.live.send_modify(|live| *live -= 1);
    }
}

/// One of them. When its last clone is dropped, it is closed.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) connection: MultiplexedConnection,
    /// Its number at the server.
    pub(crate) id: u64,
    open: Arc<AtomicBool>,
}

impl Link {
    /// Opens a connection and logs it in. What the server says unasked goes to `pushed`, which ends
    /// with the connection.
    ///
    /// # Cancellation
    /// Dropping the future closes what is open.
    pub(crate) async fn open(
        server: &Server,
        login: &Login,
        sessions: &Arc<Sessions>,
        pushed: Option<UnboundedSender<PushInfo>>,
    ) -> RedisResult<Self> {
        let live = Live::new(sessions);
        let open = Arc::clone(&live.open);
        let sender = move |info: PushInfo| -> Result<(), SendError> {
            if info.kind == PushKind::Disconnection {
                live.open.store(false, Ordering::Release);
                return Ok(());
            }
            pushed.as_ref().map_or(Ok(()), |pushed| pushed.send(info).map_err(|_| SendError))
        };
        let config = server.config.clone().set_push_sender(sender);
        let client = Client::open(server.with(login)?)?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        let connection = sessions.until_cut(opening).await?;
        // The driver alone has the sender now.
        drop(config);
        let mut patient = patient(&connection);
        let id = sessions.until_cut(login.greet(&mut patient)).await?;
        Ok(Self { connection, id, open })
    }

    /// Whether it was open a moment ago.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// The same connection for what is said to it for a login: how long users wait for answers is
    /// none of its concern.
    pub(crate) fn patient(&self) -> MultiplexedConnection {
        patient(&self.connection)
    }
}

fn patient(connection: &MultiplexedConnection) -> MultiplexedConnection {
    let mut connection = connection.clone();
    connection.set_response_timeout(WITHIN);
    connection
}
