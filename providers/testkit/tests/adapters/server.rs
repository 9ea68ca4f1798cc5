//! A server in memory: credentials that it accepts or refuses, sessions that it counts, and
//! faults.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use oneiric_testkit::ServerFault;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Why an exchange came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Unreachable,
    CutOff,
    Busy,
    Refused,
}

#[derive(Debug)]
pub(crate) struct ToyServer {
    state: Mutex<State>,
    fault: watch::Sender<Option<ServerFault>>,
}

#[derive(Debug, Default)]
struct State {
    numbers: HashMap<String, u64>,
    accepted: HashSet<u64>,
    shown: HashMap<u64, u64>,
    /// The credential of each session that is open.
    sessions: HashMap<u64, u64>,
    sessions_so_far: u64,
}

impl ToyServer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), fault: watch::Sender::new(None) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Numbers a secret, and accepts it from now on or does not.
    pub(crate) fn learn(&self, secret: &str, accepts: bool) -> u64 {
        let mut state = self.state();
        let number = state.numbers.len() as u64 + 1;
        state.numbers.insert(secret.to_owned(), number);
        if accepts {
            state.accepted.insert(number);
        }
        number
    }

    pub(crate) fn revoke(&self, number: u64) {
        self.state().accepted.remove(&number);
    }

    pub(crate) fn uses(&self, number: u64) -> usize {
        self.state().sessions.values().filter(|of| **of == number).count()
    }

    pub(crate) fn shown(&self, number: u64) -> u64 {
        self.state().shown.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn play(&self, fault: Option<ServerFault>) {
        if fault == Some(ServerFault::Down) {
            self.state().sessions.clear();
        }
        self.fault.send_replace(fault);
    }

    /// Cuts off every session of a secret.
    pub(crate) fn kick(&self, secret: &str) {
        let mut state = self.state();
        if let Some(number) = state.numbers.get(secret).copied() {
            state.sessions.retain(|_, of| *of != number);
        }
    }

    /// Opens a session.
    pub(crate) async fn connect(self: &Arc<Self>, secret: &str) -> Result<Session, Trouble> {
        let mut exchanges = 0;
        if *self.fault.borrow() == Some(ServerFault::Busy) {
            return Err(Trouble::Busy);
        }
        self.exchange(&mut exchanges).await?;
        let id = {
            let mut state = self.state();
            let Some(number) = state.numbers.get(secret).copied() else {
                return Err(Trouble::Refused);
            };
            *state.shown.entry(number).or_default() += 1;
            if !state.accepted.contains(&number) {
                return Err(Trouble::Refused);
            }
            state.sessions_so_far += 1;
            let id = state.sessions_so_far;
            state.sessions.insert(id, number);
            id
        };
        // From here on the session is given up if anything stops us.
        let mut session = Session { server: Arc::clone(self), id, exchanges };
        session.ask().await?;
        Ok(session)
    }

    /// One question and its answer.
    pub(crate) async fn exchange(&self, exchanges: &mut usize) -> Result<(), Trouble> {
        let mut fault = self.fault.subscribe();
        yield_now().await;
        loop {
            let now = *fault.borrow_and_update();
            match now {
                Some(ServerFault::Down) => return Err(Trouble::Unreachable),
                Some(ServerFault::Stalled { after }) if *exchanges < after => break,
                Some(ServerFault::Hanging | ServerFault::Stalled { .. }) => {
                    fault.changed().await.map_err(|_| Trouble::Unreachable)?;
                }
                Some(ServerFault::Slow(time)) => {
                    sleep(time).await;
                    break;
                }
                Some(ServerFault::CutOff { after }) if *exchanges >= after => {
                    return Err(Trouble::CutOff);
                }
                _ => break,
            }
        }
        yield_now().await;
        *exchanges += 1;
        Ok(())
    }
}

/// An open session; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Session {
    server: Arc<ToyServer>,
    id: u64,
    exchanges: usize,
}

impl Session {
    /// Asks the server with which credential this session was opened.
    pub(crate) async fn ask(&mut self) -> Result<u64, Trouble> {
        self.server.exchange(&mut self.exchanges).await?;
        self.server.state().sessions.get(&self.id).copied().ok_or(Trouble::CutOff)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.state().sessions.remove(&self.id);
    }
}
