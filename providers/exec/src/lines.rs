//! Lines of bounded length from a pipe. What is kept of them is wiped.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::{Zeroize as _, Zeroizing};

/// How much is read at once.
const CHUNK: usize = 16 * 1024;

/// A pipe, line by line. [`next`](Self::next) may be dropped at any await and called again.
pub(crate) struct Lines<R> {
    pipe: R,
    most: usize,
    /// What was read and not handed out; `searched` of it have no line end.
    held: Zeroizing<Vec<u8>>,
    searched: usize,
    chunk: Zeroizing<Vec<u8>>,
    /// Whether the rest of a line that was too long is still to be dropped.
    dropping: bool,
    ended: bool,
}

/// What comes out of a pipe.
pub(crate) enum Piece {
    Line(Zeroizing<Vec<u8>>),
    /// The first part of a line that is too long; the rest of it is dropped.
    TooLong(Zeroizing<Vec<u8>>),
    /// The other end is closed, in the middle of a line or after one.
    End {
        within_line: bool,
    },
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most so many bytes.
    pub(crate) fn new(pipe: R, most: usize) -> Self {
        let chunk = Zeroizing::new(vec![0; CHUNK]);
        let held = Zeroizing::default();
        Self { pipe, most, held, searched: 0, chunk, dropping: false, ended: false }
    }

    pub(crate) async fn next(&mut self) -> io::Result<Piece> {
        loop {
            if let Some(piece) = self.cut() {
                return Ok(piece);
            }
            if self.ended {
                let within_line = !self.held.is_empty();
                return Ok(Piece::End { within_line });
            }
            let length = self.pipe.read(&mut self.chunk).await?;
            self.ended = length == 0;
            self.keep(length);
        }
    }

    /// The next piece of what is held.
    fn cut(&mut self) -> Option<Piece> {
        loop {
            let end = self.held[self.searched..].iter().position(|&byte| byte == b'\n');
            match end.map(|end| self.searched + end) {
                Some(end) if self.dropping => {
                    self.dropping = false;
                    drop(self.take(end, 1));
                }
                Some(end) if end <= self.most => return Some(Piece::Line(self.take(end, 1))),
                None if self.dropping => {
                    drop(self.take(self.held.len(), 0));
                    return None;
                }
                None if self.held.len() <= self.most => {
                    self.searched = self.held.len();
                    return None;
                }
                _ => {
                    self.dropping = true;
                    return Some(Piece::TooLong(self.take(self.most, 0)));
                }
            }
        }
    }

    /// Takes bytes from the front, and drops some after them.
    fn take(&mut self, length: usize, and: usize) -> Zeroizing<Vec<u8>> {
        let taken = Zeroizing::new(self.held[..length].to_vec());
        let rest = self.held.len() - length - and;
        self.held.copy_within(length + and.., 0);
        self.held[rest..].zeroize();
        self.held.truncate(rest);
        self.searched = 0;
        taken
    }

    fn keep(&mut self, length: usize) {
        if self.held.len() + length > self.held.capacity() {
            let mut roomier = Zeroizing::new(Vec::with_capacity(2 * (self.held.len() + length)));
            roomier.extend_from_slice(&self.held);
            self.held = roomier;
        }
        self.held.extend_from_slice(&self.chunk[..length]);
        self.chunk[..length].zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(text: &[u8], most: usize) -> Vec<String> {
        let mut lines = Lines::new(text, most);
        let mut pieces = Vec::new();
        loop {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match lines.next().await.unwrap() {
                Piece::Line(line) => pieces.push(text(&line)),
                Piece::TooLong(line) => pieces.push(format!("{}…", text(&line))),
                Piece::End { within_line } => {
                    pieces.push(format!("end {within_line}"));
                    return pieces;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_and_at_the_limit() {
        assert_eq!(pieces(b"ab\n\ncdef\ng", 4).await, ["ab", "", "cdef", "end true"]);
        assert_eq!(pieces(b"abcde\nf\n", 4).await, ["abcd…", "f", "end false"]);
        let long = format!("{}\nshort\n", "x".repeat(5 * CHUNK));
        let cut = format!("{}…", "x".repeat(CHUNK));
        assert_eq!(pieces(long.as_bytes(), CHUNK).await, [cut.as_str(), "short", "end false"]);
        let whole = "y".repeat(3 * CHUNK);
        let text = format!("{whole}\n{whole}\n");
        assert_eq!(pieces(text.as_bytes(), 4 * CHUNK).await, [&whole, &whole, "end false"]);
    }
}
