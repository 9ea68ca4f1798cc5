//! The task that has the program: starts it when it is wanted, and again when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneiric_core::Error;
use tokio::time::{Instant, sleep_until};

use crate::session::{Command, Ending, Lasting, run};

/// The bound of the first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A program that ran for so long is taken for one that works, whatever ended it.
const STEADY: Duration = Duration::from_secs(10);

pub(crate) struct Manager {
    lasting: Lasting,
    ids: Arc<AtomicU64>,
    /// How often in a row it has ended soon.
    failures: u32,
}

impl Manager {
    pub(crate) fn new(lasting: Lasting, ids: Arc<AtomicU64>) -> Self {
        Self { lasting, ids, failures: 0 }
    }

    /// Ends when the provider is gone. Dropping it kills the program.
    pub(crate) async fn run(mut self) {
        while self.wanted().await {
            let started = Instant::now();
            let hello = self.ids.fetch_add(1, Ordering::Relaxed);
            let Ending::Failed(why) = run(&mut self.lasting, hello).await else { return };
            if started.elapsed() >= STEADY {
                self.failures = 0;
            }
            self.say(&why);
            self.lasting.waiting.drain(..).for_each(|ask| ask.refuse(&why));
            self.failures = self.failures.saturating_add(1);
            if !self.pause(&why).await {
                return;
            }
        }
    }

    /// Waits until the program is needed. False if it will not be any more.
    async fn wanted(&mut self) -> bool {
        loop {
            if self.lasting.changes.receiver_count() > 0 || !self.lasting.waiting.is_empty() {
                return true;
            }
            let Some(command) = self.lasting.commands.recv().await else { return false };
            self.take(command);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Ask(ask) => self.lasting.waiting.push_back(ask),
            Command::Cancel(id) => self.lasting.waiting.retain(|ask| ask.id != id),
            // Listeners are counted.
            Command::Listen => {}
        }
    }

    /// Gives the program time. Who cannot wait that long is told at once why.
    async fn pause(&mut self, why: &Error) -> bool {
        let until = Instant::now() + self.pause_time();
        loop {
            let command = tokio::select! {
                () = sleep_until(until) => return true,
                command = self.lasting.commands.recv() => command,
            };
            match command {
                None => return false,
                Some(Command::Ask(ask)) if ask.deadline <= until => ask.refuse(why),
                Some(command) => self.take(command),
            }
        }
    }

    /// Full jitter: anything below a bound that doubles.
    fn pause_time(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(20);
        let bound = FIRST_PAUSE.saturating_mul(1 << doublings);
        bound.min(self.lasting.config.max_restart_pause).mul_f64(fastrand::f64())
    }

    /// Says it once, until the program has run well for a while.
    fn say(&self, why: &Error) {
        let (program, error) = (&self.lasting.uri, why.chain());
        let message = "the program of an exec provider has to be started again";
        if self.failures == 0 {
            tracing::warn!(target: "oneiric", program, error, "{message}");
        } else {
            tracing::debug!(target: "oneiric", program, error, "{message}");
        }
    }
}
