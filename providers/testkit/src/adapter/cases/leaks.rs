//! What the adapters let be printed and logged in all the other cases.

use crate::adapter::bench::Bench;
use crate::canary::scan_for_canary;
use crate::report::{Check, Stop, ensure};

/// The last but one: it looks at everything that the others made the adapters print.
pub(crate) async fn nothing_printed_shows_a_value(bench: &Bench<'_>) -> Check {
    shows_no_value(bench, bench.printed().as_bytes(), "a Debug, an error or a report")
}

/// The last: it looks at everything that was logged, by whatever thread.
pub(crate) async fn nothing_logged_shows_a_value(bench: &Bench<'_>) -> Check {
    match bench.logged() {
        Some(lines) => shows_no_value(bench, &lines, "a log line"),
        None => Err(Stop::Skip("this process has a tracing subscriber of its own".into())),
    }
}

fn shows_no_value(bench: &Bench<'_>, output: &[u8], what: &str) -> Check {
    let needles = bench.needles();
    ensure(!needles.is_empty(), || {
        "the rig's credentials hold nothing that could be searched for".into()
    })?;
    let found = needles.iter().find_map(|needle| scan_for_canary(output, needle));
    ensure(found.is_none(), || format!("{what} shows a value: {}", found.unwrap_or_default()))
}
