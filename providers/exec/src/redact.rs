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

use crate::protocol::Line;

/// What stands where a secret stood.
const REDACTED: &str = "[secret]";
/// The length of a run.
const RUN: usize = 8;
/// Of a form that is longer than this only every eighth run is kept, which covers it as well but
/// for the edges of a part of it.
const LONG: usize = 512;
/// How many runs are kept of the values that came last, and again of those before them.
const MOST_RUNS: usize = 512 * 1024;
/// How many forms that are shorter than a run are kept, in the same way.
const MOST_SHORT: usize = 512;
/// The longest text that is repeated, in characters.
const MOST_TEXT: usize = 500;

/// All values that have passed, as far as they can be recognized. The oldest are forgotten when
/// there are too many.
#[derive(Default)]
pub(crate) struct Redactor {
    hasher: RandomState,
    young: Generation,
    old: Generation,
}

/// What is known of some values: all of each, so that whoever is here need not be learned again.
#[derive(Default)]
struct Generation {
    values: HashSet<u64>,
    runs: HashSet<u64>,
    short: Vec<Zeroizing<Vec<u8>>>,
}

impl Generation {
    fn is_full(&self) -> bool {
        self.runs.len() >= MOST_RUNS || self.short.len() >= MOST_SHORT
    }

    fn learn(&mut self, value: &[u8], hasher: &RandomState) {
        for mut form in forms(value) {
            // The case of hexadecimal digits and of `%2f` is the program's choice.
            form.make_ascii_lowercase();
            if form.len() < RUN {
                if !form.is_empty() && !self.short.contains(&form) {
                    self.short.push(form);
                }
                continue;
            }
            let step = if form.len() > LONG { RUN } else { 1 };
            let last = form.len() - RUN;
            for at in (0..last).step_by(step).chain([last]) {
                self.runs.insert(hasher.hash_one(&form[at..at + RUN]));
            }
        }
    }
}

impl Redactor {
    /// Remembers a value that has passed. One that passes again is among the youngest again.
    pub(crate) fn learn(&mut self, value: &SecretValue) {
        let hash = self.hasher.hash_one(value.expose());
        if self.young.values.contains(&hash) {
            return;
        }
        if self.young.is_full() {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.values.insert(hash);
        self.young.learn(value.expose(), &self.hasher);
    }

    /// Takes every value out of what a program says of its errors: anything may be in its words.
    pub(crate) fn redact_failures(&self, line: &mut Line) {
        for failure in line.failures() {
            let redact = |text: String| self.redact(text.as_bytes());
            failure.message = failure.message.take().map(redact).filter(|text| !text.is_empty());
        }
    }

    fn knows(&self, run: &[u8]) -> bool {
        let hash = self.hasher.hash_one(run);
        self.young.runs.contains(&hash) || self.old.runs.contains(&hash)
    }

    /// A text that may be printed: short, plain, and without any value.
    pub(crate) fn redact(&self, text: &[u8]) -> String {
        let mut folded = Zeroizing::new(text.to_vec());
        folded.make_ascii_lowercase();
        let mut hidden = vec![false; text.len()];
        for (at, run) in folded.windows(RUN).enumerate() {
            if self.knows(run) {
                hidden[at..at + RUN].fill(true);
            }
        }
        for form in self.young.short.iter().chain(&self.old.short) {
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

    /// A value like no other: about 190 runs.
    fn another(at: u64) -> SecretValue {
        let part = |seed| RandomState::new().hash_one((at, seed));
        SecretValue::from(format!("{:016x}{:016x}", part(1), part(2)))
    }

    #[test]
    fn the_oldest_are_forgotten_before_memory_is() {
        let mut redactor = redactor();
        (0..10_000).for_each(|at| redactor.learn(&another(at)));
        for generation in [&redactor.young, &redactor.old] {
            assert!(generation.runs.len() < MOST_RUNS + 1000, "{}", generation.runs.len());
        }
        assert_eq!(redactor.redact(CANARY.as_bytes()), CANARY);
        (0..1100).for_each(|at| redactor.learn(&SecretValue::from(format!("#{at:04}"))));
        assert_eq!(redactor.redact(b"pin7"), "pin7");
        assert!(redactor.young.short.len() + redactor.old.short.len() < 2 * MOST_SHORT + 10);
    }

    #[test]
    fn what_passes_again_is_not_forgotten() {
        let mut redactor = redactor();
        for round in 0..5_u32 {
            (0..1500).for_each(|at| redactor.learn(&another(at)));
            let short = |at: u32| SecretValue::from(format!("#{:04}", 300 * round + at));
            (0..300).for_each(|at| redactor.learn(&short(at)));
            redactor.learn(&SecretValue::from(CANARY));
            redactor.learn(&SecretValue::from("pin7"));
            let line = redactor.redact(format!("{CANARY} and pin7").as_bytes());
            assert_eq!(line, "[secret] and [secret]", "{round}");
        }
    }

    #[test]
    fn the_largest_value_is_known_in_all_its_forms() {
        // No two runs of it are equal.
        let value: Vec<u8> =
            (0..65_536_u64).flat_map(|at| (at << 8 | 0xff).to_be_bytes()).collect();
        let mut redactor = redactor();
        redactor.learn(&SecretValue::from(value.clone()));
        for form in forms(&value) {
            assert_eq!(redactor.redact(&form[..4096]).replace("[secret]", "").trim(), "");
        }
        assert!(
            !redactor.redact(CANARY.as_bytes()).contains("ary"),
            "nor has it taken another's place"
        );
    }
}
