//! The course of a rotation, told on stderr while it runs.

use std::io::{self, IsTerminal as _, Write as _};

use oneiric_core::{AdapterId, InstanceId};
use oneiric_runtime::report::{AdapterReport, Progress};

use crate::output::tell;
use crate::render::{millis, printable, token};

/// Who is told, and how.
#[derive(Debug)]
pub(super) enum View {
    /// Nobody: the report says it all.
    Silent,
    /// A line for each step, for a log.
    Lines,
    /// A picture that changes in its place, for a person.
    Live(Picture),
}

/// Where each instance and each of its adapters is.
#[derive(Debug, Default)]
pub(super) struct Picture {
    instances: Vec<Standing>,
    drawn: usize,
}

#[derive(Debug)]
struct Standing {
    instance: InstanceId,
    step: String,
    adapters: Vec<(AdapterId, String)>,
}

impl View {
    /// What fits the command line and stderr.
    pub(super) fn new(json: bool) -> Self {
        if json {
            Self::Silent
        } else if io::stderr().is_terminal() {
            Self::Live(Picture::default())
        } else {
            Self::Lines
        }
    }

    /// Tells one step of one instance.
    pub(super) fn step(&mut self, instance: &InstanceId, progress: &Progress) {
        match self {
            Self::Silent => {}
            Self::Lines => tell(&format!("{instance}: {}", sentence(progress))),
            Self::Live(picture) => {
                picture.note(instance, progress);
                picture.draw();
            }
        }
    }

    /// Makes place for the report.
    pub(super) fn clear(&mut self) {
        if let Self::Live(picture) = self {
            picture.instances.clear();
            picture.draw();
        }
    }
}

impl Picture {
    fn note(&mut self, instance: &InstanceId, progress: &Progress) {
        let known = self.instances.iter().position(|of| of.instance == *instance);
        let at = known.unwrap_or_else(|| {
            let (instance, step) = (instance.clone(), String::new());
            self.instances.push(Standing { instance, step, adapters: Vec::new() });
            self.instances.len() - 1
        });
        let standing = &mut self.instances[at];
        match progress {
            Progress::Adapter(report) => standing.set(&report.adapter, state(report)),
            other => standing.step = sentence(other),
        }
        if let Progress::Preparing { adapters } = progress {
            adapters.iter().for_each(|adapter| standing.set(adapter, "preparing".into()));
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for standing in &self.instances {
            lines.push(format!("{}  {}", standing.instance, standing.step));
            let adapters = standing.adapters.iter();
            lines.extend(adapters.map(|(adapter, state)| format!("  {adapter}  {state}")));
        }
        lines
    }

    /// Draws over what was drawn before.
    fn draw(&mut self) {
        // Some terminals do not know how wide they are, and say 0.
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|&width| width > 0);
        let width = width.unwrap_or(80);
        let lines = self.lines();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}F\u{1b}[J", self.drawn));
        }
        for line in &lines {
            // A line that wraps would be two, and the way back up too short.
            text.extend(printable(line).replace('\n', " ").chars().take(width - 1));
            text.push('\n');
        }
        self.drawn = lines.len();
        // Talk is lost on a closed stderr, and nothing else is.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl Standing {
    fn set(&mut self, adapter: &AdapterId, state: String) {
        match self.adapters.iter_mut().find(|(known, _)| known == adapter) {
            Some((_, known)) => *known = state,
            None => self.adapters.push((adapter.clone(), state)),
        }
    }
}

fn sentence(progress: &Progress) -> String {
    match progress {
        Progress::Waiting => "waiting for another rotation of the same secrets".into(),
        Progress::Reading => "reading the secrets".into(),
        Progress::Preparing { adapters } => {
            let adapters: Vec<_> = adapters.iter().map(AdapterId::as_str).collect();
            format!("preparing {}", adapters.join(", "))
        }
        Progress::Adapter(report) => format!("{} {}", report.adapter, state(report)),
        Progress::Finished(report) => {
            format!("{} after {}", token(&report.outcome), millis(Some(report.duration_ms)))
        }
        _ => "working".into(),
    }
}

fn state(report: &AdapterReport) -> String {
    let mut text = format!("{}, generation {}", token(&report.outcome), report.generation);
    if let Some(took) = report.prepare_ms {
        text.push_str(&format!(", prepared in {}", millis(Some(took))));
    }
    if let Some(took) = report.drain_ms {
        text.push_str(&format!(", drained in {}", millis(Some(took))));
    }
    if let Some(error) = &report.error {
        text.push_str(&format!(": {error}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use oneiric_runtime::report::AdapterOutcome;

    use super::*;

    #[test]
    fn each_adapter_has_a_line_that_changes() {
        let web: InstanceId = "web-1".parse().unwrap();
        let db: AdapterId = "db".parse().unwrap();
        let mut picture = Picture::default();
        picture.note(&web, &Progress::Reading);
        picture.note(&web, &Progress::Preparing { adapters: vec![db.clone()] });
        assert_eq!(picture.lines(), ["web-1  preparing db", "  db  preparing"]);
        let report = AdapterReport {
            adapter: db,
            outcome: AdapterOutcome::Drained,
            generation: 2,
            prepare_ms: Some(12.0),
            drain_ms: Some(1500.0),
            in_flight: 0,
            error: None,
        };
        picture.note(&web, &Progress::Adapter(report));
        let adapter = "  db  drained, generation 2, prepared in 12.0ms, drained in 1.5s";
        assert_eq!(picture.lines(), ["web-1  preparing db", adapter]);
    }
}
