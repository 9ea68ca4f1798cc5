//! PEM (RFC 7468, and the headers of RFC 1421 that old encrypted keys have), looked at line by line.
//! What is inside is for those who use it.

/// Why a text is not PEM.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    let mut lines = text.lines().map(str::trim_end);
    let mut blocks = 0;
    while let Some(line) = lines.next() {
        let Some(label) = marker(line, "-----BEGIN ") else {
            if line.starts_with("-----BEGIN ") && line.contains("\\n") {
                return Err("has the two characters `\\n` where line ends belong");
            }
            if line.starts_with("-----") {
                return Err("has a PEM line out of place: a block begins with \
                            `-----BEGIN …-----`");
            }
            // What tools write around blocks for people.
            continue;
        };
        block(&mut lines, label)?;
        blocks += 1;
    }
    if blocks == 0 {
        Err("has no `-----BEGIN …-----` at the beginning of a line")
    } else {
        Ok(())
    }
}

/// What a line such as `-----BEGIN CERTIFICATE-----` is about.
fn marker<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    let label = line.strip_prefix(begin)?.strip_suffix("-----")?;
    (!label.is_empty() && !label.contains('-')).then_some(label)
}

/// The rest of a block, to its end.
fn block<'a>(lines: &mut impl Iterator<Item = &'a str>, label: &str) -> Result<(), &'static str> {
    let (mut digits, mut padding) = (0_usize, 0_usize);
    let mut may_be_header = true;
    for line in lines {
        if line.starts_with("-----") {
            if marker(line, "-----END ") != Some(label) {
                return Err("has a PEM block that does not end with the `-----END …-----` of its \
                            beginning");
            }
            return match digits {
                0 => Err("has an empty PEM block"),
                _ if (digits + padding) % 4 != 0 || padding > 2 => {
                    Err("has a PEM block that is not whole: its base64 breaks off")
                }
                _ => Ok(()),
            };
        }
        if may_be_header && (line.contains(": ") || line.is_empty()) {
            // A blank line ends the headers.
            may_be_header = !line.is_empty();
            continue;
        }
        for byte in line.bytes() {
            match byte {
                b'=' => padding += 1,
                b'+' | b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' if padding == 0 => {
                    digits += 1;
                }
                _ => return Err("has something in a PEM block that is not base64"),
            }
        }
        may_be_header &= digits == 0;
    }
    Err("has a PEM block that is cut off: its `-----END …-----` is missing")
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn whole_blocks_are_pem() {
        for good in [
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\r\nAAAA\r\nAA==\r\n-----END CERTIFICATE-----",
            "subject=CN = a\n-----BEGIN A-----\nAAA=\n-----END A-----\n\n\
             -----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n\
             AAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn half_a_block_is_not() {
        for (bad, part) in [
            ("", "no `-----BEGIN"),
            ("AAAA", "no `-----BEGIN"),
            ("-----BEGIN A-----\nAAAA\n", "cut off"),
            ("-----BEGIN A-----\nAAAA\n-----END B-----\n", "does not end"),
            ("-----BEGIN A-----\nAAAA\n-----BEGIN B-----\n", "does not end"),
            ("-----BEGIN A-----\n-----END A-----\n", "empty"),
            ("-----BEGIN A-----\nAAAAA\n-----END A-----\n", "breaks off"),
            ("-----BEGIN A-----\nAA=A\n-----END A-----\n", "not base64"),
            ("-----BEGIN A-----\nA\u{e4}AA\n-----END A-----\n", "not base64"),
            ("-----BEGIN A-----\\nAAAA\\n-----END A-----\\n", "two characters"),
            ("-----END A-----\n", "out of place"),
            ("-----BEGIN A-----\nAAAA\n-----END A-----\n-----BEGIN A-----\nAAAA\n", "cut off"),
        ] {
            let why = check(bad).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }
}
