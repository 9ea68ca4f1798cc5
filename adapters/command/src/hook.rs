//! The commands at their moments of a rotation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainReport, HookError, LifecycleHook, Prepared, RefusalStream, Result, Retired,
    SecretRef, SecretSet,
};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::child::{Ending, run};
use crate::config::Config;
use crate::delivery::Delivery;

/// What a command inherits of the environment besides what its settings name.
const PASSED_ON: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];
/// The exit code of a command that could not do its work now and may be able to later: `EX_TEMPFAIL`
/// of `sysexits.h`. It says nothing about the secrets.
const COULD_NOT_TRY: i32 = 75;
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
            let step = Step { name: "prove", argv, generation, limit: shared.config.timeout };
            shared.run(&step, &delivery, Some(&delivery.json)).await?;
        }
        Ok(Box::new(Proven { shared, delivery }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }
}

/// One run of one of the commands.
struct Step<'a> {
    name: &'static str,
    argv: &'a [String],
    generation: u64,
    limit: Duration,
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
    async fn run(
        &self,
        step: &Step<'_>,
        delivery: &Delivery,
        input: Option<&[u8]>,
    ) -> Result<(), HookError> {
        let ending = run(self.command(step), input, delivery.redactor.window(), step.limit).await;
        let (name, program) = (step.name, &step.argv[0]);
        match ending {
            Ending::Exited(status, _) if status.success() => Ok(()),
            Ending::Exited(status, captured) => {
                let said = delivery.redactor.last_line(&captured);
                let said = said.map(|line| format!(": {line}")).unwrap_or_default();
                Err(match status.code() {
                    Some(COULD_NOT_TRY) => HookError::failed(format!(
                        "`{name}` exited with code {COULD_NOT_TRY}, so it could not try{said}"
                    )),
                    Some(code) => {
                        HookError::refused(format!("`{name}` exited with code {code}{said}"))
                    }
                    None => HookError::failed(format!("`{name}` was ended by a {status}{said}")),
                })
            }
            Ending::TimedOut => {
                let limit = humantime::format_duration(step.limit);
                Err(HookError::failed(format!("`{name}` was killed after {limit}")))
            }
            Ending::Lost(error) => {
                let message = format!("`{name}` cannot run `{program}` ({error})");
                Err(HookError::failed(message).caused_by(error))
            }
        }
    }

    fn command(&self, step: &Step<'_>) -> Command {
        let (program, arguments) = step.argv.split_first().expect("a command names its program");
        let mut command = Command::new(program);
        command.args(arguments);
        // Some secrets are in our environment, and under what names is not known here.
        command.env_clear();
        let passed = PASSED_ON.into_iter().chain(self.config.pass_env.iter().map(String::as_str));
        for name in passed {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("ONEIRIC_ADAPTER", self.id.as_str())
            .env("ONEIRIC_GENERATION", step.generation.to_string());
        if let Some(dir) = &self.config.working_dir {
            command.current_dir(dir);
        }
        command
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
            let limit = self.shared.config.timeout;
            let step = Step { name: "apply", argv, generation: self.generation, limit };
            self.shared.run(&step, &self.delivery, Some(&self.delivery.json)).await?;
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
        let limit = self.shared.config.timeout;
        let step = Step { name: "drain", argv, generation: self.generation, limit };
        self.shared.run(&step, &self.delivery, None).await
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
