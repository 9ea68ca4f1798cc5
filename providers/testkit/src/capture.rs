//! What is logged while the suite runs, on every thread and at every level.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// A thread's own subscriber would miss the threads that the provider uses, so there is one for
/// the process; false if the process has another one.
static INSTALLED: LazyLock<bool> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        // A span may have a field that no event is told with.
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_writer(|| Lines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).is_ok()
});

/// From when on the lines of one run are heard.
pub(crate) struct Capture(usize);

impl Capture {
    /// Starts to listen, or `None` if this process has a subscriber of its own.
    pub(crate) fn start() -> Option<Self> {
        INSTALLED.then(|| Self(LINES.lock().unwrap_or_else(PoisonError::into_inner).len()))
    }

    /// All lines since then, those of other runs in this process too.
    pub(crate) fn lines(&self) -> Vec<u8> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner)[self.0..].to_vec()
    }
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
