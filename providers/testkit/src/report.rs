//! What a run of a suite came to.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

/// How long one case may take. Generous: a slow machine is no defect.
const CASE: Duration = Duration::from_secs(120);

/// How a case ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It cannot be tried, and why.
    Skip(String),
    /// The contract is not held, and how that shows.
    Fail(String),
}

/// What a case comes to.
pub(crate) type Check<T = ()> = Result<T, Stop>;

/// Fails with a sentence unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Stop::Fail(otherwise())) }
}

/// What a run of a suite came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was tried: the kind of a provider, or the id of an adapter.
    tried: String,
    cases: Vec<(&'static str, Outcome)>,
}

/// What one case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The contract is held.
    Passed,
    /// There was nothing to try, and why.
    Skipped(String),
    /// It is not held, and how that shows.
    Failed(String),
}

impl Report {
    pub(crate) fn of(tried: impl Into<String>) -> Self {
        Self { tried: tried.into(), cases: Vec::new() }
    }

    /// The cases by name, in the order in which they ran.
    pub fn cases(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        self.cases.iter().map(|(name, outcome)| (*name, outcome))
    }

    /// The names of the cases that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = self.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        failed.map(|(name, _)| name).collect()
    }

    /// The names of the cases that were skipped. A test that names them notices when more of
    /// them come.
    pub fn skipped(&self) -> Vec<&'static str> {
        let skipped = self.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
        skipped.map(|(name, _)| name).collect()
    }

    /// Ends the test if a case failed.
    ///
    /// # Panics
    /// With the whole report, if a case failed.
    pub fn assert_passed(&self) {
        let tried = &self.tried;
        assert!(self.failed().is_empty(), "`{tried}` does not hold its contract:\n{self}");
    }

    #[expect(clippy::print_stderr, reason = "a skipped case must be seen in the test's output")]
    pub(crate) fn add(&mut self, name: &'static str, outcome: Outcome) {
        eprintln!("{}: {}", self.tried, Line(name, &outcome));
        self.cases.push((name, outcome));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cases().try_for_each(|(name, outcome)| writeln!(f, "{}", Line(name, outcome)))
    }
}

struct Line<'a>(&'static str, &'a Outcome);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, outcome) = self;
        match outcome {
            Outcome::Passed => write!(f, "ok {name}"),
            Outcome::Skipped(why) => write!(f, "SKIPPED {name}: {why}"),
            Outcome::Failed(how) => write!(f, "FAILED {name}: {how}"),
        }
    }
}

/// Runs one case. A panic, of what is tried or of anything that it uses, is a failure of the case.
pub(crate) async fn judged(case: impl Future<Output = Check>) -> Outcome {
    match timeout(CASE, AssertUnwindSafe(case).catch_unwind()).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Stop::Skip(why)))) => Outcome::Skipped(why),
        Ok(Ok(Err(Stop::Fail(how)))) => Outcome::Failed(how),
        Ok(Err(panic)) => Outcome::Failed(format!("a panic: {}", message(panic.as_ref()))),
        Err(_) => Outcome::Failed(format!("it did not end within {CASE:?}")),
    }
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
