//! The value that is to be stored: where it comes from, and whether it can be meant.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};

use oneiric_core::{Error, ErrorKind, SecretKey, SecretRef, SecretValue};
use oneiric_secrets::ResolverOptions;

use super::super::store::Store;
use crate::cli::Set;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::tell;

/// How much is read where the store has no limit of its own.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Reads the value from where the command line says.
pub(super) fn read(args: &Set, longest: Option<u64>) -> Result<SecretValue> {
    let longest = longest.unwrap_or(LONGEST);
    let (bytes, from) = match &args.from_file {
        Some(file) => {
            let from = file.display().to_string();
            let opened = File::open(file).map_err(|error| unreadable(&from, error))?;
            (take(opened, longest, &from)?, from)
        }
        None => {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                let message = "a secret is not typed where it can be seen";
                let failure = Failure::new(Exit::USAGE, message);
                return Err(failure.remedy("pass it through a pipe, or give --from-file"));
            }
            let from = "standard input".to_owned();
            (take(stdin, longest, &from)?, from)
        }
    };
    Ok(SecretValue::from(trimmed(bytes, args.trim, &from)))
}

/// Refuses what a resolver would refuse to serve.
pub(super) fn check(store: &Store, key: &SecretKey, value: &SecretValue, args: &Set) -> Result<()> {
    let mut options = ResolverOptions::default();
    options.allow_empty = args.allow_empty;
    options.allow_placeholders = args.allow_placeholder;
    let reference = SecretRef::new(store.id.clone(), key.clone());
    let refuse = |error: Error, remedy: &str| {
        Failure::new(Exit::FAILED, format!("{error}; nothing was written")).remedy(remedy)
    };
    options.check(value, &reference).map_err(|error| {
        refuse(error, "--allow-empty and --allow-placeholder store it all the same")
    })?;
    options.aliases.clone_from(&store.aliases);
    options.check(value, &reference).map_err(|error| {
        refuse(error, "give a value of that kind, or change the `kind` of the alias")
    })
}

fn take(from: impl Read, longest: u64, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(longest.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > longest {
        let message = format!("the value from {name} has more than {longest} bytes");
        return Err(Failure::new(Exit::FAILED, message));
    }
    Ok(bytes)
}

/// `echo` adds a line end that hardly anybody means, and a key file ends with one that is part of
/// it: neither can be told from the value, so it is kept, and said.
fn trimmed(mut bytes: Vec<u8>, trim: bool, from: &str) -> Vec<u8> {
    if !bytes.ends_with(b"\n") {
        return bytes;
    }
    if trim {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    } else {
        tell(&format!(
            "warning: the value from {from} ends with a line end, which is stored; --trim leaves \
             it out"
        ));
    }
    bytes
}

fn unreadable(name: &str, error: io::Error) -> Failure {
    let message = format!("the value cannot be read from {name}");
    Error::with_source(ErrorKind::Unavailable, message, error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_left_out_on_request_and_never_otherwise() {
        for (text, kept, trimmed_to) in [
            ("a", "a", "a"),
            ("a\n", "a\n", "a"),
            ("a\r\n", "a\r\n", "a"),
            ("a\n\n", "a\n\n", "a\n"),
            ("\n", "\n", ""),
            ("a\r", "a\r", "a\r"),
        ] {
            assert_eq!(trimmed(text.into(), false, "x"), kept.as_bytes());
            assert_eq!(trimmed(text.into(), true, "x"), trimmed_to.as_bytes());
        }
    }

    #[test]
    fn what_is_too_long_is_not_cut() {
        assert_eq!(take(&b"12345"[..], 5, "x").unwrap(), b"12345");
        let failure = format!("{:?}", take(&b"123456"[..], 5, "x").unwrap_err());
        assert!(failure.contains("more than 5 bytes"), "{failure}");
    }
}
