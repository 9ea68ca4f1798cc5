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
/// If the canary has fewer than two bytes.
pub fn scan_for_canary(haystack: impl AsRef<[u8]>, canary: impl AsRef<[u8]>) -> Option<String> {
    let (haystack, canary) = (haystack.as_ref(), canary.as_ref());
    assert!(canary.len() >= 2, "so short a canary is in everything");
    let (any_case, exact): (Vec<_>, Vec<_>) =
        forms(canary).into_iter().partition(|form| form.any_case);
    find(haystack, &exact).or_else(|| find(&haystack.to_ascii_lowercase(), &any_case))
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
        .iter_mut()
        .filter(|form| form.any_case)
        .for_each(|form| form.bytes.make_ascii_lowercase());
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

/// The name of a form that is in the haystack. Logs are long and the forms are many, so they are
/// all looked for in one pass, by their first two bytes.
fn find(haystack: &[u8], forms: &[Form]) -> Option<String> {
    let start = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut starts = vec![false; 1 << 16];
    forms.iter().for_each(|form| starts[start(&form.bytes)] = true);
    (0..haystack.len().saturating_sub(1))
        .map(|at| &haystack[at..])
        .filter(|rest| starts[start(rest)])
        .find_map(|rest| forms.iter().find(|form| rest.starts_with(&form.bytes)))
        .map(|form| form.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Too short for its halves to be searched for, so that each form must be found as itself.
    const CANARY: &str = "c4n>>?/b9\"1ü";

    #[test]
    fn every_form_is_found() {
        for (haystack, form) in [
            (CANARY.to_owned(), "raw"),
            (format!("{:?}", CANARY.as_bytes()), "as numbers"),
            ("xx YzRuPj4/L2I5IjHDvA== xx".to_owned(), "in base64"),
            // One and two other bytes before it.
            ("eGM0bj4+Py9iOSIxw7w=".to_owned(), "in base64"),
            ("eHhjNG4+Pj8vYjkiMcO8".to_owned(), "in base64"),
            ("YzRuPj4_L2I5IjHDvA==".to_owned(), "in URL base64"),
            ("63346E3E3E3F2F62392231C3BC".to_owned(), "in hex"),
            ("c4n%3E%3e%3F%2fb9%221%C3%BC".to_owned(), "percent-encoded"),
            (r#"{"a":"c4n>>?/b9\"1\u00FC"}"#.to_owned(), "JSON-escaped"),
            (CANARY.as_bytes().escape_ascii().to_string(), "escaped"),
        ] {
            let found = scan_for_canary(&haystack, CANARY).unwrap_or_default();
            assert!(found.contains(form), "{haystack}: {found}");
        }
        let reversed: Vec<u8> = CANARY.bytes().rev().collect();
        assert!(scan_for_canary(reversed, CANARY).unwrap().contains("reversed"));
    }

    #[test]
    fn a_half_is_enough() {
        let found = scan_for_canary("only ary-7f3a-b921 was printed", "canary--canary-7f3a-b921");
        assert_eq!(found.unwrap(), "the second half, raw");
    }

    #[test]
    fn nothing_else_is_found() {
        assert_eq!(scan_for_canary("c4n is a word, C4N>>?/B9", CANARY), None);
        assert_eq!(scan_for_canary("", CANARY), None);
    }
}
