//! The commands at their moments of a rotation.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainReport, HookError, LifecycleHook, Prepared, RefusalStream, Result, Retired,
    SecretRef, SecretSet,
};
use oneiric_subprocess::Step;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Config;
use crate::delivery::Delivery;

/// The first pause before `drain` is asked again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause before a hand-over that failed is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The adapter of a service that is moved to new secrets by commands.
///
/// | moment | what happens |
/// |---|---|
/// | `prepare` | `prove` runs with the new secrets: exit code 0 proves them, another but 75 *refuses* them; everything else (exit code 75, no such program, a signal, the timeout, a value that is not UTF-8) is *failed* |
/// | `commit` | the generation is counted, and no more, since a commit cannot fail |
/// | `drain` | `apply` runs with the new secrets; then `drain` is asked until it exits with 0 |
///
/// The service itself moves at the start of `drain`, right after the commit. Where `apply` fails,
/// or `drain` has not exited with 0 by the deadline, the report is *leaked* with the reason: the
/// service may be using the old secrets, so they must not be revoked. What failed is tried again
/// until it works or a newer generation takes over; until then no rotation is called done. `apply`
/// always has its whole `timeout`, even past the deadline.
///
/// The first generation is applied in the same way, so that a service gets its secrets when the
/// agent starts; there is nothing to drain then.
#[derive(Debug)]
pub struct CommandHook {
    secrets: Vec<SecretRef>,
    shared: Arc<Shared>,
}

impl CommandHook {
    /// The adapter. Nothing runs yet.
    ///
    /// # Errors
    /// `Invalid` if the settings make no sense.
    pub fn new(id: AdapterId, config: Config) -> Result<Self> {
        config.check()?;
        let mut secrets: Vec<_> = config.secrets.values().cloned().collect();
        secrets.sort();
        secrets.dedup();
        let shared = Shared { id, config, serving: AtomicU64::new(0), applied: Mutex::new(0) };
        Ok(Self { secrets, shared: Arc::new(shared) })
    }
}

#[async_trait]
impl LifecycleHook for CommandHook {
    fn id(&self) -> &AdapterId {
        &self.shared.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let shared = Arc::clone(&self.shared);
        let delivery = Delivery::new(&shared.config.secrets, next)?;
        if let Some(argv) = &shared.config.prove {
            let generation = shared.serving.load(Ordering::Relaxed) + 1;
            shared.run("prove", argv, generation, &delivery, Some(&delivery.json)).await?;
        }
        Ok(Box::new(Proven { shared, delivery }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }

    async fn release(&self, _deadline: Instant) {}
}

#[derive(Debug)]
struct Shared {
    id: AdapterId,
    config: Config,
    /// The generation that was committed last.
    serving: AtomicU64,
    /// The generation that the service was given last. Held while it is given one, so that an
    /// older one never arrives after a newer one.
    applied: Mutex<u64>,
}

impl Shared {
    /// Runs one of the commands for this generation.
    async fn run(
        &self,
        name: &'static str,
        argv: &[String],
        generation: u64,
        delivery: &Delivery,
        input: Option<&[u8]>,
    ) -> Result<(), HookError> {
        let generation = generation.to_string();
        let env = [
            ("ONEIRIC_ADAPTER", OsStr::new(self.id.as_str())),
            ("ONEIRIC_GENERATION", OsStr::new(&generation)),
        ];
        let step = Step {
            name,
            argv,
            limit: self.config.timeout,
            working_dir: self.config.working_dir.as_deref(),
            pass_env: &self.config.pass_env,
            env: &env,
        };
        step.run(&delivery.redactor, input).await
    }
}

/// New secrets that work.
struct Proven {
    shared: Arc<Shared>,
    delivery: Delivery,
}

impl Prepared for Proven {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let Self { shared, delivery } = *self;
        let generation = shared.serving.fetch_add(1, Ordering::Relaxed) + 1;
        Box::new(Handover { shared, delivery, generation })
    }
}

/// What is left to do for a generation that was committed: the service has to take it over and
/// let go of the one before.
struct Handover {
    shared: Arc<Shared>,
    delivery: Delivery,
    generation: u64,
}

#[async_trait]
impl Retired for Handover {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let done = async {
            self.apply().await?;
            self.wait_for_the_old(deadline).await
        };
        match done.await {
            Ok(()) => DrainReport::drained(),
            Err(error) => {
                let report = DrainReport::leaked(1).with_error(error.to_string());
                report.ended_by(self.hand_over_after_all())
            }
        }
    }
}

impl Handover {
    /// Tries again until the service has let go of the old secrets, or a newer generation has
    /// taken the matter over.
    async fn hand_over_after_all(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            sleep(pause).await;
            pause = LONGEST_RETRY.min(2 * pause);
            if self.shared.serving.load(Ordering::Relaxed) > self.generation {
                return;
            }
            if self.apply().await.is_ok() && self.ask_for_the_old().await.is_ok() {
                return;
            }
        }
    }

    async fn apply(&self) -> Result<(), HookError> {
        let Some(argv) = &self.shared.config.apply else { return Ok(()) };
        let mut applied = self.shared.applied.lock().await;
        if *applied < self.generation {
            let input = Some(self.delivery.json.as_slice());
            self.shared.run("apply", argv, self.generation, &self.delivery, input).await?;
            *applied = self.generation;
        }
        Ok(())
    }

    /// Asks once whether the service has let go of what was before.
    async fn ask_for_the_old(&self) -> Result<(), HookError> {
        let Some(argv) = &self.shared.config.drain else { return Ok(()) };
        if self.generation == 1 {
            return Ok(());
        }
        self.shared.run("drain", argv, self.generation, &self.delivery, None).await
    }

    async fn wait_for_the_old(&self, deadline: Instant) -> Result<(), HookError> {
        let mut answer = HookError::failed("`drain` has not answered by the deadline");
        let mut pause = FIRST_PAUSE;
        let asked = timeout_at(deadline, async {
            while let Err(error) = self.ask_for_the_old().await {
                answer = error;
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(2 * pause);
            }
        });
        asked.await.map_err(|_| answer)
    }
}
