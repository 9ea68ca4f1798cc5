//! stdout is data.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::render::printable;

/// Whether somebody reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The data was taken.
    There,
    /// The other end is closed, as under `| head`. What was to be done is done all the same.
    Gone,
}

/// Writes data.
pub(crate) fn write(data: &[u8]) -> Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(Exit::FAILED, error)),
    }
}

/// Writes text and ends the line.
pub(crate) fn line(text: &str) -> Result<Reader> {
    write(format!("{text}\n").as_bytes())
}

/// Writes one JSON object or array on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<Reader> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(Exit::FAILED, error))?;
    line(&text)
}

/// Says something to a person, on stderr.
pub(crate) fn tell(text: &str) {
    // Talk is lost on a closed stderr, and nothing else is.
    let _ = io::stderr().write_all(format!("{}\n", printable(text)).as_bytes());
}
