//! Figures, and how they are shown: as a table for people, as JSON for the rest.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One thing that was measured, several times.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    unit: &'static str,
    runs: Vec<f64>,
    against: Option<Against>,
    target: Option<Target>,
    note: Option<String>,
    broken: bool,
}

/// What it is compared with: measured in the same runs, by turns.
#[derive(Debug, Clone)]
struct Against {
    name: String,
    runs: Vec<f64>,
}

/// A bound for the ratio where there is one, else for the value.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
}

impl Figure {
    /// A figure from its runs.
    ///
    /// # Panics
    /// If there was no run.
    pub fn new(name: impl Into<String>, unit: &'static str, runs: Vec<f64>) -> Self {
        let name = name.into();
        assert!(!runs.is_empty(), "`{name}` was measured at least once");
        Self { name, unit, runs, against: None, target: None, note: None, broken: false }
    }

    /// Compares it with a peer, run by run.
    #[must_use]
    pub fn against(mut self, name: impl Into<String>, runs: &[f64]) -> Self {
        self.against = Some(Against { name: name.into(), runs: runs.to_vec() });
        self
    }

    /// What it should be.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The same where there may be no target.
    #[must_use]
    pub fn maybe_target(mut self, target: Option<Target>) -> Self {
        self.target = target;
        self
    }

    /// What else was seen.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Something besides the number is not as it should be, and what: the target is missed.
    #[must_use]
    pub fn broken(mut self, what: impl Into<String>) -> Self {
        self.note = Some(what.into());
        self.broken = true;
        self
    }

    /// The median of the runs.
    pub fn value(&self) -> f64 {
        median(&self.runs)
    }

    /// The median of the ratios of the runs, so that what disturbs one run disturbs both sides.
    pub fn ratio(&self) -> Option<f64> {
        let against = self.against.as_ref()?;
        let ratios: Vec<_> =
            self.runs.iter().zip(&against.runs).map(|(ours, theirs)| ours / theirs).collect();
        Some(median(&ratios))
    }

    /// Whether the target holds, where there is one.
    pub fn met(&self) -> Option<bool> {
        let judged = self.ratio().unwrap_or_else(|| self.value());
        let holds = match self.target? {
            Target::AtMost(most) => judged <= most,
            Target::AtLeast(least) => judged >= least,
        };
        Some(holds && !self.broken)
    }

    fn json(&self) -> Value {
        let (target, bound) = match self.target {
            Some(Target::AtMost(most)) => (Some(most), Some("at most")),
            Some(Target::AtLeast(least)) => (Some(least), Some("at least")),
            None => (None, None),
        };
        json!({
            "name": self.name,
            "value": rounded(self.value()),
            "unit": self.unit,
            "against": self.against.as_ref().map(|against| &against.name),
            "against_value": self.against.as_ref().map(|against| rounded(median(&against.runs))),
            "ratio": self.ratio().map(rounded),
            "target": target,
            "target_is": bound,
            "met": self.met(),
            "min": rounded(least(&self.runs)),
            "max": rounded(most(&self.runs)),
            "runs": self.runs.iter().copied().map(rounded).collect::<Vec<_>>(),
            "note": self.note,
        })
    }

    fn row(&self) -> String {
        let mut row = format!(
            "{:<38} {:>9} {:<12} {:>9} .. {:<9}",
            self.name,
            shown(self.value()),
            self.unit,
            shown(least(&self.runs)),
            shown(most(&self.runs)),
        );
        if let (Some(against), Some(ratio)) = (&self.against, self.ratio()) {
            let theirs = format!("{} {}", against.name, shown(median(&against.runs)));
            let _ = write!(row, " {:>6} x {theirs:<27}", shown(ratio));
        } else {
            let _ = write!(row, " {:<36}", "");
        }
        match self.target {
            Some(Target::AtMost(most)) => row.push_str(&format!(" <= {:<6}", shown(most))),
            Some(Target::AtLeast(least)) => row.push_str(&format!(" >= {:<6}", shown(least))),
            None => row.push_str(&" ".repeat(10)),
        }
        match self.met() {
            Some(true) => row.push_str(" ok"),
            Some(false) => row.push_str(" MISSED"),
            None => {}
        }
        if let Some(note) = &self.note {
            let _ = write!(row, "  ({note})");
        }
        row.trim_end().to_owned()
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    left_out: Vec<String>,
}

impl Report {
    /// Takes figures in.
    pub fn add(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.figures.extend(figures);
    }

    /// Notes what was not measured, and why.
    pub fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<38} {:>9} {:<12} {:>9} .. {:<9} {:<36} {}\n",
            "figure", "median", "unit", "min", "max", "ratio to", "target"
        );
        for figure in &self.figures {
            text.push_str(&figure.row());
            text.push('\n');
        }
        for what in &self.left_out {
            let _ = writeln!(text, "left out: {what}");
        }
        let judged: Vec<_> = self.figures.iter().filter_map(Figure::met).collect();
        let missed = judged.iter().filter(|met| !**met).count();
        let _ = writeln!(text, "{} targets, {missed} missed", judged.len());
        text
    }

    /// The same for machines.
    pub fn json(&self) -> Value {
        json!({
            "machine": machine(),
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "left_out": self.left_out,
        })
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of all values does not exceed.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * (sorted.len() - 1) as f64;
    (sorted[place.floor() as usize] + sorted[place.ceil() as usize]) / 2.0
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Three places are more than any of this is good for.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn shown(value: f64) -> String {
    let places = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.places$}")
}

/// What the figures were measured on, without what would tell one machine from another.
fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes / 1024 / 1024)
    });
    json!({
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cores": cores,
        "memory_gib": memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_judged_where_there_is_one_and_else_the_value() {
        let figure = Figure::new("a", "ns", vec![10.0, 30.0, 20.0]);
        assert_eq!((figure.value(), figure.ratio(), figure.met()), (20.0, None, None));
        assert_eq!(figure.clone().target(Target::AtMost(20.0)).met(), Some(true));
        assert_eq!(figure.clone().target(Target::AtLeast(20.1)).met(), Some(false));
        let compared = figure.against("peer", &[100.0, 100.0, 50.0]).target(Target::AtMost(0.2));
        assert_eq!((compared.ratio(), compared.met()), (Some(0.3), Some(false)));
    }

    #[test]
    fn what_is_broken_is_missed_whatever_the_number() {
        let figure = Figure::new("a", "ns", vec![1.0]).target(Target::AtMost(2.0));
        assert_eq!(figure.clone().broken("no error at the end").met(), Some(false));
        assert!(figure.broken("no error").row().contains("MISSED  (no error)"));
    }
}
