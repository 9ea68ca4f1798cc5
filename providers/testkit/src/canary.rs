//! Finding a secret in what a program wrote, however it was encoded on the way.

/// The shortest half that is searched for by itself: anything shorter would be found by chance.
const SHORTEST_HALF: usize = 8;

/// Looks for a secret in captured output: raw, in base64 (both alphabets, at any alignment), hex,
/// percent-encoded, JSON-escaped, as a list of byte numbers, reversed, and each half alone.
/// Says in which form it was found, or `None`.
///
/// The canary should be random and at least 16 bytes long, so that nothing is found by chance.
///
/// ```
/// use oneiric_testkit::scan_for_canary;
///
/// let found = scan_for_canary(b"token=Y2FuYXJ5LTdmM2EtYjkyMQ==", b"canary-7f3a-b921");
/// assert!(found.unwrap().contains("base64"));
/// assert_eq!(scan_for_canary(b"nothing here", b"canary-7f3a-b921"), None);
/// ```
///
/// # Panics
/// If the canary is empty.
pub fn scan_for_canary(haystack: impl AsRef<[u8]>, canary: impl AsRef<[u8]>) -> Option<String> {
    let (haystack, canary) = (haystack.as_ref(), canary.as_ref());
    assert!(!canary.is_empty(), "an empty canary is in everything");
    let lowered = haystack.to_ascii_lowercase();
    forms(canary).into_iter().find_map(|form| {
        let found = if form.any_case {
            contains(&lowered, &form.bytes.to_ascii_lowercase())
        } else {
            contains(haystack, &form.bytes)
        };
        found.then_some(form.name)
    })
}

struct Form {
    name: String,
    bytes: Vec<u8>,
    any_case: bool,
}

fn forms(canary: &[u8]) -> Vec<Form> {
    let (head, tail) = canary.split_at(canary.len() / 2);
    let mut parts = vec![("the whole", canary)];
    if head.len() >= SHORTEST_HALF {
        parts.extend([("the first half", head), ("the second half", tail)]);
    }
    let mut forms = Vec::new();
    for (what, bytes) in parts {
        let mut add = |how: &str, bytes: Vec<u8>, any_case| {
            forms.push(Form { name: format!("{what}, {how}"), bytes, any_case });
        };
        add("raw", bytes.to_vec(), false);
        add("reversed", bytes.iter().rev().copied().collect(), false);
        add("in hex", each(bytes, |byte| format!("{byte:02x}")), true);
        add("percent-encoded", percent(bytes), true);
        add("percent-encoded throughout", each(bytes, |byte| format!("%{byte:02x}")), true);
        add("escaped", bytes.escape_ascii().collect(), false);
        add("JSON-escaped", json(bytes), true);
        add("as numbers", list(bytes, ", "), false);
        add("as numbers", list(bytes, ","), false);
        for skipped in 0..3 {
            let standard = base64(bytes, skipped);
            let url = standard.iter().map(|&c| match c {
                b'+' => b'-',
                b'/' => b'_',
                c => c,
            });
            let url = url.collect();
            add("in base64", standard, false);
            add("in URL base64", url, false);
        }
    }
    // A form of a few characters would be found by chance.
    forms.retain(|form| form.bytes.len() >= SHORTEST_HALF.min(canary.len()));
    forms
}

fn each(bytes: &[u8], encode: impl Fn(u8) -> String) -> Vec<u8> {
    bytes.iter().map(|&byte| encode(byte)).collect::<String>().into_bytes()
}

fn percent(bytes: &[u8]) -> Vec<u8> {
    each(bytes, |byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02x}"),
    })
}

fn json(bytes: &[u8]) -> Vec<u8> {
    let escape = |c: char| match c {
        '"' => r#"\""#.into(),
        '\\' => r"\\".into(),
        '\n' => r"\n".into(),
        '\r' => r"\r".into(),
        '\t' => r"\t".into(),
        c if c.is_ascii() && !c.is_ascii_control() => c.to_string(),
        c => {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }
    };
    String::from_utf8_lossy(bytes).chars().map(escape).collect::<String>().into_bytes()
}

fn list(bytes: &[u8], separator: &str) -> Vec<u8> {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(separator).into_bytes()
}

/// The characters of a base64 text that depend on these bytes alone, if `skipped` other bytes
/// stand before them in their group of three.
fn base64(bytes: &[u8], skipped: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    // The first character may hold bits of the byte before.
    let start = (6 - skipped * 8 % 6) % 6;
    let sextets = bits[start.min(bits.len())..].chunks_exact(6);
    sextets
        .map(|sextet| {
            let index = sextet.iter().fold(0, |index, bit| index << 1 | bit);
            ALPHABET[usize::from(index)]
        })
        .collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "c4nary+7f3a/b9\"1ü";

    #[test]
    fn every_form_is_found() {
        for (haystack, form) in [
            (CANARY.to_owned(), "raw"),
            (format!("{:?}", CANARY.as_bytes()), "as numbers"),
            ("xx YzRuYXJ5KzdmM2EvYjkiMcO8 xx".to_owned(), "in base64"),
            // One and two other bytes before it.
            ("eGM0bmFyeSs3ZjNhL2I5IjHDvA==".to_owned(), "in base64"),
            ("eHhjNG5hcnkrN2YzYS9iOSIxw7w=".to_owned(), "in base64"),
            ("63346E6172792B376633612F62392231C3BC".to_owned(), "in hex"),
            ("c4nary%2B7f3a%2fb9%221%C3%BC".to_owned(), "percent-encoded"),
            (r#"{"a":"c4nary+7f3a/b9\"1\u00FC"}"#.to_owned(), "JSON-escaped"),
            (CANARY.as_bytes().escape_ascii().to_string(), "escaped"),
            ("only c4nary+7f was printed".to_owned(), "first half, raw"),
        ] {
            let found = scan_for_canary(&haystack, CANARY).unwrap_or_default();
            assert!(found.contains(form), "{haystack}: {found}");
        }
        let reversed: Vec<u8> = CANARY.bytes().rev().collect();
        assert!(scan_for_canary(reversed, CANARY).unwrap().contains("reversed"));
    }

    #[test]
    fn nothing_else_is_found() {
        assert_eq!(scan_for_canary("c4nary is a word", CANARY), None);
        assert_eq!(scan_for_canary("", CANARY), None);
    }
}
