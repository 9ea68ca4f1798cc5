//! What a program writes to its standard error, on its way to the log.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::process::ChildStderr;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::lines::{Lines, Piece};
use crate::redact::Redactor;

/// The longest line that is looked at, in bytes.
const MOST_LINE: usize = 4096;
/// How many lines are repeated in a second.
const MOST_A_SECOND: usize = 100;
/// How many lines wait to be repeated.
const MOST_HELD: usize = 1000;
/// How long the last words of a program that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The words of one process.
///
/// A program may print a value before it sends it. So a line waits until every request that was
/// under way when it came has been answered: then all its values are known.
pub(crate) struct Words {
    lines: Lines<ChildStderr>,
    open: bool,
    held: VecDeque<(u64, Zeroizing<Vec<u8>>)>,
    second: Instant,
    taken: usize,
    left_out: usize,
}

impl Words {
    pub(crate) fn new(stderr: ChildStderr) -> Self {
        Self {
            lines: Lines::new(stderr, MOST_LINE),
            open: true,
            held: VecDeque::new(),
            second: Instant::now(),
            taken: 0,
            left_out: 0,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) async fn next(&mut self) -> io::Result<Piece> {
        self.lines.next().await
    }

    /// Takes a line that came after this request had been sent and all before it.
    pub(crate) fn hear(&mut self, piece: io::Result<Piece>, last_sent: u64) {
        let line = match piece {
            Ok(Piece::Line(line) | Piece::TooLong(line)) => line,
            Ok(Piece::End { .. }) | Err(_) => {
                self.open = false;
                return;
            }
        };
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.taken = 0;
        }
        if self.taken >= MOST_A_SECOND || self.held.len() >= MOST_HELD {
            self.left_out += 1;
            return;
        }
        self.taken += 1;
        self.held.push_back((last_sent, line));
    }

    /// Repeats the lines that may be repeated while this request and later ones are not answered.
    pub(crate) fn repeat(&mut self, unanswered: Option<u64>, uri: &str, redactor: &Redactor) {
        while let Some((last_sent, _)) = self.held.front()
            && unanswered.is_none_or(|id| id > *last_sent)
        {
            let (_, line) = self.held.pop_front().expect("there is a first one");
            let line = redactor.redact(&line);
            if !line.is_empty() {
                tracing::info!(target: "oneiric", program = uri, line, "a program says");
            }
        }
        if self.left_out > 0 && self.held.is_empty() && self.taken < MOST_A_SECOND {
            self.tell_left_out(uri);
        }
    }

    /// Repeats the last words of a process that has ended.
    pub(crate) async fn end(mut self, uri: &str, redactor: &Redactor) {
        let rest = async {
            while self.open {
                let piece = self.lines.next().await;
                self.hear(piece, u64::MAX);
            }
        };
        // Another process may hold the other end open.
        let _ = timeout(LAST_WORDS, rest).await;
        self.repeat(None, uri, redactor);
        if self.left_out > 0 {
            self.tell_left_out(uri);
        }
    }

    fn tell_left_out(&mut self, uri: &str) {
        let lines = std::mem::take(&mut self.left_out);
        tracing::warn!(target: "oneiric", program = uri, lines, "a program says too much to be repeated");
    }
}
