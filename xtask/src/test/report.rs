//! Counting what the runners report.

use std::fmt;

use crate::process::{Failure, Result};

/// How many tests passed and failed, and which suites could not run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// The `SKIPPED <suite>: <why>` lines.
    skipped: Vec<String>,
}

impl Tally {
    /// A suite of one test.
    pub(super) fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: Vec::new() }
    }

    /// Reads the counts of nextest's report, and the skips that passing tests printed.
    pub(super) fn from_junit(text: &str) -> Option<Self> {
        let head = text.split_once("<testsuites ")?.1.split_once('>')?.0;
        let count = |name: &str| -> Option<u64> {
            head.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.parse().ok()
        };
        let failed = count("failures")? + count("errors")?;
        // In the text of an element `>` is escaped, so a bare one ends a tag.
        let skipped = text
            .split(['\n', '>'])
            .filter(|piece| piece.starts_with("SKIPPED "))
            .map(|piece| unescape(piece.split('<').next().unwrap_or(piece)))
            .collect();
        Some(Self { passed: count("tests")?.saturating_sub(failed), failed, skipped })
    }

    /// Counts a `test result:` line of the standard harness.
    pub(super) fn add_result_line(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count = |word: &str| {
            let before = counts.split_once(word).map_or("", |(before, _)| before);
            before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }

    /// Adds another suite.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// Notes a suite that could not run.
    pub(super) fn skip(&mut self, line: String) {
        self.skipped.push(line);
    }

    /// The line that a run ends with.
    pub(super) fn closing_line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }

    /// Whether the run was a success.
    pub(super) fn verdict(&self, skips_are_failures: bool) -> Result {
        if self.failed > 0 {
            return Err(Failure::new("some tests failed"));
        }
        if self.passed == 0 {
            return Err(Failure::new("no test was run"));
        }
        if skips_are_failures && !self.skipped.is_empty() {
            return Err(Failure::new("some suites were skipped, and every suite is required"));
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.skipped {
            writeln!(f, "{line}")?;
        }
        f.write_str(&self.closing_line())
    }
}

fn unescape(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUNIT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="5" failures="1" errors="1" uuid="x" time="0.1">
    <testsuite name="a" tests="5" disabled="0" errors="1" failures="1">
        <testcase name="t"><system-out>
running 1 test
</system-out><system-err>SKIPPED postgres: no &lt;initdb&gt; &amp; no server
it SKIPPED nothing
</system-err></testcase>
    </testsuite>
</testsuites>"#;

    #[test]
    fn nextests_report_is_counted_and_its_skips_are_found() {
        let tally = Tally::from_junit(JUNIT).unwrap();
        assert_eq!((tally.passed, tally.failed), (3, 2));
        assert_eq!(tally.skipped, ["SKIPPED postgres: no <initdb> & no server"]);
        assert_eq!(Tally::from_junit("<html>"), None);
    }

    #[test]
    fn result_lines_add_up() {
        let mut tally = Tally::default();
        tally.add_result_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured");
        tally.add_result_line("test result: FAILED. 3 passed; 2 failed; 0 ignored");
        tally.add_result_line("test result_is_parsed ... ok");
        assert_eq!(tally.closing_line(), "15 passed, 2 failed");
    }

    #[test]
    fn the_verdict_needs_tests_that_ran_and_passed() {
        let passed = || Tally::one(true);
        assert!(passed().verdict(true).is_ok());
        assert!(Tally::default().verdict(false).is_err());
        assert!(Tally::one(false).verdict(false).is_err());
        let mut skipped = passed();
        skipped.skip("SKIPPED postgres: it rains".into());
        assert!(skipped.verdict(false).is_ok());
        assert!(skipped.verdict(true).is_err());
        assert_eq!(skipped.to_string(), "SKIPPED postgres: it rains\n1 passed, 0 failed");
    }
}
