//! What may be repeated of the words of a program through which secrets pass.
//!
//! Values are not kept. Each is taken apart into all runs of eight bytes of all its forms, and a
//! keyed hash of each run is; a run of a line that is known is not repeated. So a value is found
//! in part, across lines and whatever stands around it.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use oneiric_core::SecretValue;
use zeroize::Zeroizing;

/// What stands where a secret stood.
const REDACTED: &str = "[secret]";
/// The length of a run.
const RUN: usize = 8;
/// Of a form that is longer than this only every eighth run is kept, which covers it as well but
/// for the edges of a part of it.
const LONG: usize = 512;
/// How many runs are kept of those that came last, and again of those before them.
const MOST_RUNS: usize = 512 * 1024;
/// How many forms that are shorter than a run are kept.
const MOST_SHORT: usize = 1024;
/// The longest text that is repeated, in characters.
const MOST_TEXT: usize = 500;

/// All values that have passed, as far as they can be recognized.
#[derive(Default)]
pub(crate) struct Redactor {
    hasher: RandomState,
    values: Generations,
    runs: Generations,
    short: Vec<Zeroizing<Vec<u8>>>,
}

/// Hashes, of which the oldest are forgotten when there are too many.
#[derive(Default)]
struct Generations {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Generations {
    fn add(&mut self, hash: u64) -> bool {
        if self.young.len() >= MOST_RUNS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash)
    }

    fn has(&self, hash: u64) -> bool {
        self.young.contains(&hash) || self.old.contains(&hash)
    }
}

impl Redactor {
    /// Remembers a value that has passed.
    pub(crate) fn learn(&mut self, value: &SecretValue) {
        if !self.values.add(self.hasher.hash_one(value.expose())) {
            return;
        }
        for mut form in forms(value.expose()) {
            // The case of hexadecimal digits and of `%2f` is the program's choice.
            form.make_ascii_lowercase();
            if form.len() < RUN {
                if !form.is_empty() && !self.short.contains(&form) {
                    if self.short.len() >= MOST_SHORT {
                        self.short.remove(0);
                    }
                    self.short.push(form);
                }
                continue;
            }
            let step = if form.len() > LONG { RUN } else { 1 };
            let last = form.len() - RUN;
            for at in (0..last).step_by(step).chain([last]) {
                self.runs.add(self.hasher.hash_one(&form[at..at + RUN]));
            }
        }
    }

    /// A text that may be printed: short, plain, and without any value.
    pub(crate) fn redact(&self, text: &[u8]) -> String {
        let mut folded = Zeroizing::new(text.to_vec());
        folded.make_ascii_lowercase();
        let mut hidden = vec![false; text.len()];
        for (at, run) in folded.windows(RUN).enumerate() {
            if self.runs.has(self.hasher.hash_one(run)) {
                hidden[at..at + RUN].fill(true);
            }
        }
        for form in &self.short {
            for (at, part) in folded.windows(form.len()).enumerate() {
                if part == &***form {
                    hidden[at..at + part.len()].fill(true);
                }
            }
        }
        let mut shown = Vec::new();
        for (at, &byte) in text.iter().enumerate() {
            if !hidden[at] {
                shown.push(byte);
            } else if at == 0 || !hidden[at - 1] {
                shown.extend_from_slice(REDACTED.as_bytes());
            }
        }
        let shown = String::from_utf8_lossy(&shown);
        let mut printable = shown.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut text: String = printable.by_ref().take(MOST_TEXT).collect();
        if printable.next().is_some() {
            text.push('…');
        }
        text
    }
}

/// A value as it may stand in a line: raw, in hex, in both base64 alphabets at any alignment, and
/// escaped for JSON and for URLs.
fn forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![value.to_vec(), each(value, |byte| format!("{byte:02x}"))];
    for skipped in 0..3_usize {
        let mut shifted = Zeroizing::new(vec![0; skipped]);
        shifted.extend_from_slice(value);
        // The first characters hold bits of what stands before. The last one may hold bits of what
        // follows and be another; then it alone is shown.
        let first = [0, 2, 3][skipped];
        for text in [STANDARD_NO_PAD.encode(&*shifted), URL_SAFE_NO_PAD.encode(&*shifted)] {
            let text = Zeroizing::new(text);
            forms.push(text.as_bytes().get(first..).unwrap_or_default().to_vec());
        }
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let percent = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02x}"),
    };
    forms.push(each(value, percent));
    let text = String::from_utf8_lossy(value);
    let json = serde_json::to_string(&*text).map(Zeroizing::new).unwrap_or_default();
    forms.push(json.trim_matches('"').as_bytes().to_vec());
    // As those write it who keep to ASCII.
    let ascii = |c: char| {
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect::<String>()
    };
    let escaped: String = json
        .trim_matches('"')
        .chars()
        .map(|c| if c.is_ascii() { c.into() } else { ascii(c) })
        .collect();
    forms.push(escaped.into_bytes());
    forms.into_iter().map(Zeroizing::new).collect()
}

fn each(bytes: &[u8], write: impl Fn(u8) -> String) -> Vec<u8> {
    bytes.iter().map(|&byte| write(byte)).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use oneiric_testkit::scan_for_canary;

    use super::*;

    const CANARY: &str = "c4n/+\"ary-\u{fc}-7f3a-b921";

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        redactor.learn(&SecretValue::from(CANARY));
        redactor.learn(&SecretValue::from("pin7"));
        redactor
    }

    #[test]
    fn every_form_is_hidden_and_what_stands_around_it_is_not() {
        let redactor = redactor();
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02X}")).collect();
        let percent = "c4n%2F%2b%22ary-%C3%BC-7f3a-b921";
        let json = serde_json::to_string(CANARY).unwrap();
        let mut lines = vec![CANARY.to_owned(), hex, percent.into(), json.clone()];
        lines.push(json.replace('\u{fc}', "\\u00fc"));
        for before in ["", "x", "xy"] {
            let text = format!("{before}{CANARY}");
            lines.extend([STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)]);
        }
        for form in lines {
            let line = redactor.redact(format!("login with {form} was refused").as_bytes());
            assert_eq!(scan_for_canary(&line, CANARY), None, "{line}");
            let around = line.starts_with("login with ") && line.ends_with(" was refused");
            assert!(around && line.contains("[secret]"), "{line}");
        }
    }

    #[test]
    fn a_part_of_a_value_is_hidden_and_a_short_one_too() {
        let redactor = redactor();
        assert_eq!(redactor.redact(b"half: -7f3a-b9"), "half: [secret]");
        assert_eq!(redactor.redact(b"the pin7 is wrong"), "the [secret] is wrong");
        assert_eq!(redactor.redact(b"hex 70696e37"), "hex [secret]");
        assert_eq!(
            redactor.redact(b"nothing \x1b[31mto hide \xff\n"),
            "nothing  [31mto hide \u{fffd}"
        );
    }

    #[test]
    fn a_long_value_is_hidden_throughout() {
        let long: String = (0..2000).map(|number| format!("{number}/")).collect();
        let mut redactor = Redactor::default();
        redactor.learn(&SecretValue::from(long.as_str()));
        assert_eq!(redactor.redact(long.as_bytes()), "[secret]");
        assert_eq!(
            redactor.redact(STANDARD_NO_PAD.encode(&long).as_bytes()).len(),
            "[secret]".len()
        );
    }

    #[test]
    fn the_oldest_are_forgotten_before_memory_is() {
        let mut generations = Generations::default();
        let many = u64::try_from(2 * MOST_RUNS + 1).unwrap();
        (0..many).for_each(|hash| _ = generations.add(hash));
        assert!(!generations.has(0) && generations.has(many - 1));
        assert!(generations.has(many - u64::try_from(MOST_RUNS).unwrap()));
    }
}
