//! One process and the talk with it: one loop over one set of events.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use oneiric_core::{Change, Error, ErrorKind, Result, SecretValue};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use crate::child::{Pipes, Program};
use crate::config::{Capability, Config};
use crate::error;
use crate::lines::{Lines, Piece};
use crate::protocol::{self, Failure, Line, MOST_LINE, PROTOCOL, Request};
use crate::redact::Redactor;
use crate::stderr::Words;

/// How long a program may take to end once its standard input is closed.
const GRACE: Duration = Duration::from_secs(1);
/// How long a program whose standard output is closed may take to say how it ends.
const LAST: Duration = Duration::from_millis(100);

/// What is asked of the task that has the program. Each `Ask` holds a permit until it is answered
/// and has at most one `Cancel`, so that the queue of these is bounded.
pub(crate) enum Command {
    Ask(Ask),
    /// Nobody waits for this one any more.
    Cancel(u64),
    /// Somebody listens to changes.
    Listen,
}

/// A question that is to be put.
pub(crate) struct Ask {
    pub(crate) id: u64,
    /// What it is about, for errors.
    pub(crate) what: String,
    pub(crate) line: Zeroizing<Vec<u8>>,
    /// The value in it.
    pub(crate) value: Option<SecretValue>,
    pub(crate) write: bool,
    /// How many answers it has, if it is one that has several.
    pub(crate) parts: Option<usize>,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Replied>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Ask {
    /// Answers that the program is not there. The question was not put.
    pub(crate) fn refuse(self, why: &Error) {
        let _ = self.reply.send(Err(error::gone(&self.what, false, why.clone())));
    }
}

/// What came back.
pub(crate) enum Replied {
    /// The answer, or one error for all parts.
    One(Box<Answer>),
    Parts(Vec<Answer>),
}

impl Replied {
    fn lines(&mut self) -> impl Iterator<Item = &mut Line> {
        let answers = match self {
            Self::One(answer) => std::slice::from_mut(&mut **answer),
            Self::Parts(answers) => answers,
        };
        answers.iter_mut().map(|answer| &mut answer.line)
    }
}

/// A line that answers, with the value taken out of it or what is wrong with that.
pub(crate) struct Answer {
    pub(crate) line: Line,
    pub(crate) value: std::result::Result<SecretValue, &'static str>,
}

/// A question that was put.
struct Pending {
    what: String,
    write: bool,
    /// Whether a part of it may have reached the program.
    sent: bool,
    parts: Option<Vec<Option<Answer>>>,
    /// When no program can still be at it.
    overdue: Instant,
    /// `None` for the hello, which is ours.
    reply: Option<(oneshot::Sender<Result<Replied>>, OwnedSemaphorePermit)>,
}

/// How a session ended.
pub(crate) enum Ending {
    /// The provider is gone.
    Unwanted,
    /// It has to be started again, and why.
    Failed(Error),
}

/// What the task keeps from one process to the next.
pub(crate) struct Lasting {
    pub(crate) config: Config,
    pub(crate) uri: String,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) changes: broadcast::Sender<Change>,
    /// Questions for a program that is not there yet.
    pub(crate) waiting: VecDeque<Ask>,
    pub(crate) redactor: Redactor,
}

enum Event {
    Asked(Option<Command>),
    Heard(io::Result<Piece>),
    Said(io::Result<Piece>),
    Written(io::Result<usize>),
    Overdue,
}

struct Session<'l> {
    lasting: &'l mut Lasting,
    stdin: ChildStdin,
    stdout: Lines<ChildStdout>,
    words: Words,
    outgoing: VecDeque<(Option<u64>, Zeroizing<Vec<u8>>)>,
    /// How much of the first line is written.
    written: usize,
    pending: BTreeMap<u64, Pending>,
    last_sent: u64,
    /// The id of our hello until it is answered.
    hello: Option<u64>,
}

/// Runs one process from its start to its end. Whatever it was asked is answered when this ends.
pub(crate) async fn run(lasting: &mut Lasting, hello: u64) -> Ending {
    let (program, pipes) = match Program::start(&lasting.config) {
        Ok(started) => started,
        Err(cause) => {
            let message = format!("`{}` cannot be started", lasting.config.command[0]);
            let why = Error::with_source(ErrorKind::Unavailable, message, cause);
            return Ending::Failed(why);
        }
    };
    let Pipes { stdin, stdout, stderr } = pipes;
    let mut session = Session {
        lasting,
        stdin,
        stdout: Lines::new(stdout, MOST_LINE),
        words: Words::new(stderr),
        outgoing: VecDeque::new(),
        written: 0,
        pending: BTreeMap::new(),
        last_sent: 0,
        hello: Some(hello),
    };
    session.greet(hello);
    let ended = session.talk().await;
    let Session { lasting, stdin, words, pending, .. } = session;
    drop(stdin);
    let unwanted = matches!(ended, Ended::Unwanted);
    let grace = match &ended {
        Ended::Unwanted => GRACE,
        Ended::Closed => LAST,
        Ended::Broken(_) => Duration::ZERO,
    };
    let status = program.end(grace).await;
    words.end(&lasting.uri, &lasting.redactor).await;
    let how = match ended {
        Ended::Unwanted => "it is not needed any more".to_owned(),
        Ended::Broken(how) => how,
        Ended::Closed => match status {
            Some(status) => format!("it has ended with {status}"),
            None => "it has closed its standard output".to_owned(),
        },
    };
    let why = Error::new(ErrorKind::Unavailable, format!("`{}`: {how}", lasting.uri));
    for (_, pending) in pending {
        if let Some((reply, _)) = pending.reply {
            let sent_write = pending.write && pending.sent;
            let _ = reply.send(Err(error::gone(&pending.what, sent_write, why.clone())));
        }
    }
    if unwanted { Ending::Unwanted } else { Ending::Failed(why) }
}

/// Why a talk ended.
enum Ended {
    Unwanted,
    Closed,
    /// It broke a rule, or does not listen.
    Broken(String),
}

impl Session<'_> {
    fn greet(&mut self, id: u64) {
        let limit = self.lasting.config.timeout;
        let deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request =
            Request { id, op: "hello", oneiric: Some(PROTOCOL), deadline_ms, ..Request::default() };
        let line = request.line().expect("a hello is short");
        let (what, overdue) = ("a hello".to_owned(), Instant::now() + limit);
        let pending =
            Pending { what, write: false, sent: false, parts: None, overdue, reply: None };
        self.put(id, pending, line);
    }

    fn put(&mut self, id: u64, pending: Pending, line: Zeroizing<Vec<u8>>) {
        self.pending.insert(id, pending);
        self.last_sent = self.last_sent.max(id);
        self.outgoing.push_back((Some(id), line));
    }

    async fn talk(&mut self) -> Ended {
        loop {
            let overdue = self.pending.values().map(|pending| pending.overdue).min();
            let first = self.outgoing.front().map(|(_, line)| &line[self.written..]);
            let event = tokio::select! {
                command = self.lasting.commands.recv() => Event::Asked(command),
                piece = self.stdout.next() => Event::Heard(piece),
                piece = self.words.next(), if self.words.is_open() => Event::Said(piece),
                written = self.stdin.write(first.unwrap_or_default()), if first.is_some() => {
                    Event::Written(written)
                }
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    Event::Overdue
                }
            };
            let outcome = match event {
                Event::Asked(None) => Err(Ended::Unwanted),
                Event::Asked(Some(command)) => {
                    self.take(command);
                    Ok(())
                }
                Event::Heard(piece) => self.hear(piece),
                Event::Said(piece) => {
                    self.words.hear(piece, self.last_sent);
                    Ok(())
                }
                Event::Written(written) => self.wrote(&written),
                Event::Overdue => Err(Ended::Broken(self.overdue())),
            };
            if let Err(ended) = outcome {
                return ended;
            }
            let unanswered = self.pending.first_key_value().map(|(&id, _)| id);
            self.words.repeat(unanswered, &self.lasting.uri, &self.lasting.redactor);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Ask(ask) if self.hello.is_some() => self.lasting.waiting.push_back(ask),
            Command::Ask(ask) => self.ask(ask),
            Command::Cancel(id) if self.pending.contains_key(&id) => {
                let queued = self.outgoing.iter().position(|(of, _)| *of == Some(id));
                // What was not begun need not be said at all.
                match queued.filter(|&at| at > 0 || self.written == 0) {
                    Some(at) => {
                        self.outgoing.remove(at);
                        self.pending.remove(&id);
                    }
                    None => self.outgoing.push_back((None, protocol::cancel(id))),
                }
            }
            Command::Cancel(id) => self.lasting.waiting.retain(|ask| ask.id != id),
            Command::Listen => {}
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Ask { id, what, line, value, write, parts, deadline, reply, permit } = ask;
        if reply.is_closed() {
            return;
        }
        if let Some(value) = value {
            self.lasting.redactor.learn(&value);
        }
        let parts = parts.map(|count| (0..count).map(|_| None).collect());
        let overdue = deadline + self.lasting.config.timeout;
        let reply = Some((reply, permit));
        self.put(id, Pending { what, write, sent: false, parts, overdue, reply }, line);
    }

    fn wrote(&mut self, written: &io::Result<usize>) -> Result<(), Ended> {
        let length = match written {
            Ok(length @ 1..) => *length,
            _ => return Err(Ended::Broken("it does not read its standard input".to_owned())),
        };
        self.written += length;
        if let Some((id, line)) = self.outgoing.front() {
            if let Some(pending) = id.and_then(|id| self.pending.get_mut(&id)) {
                pending.sent = true;
            }
            if self.written >= line.len() {
                self.outgoing.pop_front();
                self.written = 0;
            }
        }
        Ok(())
    }

    fn overdue(&self) -> String {
        let now = Instant::now();
        let late = self.pending.values().find(|pending| pending.overdue <= now);
        let what = late.map_or("a request", |pending| pending.what.as_str());
        format!("it gave no answer for {what} for too long")
    }

    fn hear(&mut self, piece: io::Result<Piece>) -> Result<(), Ended> {
        let broken = |how: &str| Err(Ended::Broken(how.to_owned()));
        let bytes = match piece {
            Ok(Piece::Line(bytes)) => bytes,
            Ok(Piece::TooLong(_)) => {
                return broken("a line on its standard output is longer than 1048576 bytes");
            }
            Ok(Piece::End { within_line: false }) | Err(_) => return Err(Ended::Closed),
            Ok(Piece::End { within_line: true }) => {
                return broken("it ended in the middle of a line");
            }
        };
        let Some(mut line) = Line::parse(&bytes) else {
            return broken("a line on its standard output is not of the protocol");
        };
        // Before anything of this line is repeated, whatever is wrong with it.
        line.values().for_each(|value| self.lasting.redactor.learn(&value));
        if let Some(change) = line.change.take() {
            return self.changed(change);
        }
        let Some(id) = line.id else {
            return broken("a line on its standard output is neither an answer nor a change");
        };
        if self.hello == Some(id) {
            self.pending.remove(&id);
            self.lasting.redactor.redact_failures(&mut line);
            return self.greeted(&line).map_err(Ended::Broken);
        }
        self.answered(id, line)
    }

    fn changed(&mut self, change: protocol::Changed) -> Result<(), Ended> {
        if self.hello.is_some() {
            return Err(Ended::Broken("it tells of a change before its hello".to_owned()));
        }
        let change = match change.key.as_deref().map(protocol::key) {
            Some(Some(key)) => {
                Change::Secret { key, version: change.version.map(|version| version.0) }
            }
            Some(None) => return Ok(()),
            None => Change::Anything,
        };
        if self.lasting.config.has(Capability::Push) {
            // Without listeners nobody hears it.
            let _ = self.lasting.changes.send(change);
        }
        Ok(())
    }

    fn answered(&mut self, id: u64, mut line: Line) -> Result<(), Ended> {
        let Some(pending) = self.pending.get_mut(&id) else {
            let how = "it answers a request that was not made, or that it has answered already";
            return Err(Ended::Broken(how.to_owned()));
        };
        let (at, value) = (line.at, line.take_value());
        let answer = Answer { line, value };
        let mut replied = match (&mut pending.parts, at) {
            (Some(parts), Some(at)) => {
                let Some(part @ None) = parts.get_mut(at) else {
                    let how = "it answers a part of a request that there is not, or twice";
                    return Err(Ended::Broken(how.to_owned()));
                };
                *part = Some(answer);
                if parts.iter().any(Option::is_none) {
                    return Ok(());
                }
                Replied::Parts(parts.drain(..).flatten().collect())
            }
            _ => Replied::One(Box::new(answer)),
        };
        // One part may speak of the value of another, so all are there by now.
        replied.lines().for_each(|line| self.lasting.redactor.redact_failures(line));
        if let Some(Pending { reply: Some((reply, _)), .. }) = self.pending.remove(&id) {
            // The caller may have gone.
            let _ = reply.send(Ok(replied));
        }
        Ok(())
    }

    /// Holds the program to the settings, and begins.
    fn greeted(&mut self, line: &Line) -> Result<(), String> {
        let config = &self.lasting.config;
        if let Some(Failure { kind, message, .. }) = &line.error {
            let kind = self.lasting.redactor.redact(kind.as_bytes());
            let words = message.as_deref().unwrap_or("it does not say why");
            return Err(format!("it refuses the hello with `{kind}`: {words}"));
        }
        let version = line.oneiric.ok_or("its answer to the hello has no `oneiric`")?;
        if version != PROTOCOL {
            return Err(format!(
                "it speaks version {version} of the protocol, and this provider version {PROTOCOL}"
            ));
        }
        let shown = |text: &Option<String>| {
            let text = text.as_deref().unwrap_or("?");
            self.lasting.redactor.redact(text.as_bytes())
        };
        let (kind, uri) = (shown(&line.kind), shown(&line.uri));
        let offered = line.capabilities.as_deref().unwrap_or_default();
        let has = |token: &str| offered.iter().any(|offered| offered == token);
        let missing = config.capabilities.iter().find(|capability| !has(capability.token()));
        if let Some(missing) = missing {
            let known = self.lasting.redactor.redact(offered.join(", ").as_bytes());
            return Err(format!(
                "`capabilities` of the settings have `{}`, and the program, of the kind `{kind}`, \
                 offers `{known}`",
                missing.token()
            ));
        }
        if let Some(most) = line.max_value.filter(|&most| most < config.max_value) {
            return Err(format!(
                "`max_value` of the settings is {}, and that of the program, of the kind \
                 `{kind}`, is {most}",
                config.max_value
            ));
        }
        self.hello = None;
        tracing::info!(
            target: "oneiric",
            program = self.lasting.uri,
            kind,
            uri,
            "the program of an exec provider is there"
        );
        if config.has(Capability::Push) {
            // What changed before nobody told.
            let _ = self.lasting.changes.send(Change::Anything);
        }
        for ask in std::mem::take(&mut self.lasting.waiting) {
            self.ask(ask);
        }
        Ok(())
    }
}
