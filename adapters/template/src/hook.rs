//! The files at their moments of a rotation.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainReport, HookError, LifecycleHook, Prepared, RefusalStream, Result, Retired,
    SecretRef, SecretSet,
};
use oneiric_subprocess::{Redactor, Step};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::forms::add_forms;
use crate::staging::Staged;
use crate::target::Target;
use crate::template::Template;
use crate::{owner, signal};

/// Where `check` finds the rendered files.
const STAGED_DIR: &str = "ONEIRIC_STAGED_DIR";
/// The first pause before something is asked again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause before a hand-over that failed is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The adapter of a reader of files.
///
/// | moment | what happens |
/// |---|---|
/// | `prepare` | every file is rendered, written beside its target with owner and mode, and made safe from a crash; then `check` has a look. A `check` that says no *refuses* the secrets; everything else (a template that cannot be rendered with them, no room, no such folder, `check` with exit code 75) is *failed* |
/// | `commit` | the generation is counted, and no more, since a commit cannot fail |
/// | `drain` | the files are put in place, each by a rename; then the reader is told, by `reload` or a signal; then `acknowledge` is asked until it exits with 0 |
///
/// The files change at the start of `drain`, right after the commit. Where that fails, or the
/// reader is not told, or has not acknowledged by the deadline, the report is *leaked* with the
/// reason: the reader may be using the old content, so the old secrets must not be revoked. What
/// failed is tried again until it works or a newer generation takes over.
///
/// A file that is what it should be is not written, and where none is, the reader is not told. The
/// first generation after a start is the exception: it may have changed the file before, and have
/// ended before the reader was told.
///
/// Templates are read once, here. A change of one takes a restart, as one of the settings does.
#[derive(Debug)]
pub struct TemplateHook {
    secrets: Vec<SecretRef>,
    shared: Arc<Shared>,
}

impl TemplateHook {
    /// The adapter. Its templates are read and checked as far as that can be done without a
    /// secret; nothing is written and nothing runs yet.
    ///
    /// # Errors
    /// `Invalid` if the settings make no sense or a template is not valid, with file, line and
    /// name.
    pub fn new(id: AdapterId, config: Config) -> Result<Self> {
        config.check()?;
        let read = |file| Template::read(file, &config.secrets);
        let templates = config.files.iter().map(read).collect::<Result<_>>()?;
        let mut secrets: Vec<_> = config.secrets.values().cloned().collect();
        secrets.sort();
        secrets.dedup();
        let shared = Shared {
            id,
            templates,
            serving: AtomicU64::new(0),
            cleaned_up: AtomicBool::new(false),
            placed: std::sync::Mutex::new(0),
            changes: AtomicU64::new(u64::from(config.reload_at_start)),
            told: Mutex::default(),
            config,
        };
        Ok(Self { secrets, shared: Arc::new(shared) })
    }
}

#[async_trait]
impl LifecycleHook for TemplateHook {
    fn id(&self) -> &AdapterId {
        &self.shared.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let shared = Arc::clone(&self.shared);
        let rendered = shared.render(next)?;
        let redactor = shared.redactor(next);
        let checked = shared.config.check.is_some();
        let staging = Arc::clone(&shared);
        let (staged, folder) = blocking(move || {
            let targets = staging.targets()?;
            if !staging.cleaned_up.swap(true, Ordering::Relaxed) {
                targets.iter().for_each(Target::clean_up);
            }
            let staged = Staged::write(targets.into_iter().zip(rendered))?;
            let folder = checked.then(|| staged.folder()).transpose()?;
            Ok((staged, folder))
        })
        .await?;
        if let (Some(argv), Some(folder)) = (&shared.config.check, &folder) {
            let generation = shared.serving.load(Ordering::Relaxed) + 1;
            shared.run("check", argv, generation, &redactor, Some(folder.path())).await?;
        }
        Ok(Box::new(Proven { shared, staged, redactor }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }

    /// The files stay: their reader may outlive us.
    async fn release(&self, _deadline: Instant) {}
}

/// Runs what waits for a disk where it keeps nobody waiting. If the caller goes away it still runs
/// to its end, and what it made is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HookError> + Send + 'static,
) -> Result<T, HookError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(HookError::failed("the work on the files was broken off")))
}

struct Shared {
    id: AdapterId,
    config: Config,
    templates: Vec<Template>,
    /// The generation that was committed last.
    serving: AtomicU64,
    cleaned_up: AtomicBool,
    /// The generation whose files are in place. Held while files are put in place, so that an
    /// older one never comes after a newer one.
    placed: std::sync::Mutex<u64>,
    /// How often there was something that the reader is to be told of.
    changes: AtomicU64,
    told: Mutex<Told>,
}

/// What the reader knows, by the count of changes.
#[derive(Debug, Default)]
struct Told {
    reloaded: u64,
    acknowledged: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).field("serving", &self.serving).finish()
    }
}

impl Shared {
    /// All files, in their order.
    fn render(&self, secrets: &SecretSet) -> Result<Vec<Zeroizing<Vec<u8>>>, HookError> {
        let rendered = self.templates.iter().map(|of| of.render(&self.config.secrets, secrets));
        rendered.collect::<Result<_, _>>().map_err(HookError::failed)
    }

    fn targets(&self) -> Result<Vec<Target>, HookError> {
        let targets = self.config.files.iter().map(|file| {
            let owner = file.owner.as_deref().map(owner::user).transpose()?;
            let group = file.group.as_deref().map(owner::group).transpose()?;
            Ok(Target {
                path: file.target.clone(),
                mode: file.mode,
                owner,
                group,
                backup: file.backup,
                adapter: self.id.to_string(),
            })
        });
        targets.collect()
    }

    /// What hides the secrets in the words of commands, if there are any.
    fn redactor(&self, secrets: &SecretSet) -> Redactor {
        let config = &self.config;
        let commands = [&config.check, &config.reload, &config.acknowledge];
        let mut forms = Vec::new();
        if commands.into_iter().any(Option::is_some) {
            secrets.values().for_each(|value| add_forms(value.expose(), &mut forms));
        }
        Redactor::new(forms.iter().map(|form| form.as_slice()))
    }

    async fn run(
        &self,
        name: &'static str,
        argv: &[String],
        generation: u64,
        redactor: &Redactor,
        staged: Option<&Path>,
    ) -> Result<(), HookError> {
        let generation = generation.to_string();
        let mut env = vec![
            ("ONEIRIC_ADAPTER", OsStr::new(self.id.as_str())),
            ("ONEIRIC_GENERATION", OsStr::new(&generation)),
        ];
        env.extend(staged.map(|folder| (STAGED_DIR, folder.as_os_str())));
        let step = Step {
            name,
            argv,
            limit: self.config.timeout,
            working_dir: self.config.working_dir.as_deref(),
            pass_env: &self.config.pass_env,
            env: &env,
        };
        step.run(redactor, None).await
    }
}

/// Files that are rendered, staged and proven.
struct Proven {
    shared: Arc<Shared>,
    staged: Staged,
    redactor: Redactor,
}

impl Prepared for Proven {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let Self { shared, staged, redactor } = *self;
        let generation = shared.serving.fetch_add(1, Ordering::Relaxed) + 1;
        Box::new(Handover { shared, staged: Arc::new(staged), redactor, generation })
    }
}

/// What is left to do for a generation that was committed: its files have to be put in place, and
/// their reader has to take them over.
struct Handover {
    shared: Arc<Shared>,
    staged: Arc<Staged>,
    redactor: Redactor,
    generation: u64,
}

#[async_trait]
impl Retired for Handover {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let done = async {
            self.place().await?;
            self.reload().await?;
            self.wait_for_the_reader(deadline).await
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
    /// Tries again until the reader has taken the files over, or a newer generation has taken the
    /// matter over.
    async fn hand_over_after_all(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            sleep(pause).await;
            pause = LONGEST_RETRY.min(2 * pause);
            if self.shared.serving.load(Ordering::Relaxed) > self.generation {
                return;
            }
            let done = async {
                self.place().await?;
                self.reload().await?;
                self.ask_the_reader().await
            };
            if done.await.is_ok() {
                return;
            }
        }
    }

    /// Puts the files in place, unless newer ones are.
    async fn place(&self) -> Result<(), HookError> {
        let (shared, staged) = (Arc::clone(&self.shared), Arc::clone(&self.staged));
        let generation = self.generation;
        blocking(move || {
            let mut placed = shared.placed.lock().unwrap_or_else(PoisonError::into_inner);
            if *placed < generation {
                staged.place(|| _ = shared.changes.fetch_add(1, Ordering::SeqCst))?;
                *placed = generation;
            }
            Ok(())
        })
        .await
    }

    /// Tells the reader, if there is something that it has not been told.
    async fn reload(&self) -> Result<(), HookError> {
        let mut told = self.shared.told.lock().await;
        let changes = self.shared.changes.load(Ordering::SeqCst);
        if told.reloaded < changes {
            let config = &self.shared.config;
            if let Some(argv) = &config.reload {
                let (shared, generation) = (&self.shared, self.generation);
                shared.run("reload", argv, generation, &self.redactor, None).await?;
            }
            if let Some(config) = config.signal.clone() {
                blocking(move || signal::send(&config)).await?;
            }
            told.reloaded = changes;
        }
        Ok(())
    }

    /// Asks once whether the reader serves what it was told of.
    async fn ask_the_reader(&self) -> Result<(), HookError> {
        let Some(argv) = &self.shared.config.acknowledge else { return Ok(()) };
        let reloaded = {
            let told = self.shared.told.lock().await;
            if told.acknowledged >= told.reloaded {
                return Ok(());
            }
            told.reloaded
        };
        let (shared, generation) = (&self.shared, self.generation);
        shared.run("acknowledge", argv, generation, &self.redactor, None).await?;
        let mut told = shared.told.lock().await;
        told.acknowledged = told.acknowledged.max(reloaded);
        Ok(())
    }

    async fn wait_for_the_reader(&self, deadline: Instant) -> Result<(), HookError> {
        let mut answer = HookError::failed("`acknowledge` has not answered by the deadline");
        let mut pause = FIRST_PAUSE;
        let asked = timeout_at(deadline, async {
            while let Err(error) = self.ask_the_reader().await {
                answer = error;
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(2 * pause);
            }
        });
        asked.await.map_err(|_| answer)
    }
}
