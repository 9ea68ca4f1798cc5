//! One child that runs, with everything that it has started.

use std::collections::BTreeSet;
use std::future::pending;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, waitid,
    waitpid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::ending::Ending;
use crate::processes;

/// How often it is looked whether what a child has started has ended too.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a program takes to become another.
const BECOMING: Duration = Duration::from_millis(2);
/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// The numbers of those that are not buried yet.
static UNBURIED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Whether this is one that we have started, and will bury.
pub(crate) fn is_ours(pid: Pid) -> bool {
    unburied().contains(&pid.as_raw_nonzero().get())
}

fn unburied() -> MutexGuard<'static, BTreeSet<i32>> {
    UNBURIED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leader of a process group that we have started. Dropping it kills everything that it has
/// started, and buries it.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) pid: Pid,
    /// By which everything that it has started is found again.
    mark: String,
    /// Whether its number is free for others again.
    buried: Mutex<bool>,
    ending: OnceLock<Ending>,
}

impl Leader {
    pub(crate) fn of(child: &Child, mark: String) -> Self {
        let pid = Pid::from_child(child);
        unburied().insert(pid.as_raw_nonzero().get());
        Self { pid, mark, buried: Mutex::new(false), ending: OnceLock::new() }
    }

    /// Sends this to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        let buried = self.buried();
        if !*buried {
            // All of it may have ended a moment ago.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Sends this to the group and to what has left it, to each of them once.
    fn signal_all(&self, signal: Signal) {
        let buried = self.buried();
        let group = (!*buried).then_some(self.pid);
        let strays = processes::strays(group, &self.mark);
        drop(buried);
        self.signal(signal);
        for pid in strays {
            let _ = kill_process(pid, signal);
        }
    }

    /// What of it runs.
    pub(crate) fn members(&self) -> Vec<Pid> {
        let buried = self.buried();
        processes::of((!*buried).then_some(self.pid), &self.mark)
    }

    /// How it ended, if it has. It stays unburied, so that its number is not given to another.
    pub(crate) fn look(&self) -> Option<Ending> {
        if self.ending.get().is_none() && !*self.buried() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let seen = match waitid(WaitId::Pid(self.pid), options) {
                Ok(seen) => seen.as_ref().and_then(Ending::of_waitid),
                // Somebody else has buried it: how it ended is not known.
                Err(_) => Some(Ending::Exited(255)),
            };
            if let Some(ending) = seen {
                let _ = self.ending.set(ending);
            }
        }
        self.ending.get().copied()
    }

    /// Gives its number back if it has ended.
    fn bury(&self) -> bool {
        let mut buried = self.buried();
        if !*buried {
            *buried = !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None));
        }
        // What it had started and left to us is buried with it.
        if *buried {
            unburied().remove(&self.pid.as_raw_nonzero().get());
            while let Ok(Some(_)) = rustix::process::waitpgid(self.pid, WaitOptions::NOHANG) {}
        }
        *buried
    }

    fn buried(&self) -> MutexGuard<'_, bool> {
        self.buried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when it has ended, by itself or not.
    pub(crate) async fn ended(&self) -> Ending {
        // Listening begins before the look, so that no end falls between the two.
        let Ok(mut children) = signal(SignalKind::child()) else { return pending().await };
        loop {
            if let Some(ending) = self.look() {
                return ending;
            }
            children.recv().await;
        }
    }

    /// Asks all of it to end, waits, and kills what is left at the deadline. Says whether it came
    /// to that.
    pub(crate) async fn stop(&self, signal: Signal, deadline: Instant) -> bool {
        self.signal_all(signal);
        // What is stopped hears nothing else.
        self.signal(Signal::CONT);
        let in_time = timeout_at(deadline, self.gone()).await.is_ok();
        if !in_time {
            let killing = async {
                while self.is_left().await {
                    self.signal_all(Signal::KILL);
                    sleep(PAUSE).await;
                }
                self.ended().await;
            };
            // The system may hold on to what it waits for a device in.
            let _ = timeout(DYING, killing).await;
        }
        self.bury();
        !in_time
    }

    async fn gone(&self) {
        self.ended().await;
        // One that is becoming another program has no environment for a moment.
        let mut looks = 0;
        while looks < 2 {
            looks = if self.is_left().await { 0 } else { looks + 1 };
            sleep(if looks > 0 { BECOMING } else { PAUSE }).await;
        }
    }

    /// Whether anything of it runs. It is looked for elsewhere: there may be many processes.
    async fn is_left(&self) -> bool {
        let (group, mark) = ((!*self.buried()).then_some(self.pid), self.mark.clone());
        let look = move || !processes::of(group, &mark).is_empty();
        spawn_blocking(look).await.unwrap_or_else(|_| !self.members().is_empty())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if *self.buried() {
            return;
        }
        self.signal_all(Signal::KILL);
        if !self.bury() {
            let pid = self.pid;
            // It is dying, and whoever drops it may not wait.
            std::thread::spawn(move || {
                let _ = waitpid(Some(pid), WaitOptions::empty());
                unburied().remove(&pid.as_raw_nonzero().get());
            });
        }
    }
}
