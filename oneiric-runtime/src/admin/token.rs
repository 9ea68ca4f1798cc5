//! Tokens: read from files that only their owner can read, and compared in constant time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::directory::own_uid;

/// The shortest token, in bytes.
const SHORTEST: usize = 16;
/// The longest token file, in bytes.
const LONGEST: usize = 4096;
/// Bits that let the group or others do anything with a file.
const OPEN_TO_OTHERS: u32 = 0o077;

/// Reads a token, without the white space around it. Blocks on the file system.
pub(super) fn read(path: &Path) -> Result<SecretValue> {
    let refuse = |why: String| {
        let message = format!("the token file `{}` {why}", path.display());
        Err(Error::new(ErrorKind::Invalid, message))
    };
    let unreadable = |error: io::Error| {
        let message = format!("the token file `{}` cannot be read", path.display());
        Error::with_source(ErrorKind::Unavailable, message, error)
    };
    // Asked before it is opened: opening a pipe would wait for somebody to write to it.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return refuse("is not a regular file".into());
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != own_uid() && metadata.uid() != 0 {
        return refuse(format!("belongs to uid {}", metadata.uid()));
    }
    if mode & OPEN_TO_OTHERS != 0 {
        return refuse(format!("has mode {mode:04o}: others than its owner may use it"));
    }
    // Room for everything from the start, so that growing leaves no copy behind.
    let mut bytes = Vec::with_capacity(LONGEST + 1);
    let read = file.take(LONGEST as u64 + 1).read_to_end(&mut bytes);
    let bytes = SecretValue::from(bytes);
    read.map_err(unreadable)?;
    let token = bytes.expose().trim_ascii();
    if bytes.expose().len() > LONGEST {
        refuse(format!("has more than {LONGEST} bytes"))
    } else if token.len() < SHORTEST {
        refuse(format!("holds a token of less than {SHORTEST} bytes"))
    } else if !token.iter().all(u8::is_ascii_graphic) {
        refuse("holds a token with characters that a header cannot carry".into())
    } else {
        Ok(SecretValue::from(token))
    }
}

/// Whether both are the same, in a time that says nothing about where they differ.
pub(super) fn same(presented: &[u8], token: &SecretValue) -> bool {
    let digest = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    digest(presented).ct_eq(&digest(token.expose())).into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read_from(content: &[u8], mode: u32) -> Result<SecretValue> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path)
    }

    #[test]
    fn a_token_is_what_stands_between_white_space() {
        let token = read_from(b"  0123456789abcdef\r\n", 0o600).unwrap();
        assert_eq!(token.expose(), b"0123456789abcdef");
        read_from(b"0123456789abcdef", 0o400).unwrap();
    }

    #[test]
    fn a_token_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o601] {
            let error = read_from(b"0123456789abcdef", mode).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
        }
    }

    #[test]
    fn a_token_that_is_no_good_is_refused_and_not_shown() {
        for (content, why) in [
            (b"  0123456789abcde\n".as_slice(), "less than 16"),
            (b"", "less than 16"),
            (b"0123456789\x00abcdef", "a header cannot carry"),
            (b"0123456789 abcdef", "a header cannot carry"),
            (&[b'x'; LONGEST + 1], "more than 4096"),
        ] {
            let error = read_from(content, 0o600).unwrap_err().chain();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let home = tempfile::tempdir().unwrap();
        let error = read(home.path()).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
        let error = read(&home.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn sameness_is_of_all_bytes() {
        let token = SecretValue::from("0123456789abcdef");
        assert!(same(b"0123456789abcdef", &token));
        for other in [b"0123456789abcdeg".as_slice(), b"0123456789abcde", b"", b"0123456789abcdef0"]
        {
            assert!(!same(other, &token));
        }
    }
}
