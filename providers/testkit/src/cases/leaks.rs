//! What the provider let be printed and logged in all the other cases.

use crate::bench::Bench;
use crate::canary::scan_for_canary;
use crate::report::{Check, Stop, ensure};

/// The last but one: it looks at everything that the others made the provider print.
pub(crate) async fn nothing_printed_shows_a_value(bench: &Bench<'_>) -> Check {
    let found = scan_for_canary(bench.printed(), &bench.canary);
    ensure(found.is_none(), || {
        format!("a Debug or Display shows a value: {}", found.unwrap_or_default())
    })
}

/// The last: it looks at everything that was logged, by whatever thread.
pub(crate) async fn nothing_logged_shows_a_value(bench: &Bench<'_>) -> Check {
    let Some(capture) = &bench.capture else {
        return Err(Stop::Skip("this process has a tracing subscriber of its own".into()));
    };
    let found = scan_for_canary(capture.lines(), &bench.canary);
    ensure(found.is_none(), || format!("a log line shows a value: {}", found.unwrap_or_default()))
}
