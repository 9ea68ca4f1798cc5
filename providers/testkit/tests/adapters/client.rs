//! The reference: a client with a small pool of sessions, made an adapter by `ManagedHook`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{HookError, ManagedHook, SecretRef, SecretSet};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::server::{Session, ToyServer, Trouble};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// One generation.
pub(crate) struct Client {
    pub(crate) server: Arc<ToyServer>,
    pub(crate) secret: String,
    pub(crate) idle: Mutex<Vec<Session>>,
    closing: watch::Sender<bool>,
}

impl Client {
    pub(crate) fn new(server: Arc<ToyServer>, secret: &str) -> Result<Self, HookError> {
        if secret.contains('\n') {
            return Err(HookError::failed("the secret has a line break"));
        }
        let (idle, closing) = (Mutex::default(), watch::Sender::new(false));
        Ok(Self { server, secret: secret.to_owned(), idle, closing })
    }

    pub(crate) fn of_set(server: Arc<ToyServer>, set: &SecretSet) -> Result<Self, HookError> {
        let secret = set.get(&reference()).and_then(|value| value.expose_str());
        Self::new(server, secret.ok_or(HookError::failed("the secret is no text"))?)
    }

    /// One unit of work: over an idle session, or a new one if there is none or it was cut off.
    pub(crate) async fn ask(&self) -> Result<u64, Trouble> {
        let idle = self.idle.lock().unwrap().pop();
        if let Some(mut session) = idle
            && let Ok(number) = session.ask().await
        {
            self.put_back(session);
            return Ok(number);
        }
        let mut session = self.server.connect(&self.secret).await?;
        let number = session.ask().await?;
        self.put_back(session);
        Ok(number)
    }

    fn put_back(&self, session: Session) {
        if !*self.closing.borrow() {
            self.idle.lock().unwrap().push(session);
        }
    }

    /// Resolves when the users are to let go.
    pub(crate) async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        closing.wait_for(|closing| *closing).await.expect("we hold the sender");
    }

    /// Tries the secret over a session of its own, which is the first of the pool.
    pub(crate) async fn prove(&self) -> Result<(), Trouble> {
        let mut session = self.server.connect(&self.secret).await?;
        session.ask().await?;
        self.put_back(session);
        Ok(())
    }

    /// Asks the users to let go, and says goodbye where it is heard.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap());
        for mut session in idle {
            // Without a goodbye it is dropped, which ends it too.
            let _ = timeout(GOODBYE, session.ask()).await;
        }
    }
}

pub(crate) fn reference() -> SecretRef {
    "files:token".parse().unwrap()
}

pub(crate) fn told(trouble: Trouble) -> HookError {
    match trouble {
        Trouble::Refused => HookError::refused("the server refuses the secret"),
        Trouble::Unreachable => HookError::failed("the server cannot be reached"),
        Trouble::CutOff => HookError::failed("the server cut the connection off"),
        Trouble::Busy => HookError::failed("the server is busy"),
    }
}

/// The adapter as it should be.
pub(crate) fn good(server: Arc<ToyServer>) -> ManagedHook<Client> {
    ManagedHook::new("toy".parse().unwrap(), [reference()], move |set| {
        let server = Arc::clone(&server);
        async move { Client::of_set(server, &set) }
    })
    .prove(|client| async move { client.prove().await.map_err(told) })
    .close(|client| async move { client.close().await })
}
