//! The provider: puts each call into a question, and judges what comes back.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use oneiric_core::{
    Change, ChangeStream, Descriptor, Detection, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp, Version,
    VersionInfo, VersionState,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::config::{Capability, Config};
use crate::error::{damaged, gone, kind_of, late, said, unsupported};
use crate::manager::Manager;
use crate::protocol::{self, Failure, Item, Listed, MOST_ITEMS, Request, Sent, State};
use crate::redact::Redactor;
use crate::session::{Answer, Ask, Command, Lasting, Replied};

/// How many requests are under way at most.
const MOST_REQUESTS: usize = 128;
/// How many changes a listener may be behind before it is told [`Change::Anything`].
const BACKLOG: usize = 1024;

/// A [`SecretProvider`] that asks a program; [`Config::build`] makes one.
///
/// # The program
/// It is started by the first call, or by the first who listens to changes, and then runs as long
/// as the provider. When it ends or breaks a rule of the protocol it is killed with its process
/// group and started again, after a pause that grows; what it was asked is `Unavailable`, and
/// `Ambiguous` if it was a write that may have reached it. Dropping the provider closes its
/// standard input and kills it a second later.
///
/// # Versions
/// As the program says: numbers stand in an order, texts do not.
///
/// # Cancellation
/// A call that is dropped is cancelled in the program too. A write may or may not have happened.
///
/// # Runtime
/// The task that has the program lives in the Tokio runtime of the first call. When that runtime
/// ends, so does the program, and the next call starts another.
pub struct ExecProvider {
    descriptor: Descriptor,
    config: Config,
    task: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    permits: Arc<Semaphore>,
    changes: broadcast::Sender<Change>,
    ids: Arc<AtomicU64>,
    /// Whether the program has said that it knows no `fetch_many`.
    one_by_one: AtomicBool,
}

impl ExecProvider {
    pub(crate) fn new(config: Config) -> Self {
        // The arguments may say more than is good for a log.
        let uri = format!("exec:{}", config.command[0]);
        // What a program's own store promises and costs, nobody here can say.
        let detection = Detection {
            keys_a_call: u32::try_from(MOST_ITEMS).ok().and_then(NonZeroU32::new),
            calls_a_minute: None,
            settles_within: None,
            usd_a_million: None,
        };
        let descriptor =
            Descriptor::new("exec", uri, config.capabilities()).with_detection(detection);
        Self {
            descriptor,
            config,
            task: Mutex::default(),
            permits: Arc::new(Semaphore::new(MOST_REQUESTS)),
            changes: broadcast::Sender::new(BACKLOG),
            ids: Arc::new(AtomicU64::new(1)),
            one_by_one: AtomicBool::new(false),
        }
    }

    /// The way to the task that has the program, which begins here if it is not there.
    fn task(&self, runtime: &Handle) -> mpsc::UnboundedSender<Command> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.as_ref().filter(|task| !task.is_closed()) {
            return task.clone();
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let lasting = Lasting {
            config: self.config.clone(),
            uri: self.descriptor.uri.clone(),
            commands,
            changes: self.changes.clone(),
            waiting: std::collections::VecDeque::new(),
            redactor: Redactor::default(),
        };
        // It ends with us: its only way to commands is ours.
        runtime.spawn(Manager::new(lasting, Arc::clone(&self.ids)).run());
        *task = Some(sender.clone());
        sender
    }

    /// Puts a question and waits for the answer, until the deadline or for as long as the
    /// settings say.
    async fn ask(&self, question: Question<'_>) -> Result<Replied> {
        let Question { what, write, value, parts, deadline, mut request } = question;
        let now = Instant::now();
        let deadline = deadline.unwrap_or(now + self.config.timeout);
        if deadline <= now {
            return Err(late(&what, false));
        }
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| late(&what, false))?.expect("nobody closes it");
        request.id = self.ids.fetch_add(1, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(Instant::now());
        request.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let (id, line) = (request.id, request.line()?);
        let (reply, answer) = oneshot::channel();
        let task = self.task(&Handle::current());
        let (about, value) = (what.clone(), value.cloned());
        let ask = Ask { id, what: about, line, value, write, parts, deadline, reply, permit };
        let ended = || Error::new(ErrorKind::Unavailable, "the runtime that had it has ended");
        task.send(Command::Ask(ask)).map_err(|_| gone(&what, false, ended()))?;
        let mut cancel = Cancel { task, id, wanted: true };
        match timeout_at(deadline, answer).await {
            Ok(replied) => {
                cancel.wanted = false;
                replied.unwrap_or_else(|_| Err(gone(&what, write, ended())))
            }
            Err(_) => Err(late(&what, write)),
        }
    }

    /// The same for a question that has one answer, which is no error.
    async fn ask_one(&self, question: Question<'_>) -> Result<Answer> {
        let (what, write) = (question.what.clone(), question.write);
        match self.ask(question).await? {
            Replied::One(mut answer) => match answer.line.error.take() {
                Some(failure) => Err(refusal(failure, &what, write)),
                None => Ok(*answer),
            },
            Replied::Parts(_) => Err(damaged(&what, "has parts")),
        }
    }

    /// What is known of a request before the program is asked.
    fn check(&self, request: &FetchRequest) -> Result<()> {
        if request.version.is_some() && !self.config.has(Capability::Versions) {
            return Err(unsupported("versions"));
        }
        Ok(())
    }

    /// Judges the answer to one fetch.
    fn fetched(&self, mut answer: Answer, request: &FetchRequest) -> Result<Fetched> {
        let what = of_secret(&request.key);
        if let Some(failure) = answer.line.error.take() {
            return Err(refusal(failure, &what, false));
        }
        let value = answer.value.map_err(|how| damaged(&what, how))?;
        self.check_value(&value).map_err(|how| damaged(&what, how))?;
        let version = answer.line.version.ok_or_else(|| damaged(&what, "has no version"))?;
        let mut fetched = Fetched::new(value, version.0);
        if self.config.has(Capability::Stamps) {
            let stamp = answer.line.stamp.ok_or_else(|| damaged(&what, "has no stamp"))?;
            fetched.stamp = Some(Stamp::from(stamp));
            if request.if_none_match.is_some() && request.if_none_match == fetched.stamp {
                return Err(not_modified(&what));
            }
        }
        if self.config.has(Capability::Snapshots) {
            let snapshot = answer.line.snapshot.ok_or_else(|| damaged(&what, "has no snapshot"))?;
            fetched.snapshot = Some(snapshot.into());
        }
        fetched.expires_at = answer.line.expires_at.and_then(at_second);
        Ok(fetched)
    }

    fn check_value(&self, value: &SecretValue) -> std::result::Result<(), &'static str> {
        if value.is_empty() {
            return Err("is empty");
        }
        if u64::try_from(value.expose().len()).is_ok_and(|length| length > self.config.max_value) {
            return Err("is larger than `max_value`");
        }
        if !self.config.has(Capability::Binary) && value.expose_str().is_none() {
            return Err("is no text, and `capabilities` do not have `binary`");
        }
        Ok(())
    }

    /// The stamps of as many secrets as one line may ask for.
    async fn look(&self, keys: &[SecretKey], deadline: Option<Instant>) -> Vec<Result<Stamp>> {
        let names: Vec<&str> = keys.iter().map(SecretKey::as_str).collect();
        let what = match keys {
            [key] => of_secret(key),
            _ => "how secrets stand".to_owned(),
        };
        let request = Request { op: "stamps", keys: Some(&names), ..Request::default() };
        let question = Question { deadline, ..Question::read(what.clone(), request) };
        let stamps = self.ask_one(question).await.and_then(|answer| {
            let stamps = answer.line.stamps.ok_or_else(|| damaged(&what, "has no stamps"))?;
            let whole = stamps.len() == keys.len();
            whole.then_some(stamps).ok_or_else(|| damaged(&what, "has another number of stamps"))
        });
        match stamps {
            Ok(stamps) => keys
                .iter()
                .zip(stamps)
                .map(|(key, stamped)| match (stamped.error, stamped.stamp) {
                    (Some(failure), _) => Err(refusal(failure, &of_secret(key), false)),
                    (None, Some(stamp)) => Ok(Stamp::from(stamp)),
                    (None, None) => Err(damaged(&of_secret(key), "has no stamp")),
                })
                .collect(),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Asks for several at once; `None` if the program knows no such question.
    async fn many(&self, requests: &[&FetchRequest]) -> Option<Vec<Result<Fetched>>> {
        let item = |request: &&'_ FetchRequest| (request.key.clone(), request.version.clone());
        let named: Vec<_> = requests.iter().map(item).collect();
        let items = named
            .iter()
            .map(|(key, version)| Item { key: key.as_str(), version: version.as_deref() })
            .collect();
        let request = Request { op: "fetch_many", items: Some(items), ..Request::default() };
        let what = "several secrets".to_owned();
        let mut question = Question::read(what.clone(), request);
        question.deadline = requests.iter().filter_map(|request| request.deadline).min();
        question.parts = Some(requests.len());
        let error = match self.ask(question).await {
            Ok(Replied::Parts(answers)) => {
                let pairs = answers.into_iter().zip(requests);
                return Some(
                    pairs.map(|(answer, request)| self.fetched(answer, request)).collect(),
                );
            }
            Ok(Replied::One(mut answer)) => match answer.line.error.take() {
                Some(failure) => refusal(failure, &what, false),
                None => damaged(&what, "does not say for which of them it is"),
            },
            Err(error) => error,
        };
        let unknown = error.kind() == ErrorKind::Unsupported;
        if unknown && !self.config.has(Capability::Snapshots) {
            return None;
        }
        Some(requests.iter().map(|_| Err(error.clone())).collect())
    }

    async fn write(
        &self,
        key: &SecretKey,
        value: Option<&SecretValue>,
        request: Request<'_>,
    ) -> Result<Answer> {
        let what = format!("`{}` of {}", request.op, of_secret(key));
        let request = Request { key: Some(key.as_str()), ..request };
        let question = Question { write: true, value, ..Question::read(what, request) };
        self.ask_one(question).await
    }
}

/// A request on its way.
struct Question<'a> {
    what: String,
    write: bool,
    value: Option<&'a SecretValue>,
    parts: Option<usize>,
    deadline: Option<Instant>,
    request: Request<'a>,
}

impl<'a> Question<'a> {
    fn read(what: String, request: Request<'a>) -> Self {
        Self { what, write: false, value: None, parts: None, deadline: None, request }
    }
}

/// Tells the program that nobody waits any more, when it is dropped while somebody does.
struct Cancel {
    task: mpsc::UnboundedSender<Command>,
    id: u64,
    wanted: bool,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if self.wanted {
            let _ = self.task.send(Command::Cancel(self.id));
        }
    }
}

#[async_trait]
impl SecretProvider for ExecProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.check(request)?;
        let FetchRequest { key, version, if_none_match, deadline, .. } = request;
        // A look first, so that a value which is known does not travel.
        if let (Some(known), None) = (if_none_match, version)
            && self.config.has(Capability::Stamps)
        {
            let looked = self.look(std::slice::from_ref(key), *deadline).await.pop();
            if *known == looked.expect("one key has one answer")? {
                return Err(not_modified(&of_secret(key)));
            }
        }
        let (key, version) = (Some(key.as_str()), version.as_deref());
        let asked = Request { op: "fetch", key, version, ..Request::default() };
        let mut question = Question::read(of_secret(&request.key), asked);
        question.deadline = *deadline;
        self.fetched(self.ask_one(question).await?, request)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let asked: Vec<_> = requests.iter().filter(|request| self.check(request).is_ok()).collect();
        // What is of one moment is one question.
        let most = match self.config.has(Capability::Snapshots) {
            true => asked.len().max(1),
            false => MOST_ITEMS,
        };
        let answers = join_all(asked.chunks(most).map(|chunk| async {
            if !self.one_by_one.load(Ordering::Relaxed) {
                if let Some(answers) = self.many(chunk).await {
                    return answers;
                }
                self.one_by_one.store(true, Ordering::Relaxed);
            }
            join_all(chunk.iter().map(|request| self.fetch(request))).await
        }));
        let mut answers = answers.await.into_iter().flatten();
        let answer = |request| {
            self.check(request)?;
            answers.next().expect("each that was asked has its answer")
        };
        requests.iter().map(answer).collect()
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        if !self.config.has(Capability::Stamps) {
            return keys.iter().map(|_| Err(unsupported("stamps"))).collect();
        }
        let looks = keys.chunks(MOST_ITEMS).map(|chunk| self.look(chunk, None));
        join_all(looks).await.into_iter().flatten().collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        if !self.config.has(Capability::Push) {
            return None;
        }
        let receiver = self.changes.subscribe();
        // Outside of a runtime the first question starts the program.
        if let Ok(runtime) = Handle::try_current() {
            let _ = self.task(&runtime).send(Command::Listen);
        }
        let changes = stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(change) => Some((change, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Anything, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Some(changes.boxed())
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        self.config.has(Capability::Write).then_some(self as _)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        self.config.has(Capability::List).then_some(self as _)
    }
}

#[async_trait]
impl SecretLister for ExecProvider {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let what = "the list of secrets";
        let (mut keys, mut after) = (Vec::new(), None::<String>);
        loop {
            let request = Request { op: "list", after: after.as_deref(), ..Request::default() };
            let answer = self.ask_one(Question::read(what.to_owned(), request)).await?;
            let page = answer.line.keys.ok_or_else(|| damaged(what, "has no keys"))?;
            keys.extend(page.iter().filter_map(|key| protocol::key(key)));
            if !answer.line.more {
                break;
            }
            let last = page.into_iter().max().filter(|last| after.as_ref() < Some(last));
            after = Some(last.ok_or_else(|| damaged(what, "has more, and goes no further"))?);
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        if !self.config.has(Capability::Versions) {
            return Err(unsupported("versions"));
        }
        let what = format!("the versions of {}", of_secret(key));
        let request = Request { op: "versions", key: Some(key.as_str()), ..Request::default() };
        let answer = self.ask_one(Question::read(what.clone(), request)).await?;
        let versions = answer.line.versions.ok_or_else(|| damaged(&what, "has no versions"))?;
        Ok(versions.into_iter().map(version_info).collect())
    }
}

#[async_trait]
impl SecretWriter for ExecProvider {
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        let request = Request { op: "create_secret", ..Request::default() };
        self.write(key, None, request).await.map(drop)
    }

    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        if let Err(how) = self.check_value(value) {
            let message = format!("the new value of {} {how}", of_secret(key));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let sent = Sent::new(value);
        let request = Request {
            op: "create_version",
            token: Some(token),
            value: sent.text(),
            base64: sent.base64(),
            ..Request::default()
        };
        let answer = self.write(key, Some(value), request).await?;
        // It was written, and nobody knows as what; the same token finds out.
        let unnamed = || {
            let message = format!("the program does not say which version of `{key}` it made");
            Error::new(ErrorKind::Ambiguous, message)
        };
        Ok(answer.line.version.ok_or_else(unnamed)?.0)
    }

    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let version = Some(version);
        let request = Request { op: "promote", version, expected, ..Request::default() };
        self.write(key, None, request).await.map(drop)
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        let request = Request { op: "disable", version: Some(version), ..Request::default() };
        self.write(key, None, request).await.map(drop)
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        let request = Request { op: "enable", version: Some(version), ..Request::default() };
        self.write(key, None, request).await.map(drop)
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        let request = Request { op: "destroy", version: Some(version), ..Request::default() };
        self.write(key, None, request).await.map(drop)
    }
}

impl fmt::Debug for ExecProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecProvider").field("uri", &self.descriptor.uri).finish_non_exhaustive()
    }
}

fn of_secret(key: &SecretKey) -> String {
    format!("the secret `{key}`")
}

fn not_modified(what: &str) -> Error {
    Error::new(ErrorKind::NotModified, format!("{what} has not changed"))
}

/// The error that a program answered with. Of a write that came to a word which there is not, or
/// to an end of its time, nobody knows what became.
fn refusal(failure: Failure, what: &str, write: bool) -> Error {
    let retry_after = failure.retry_after_ms.map(Duration::from_millis);
    let kind = match kind_of(&failure.kind, retry_after) {
        Some(ErrorKind::DeadlineExceeded) if write => ErrorKind::Ambiguous,
        Some(kind) => kind,
        None if write => ErrorKind::Ambiguous,
        None => ErrorKind::Unavailable,
    };
    said(kind, what, failure.message)
}

fn version_info(listed: Listed) -> VersionInfo {
    let state = match listed.state {
        State::Enabled => VersionState::Enabled,
        State::Disabled => VersionState::Disabled,
        State::Destroyed => VersionState::Destroyed,
    };
    let mut info = VersionInfo::new(listed.version.0, state);
    info.current = listed.current;
    info.labels = listed.labels;
    info.created = listed.created.and_then(at_second);
    info
}

fn at_second(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
