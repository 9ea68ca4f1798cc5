//! The dotenv format, read strictly.
//!
//! `dotenvy` was looked at and left: it replaces `$name` by variables of this process and cannot
//! be told not to, so that a password with a `$` in it would arrive damaged.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The line of a fault, and what is wrong there.
type Fault = (u64, &'static str);

/// Reads `NAME=value` lines into strings.
///
/// Empty lines, `# comments` and a leading `export` are allowed. `'…'` is taken as it stands;
/// `"…"` knows `\n \r \t \\ \" \$`; both may go over several lines. A bare value ends at the end
/// of its line or at ` #`. Nothing is substituted. A name that appears twice is a fault.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, Fault> {
    let mut rest = Rest { text: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut fields = Map::new();
    while rest.skip_to_name() {
        let line = rest.line;
        let name = rest.name()?;
        let value = rest.value()?;
        if fields.insert(name, Value::String(value)).is_some() {
            return Err((line, "the name appears a second time"));
        }
    }
    Ok(fields)
}

struct Rest<'a> {
    text: &'a str,
    line: u64,
}

impl<'a> Rest<'a> {
    /// Goes past white space and comments; false at the end.
    fn skip_to_name(&mut self) -> bool {
        loop {
            let start = self.text.trim_start();
            self.take(self.text.len() - start.len());
            if !start.starts_with('#') {
                return !start.is_empty();
            }
            self.take(end_of_line(start));
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        if let Some(after) = self.text.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            self.text = after.trim_start_matches([' ', '\t']);
        }
        let end = self.text.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c)));
        let name = self.take(end.unwrap_or(self.text.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((self.line, "a name must be made of letters, digits, `_`, `.` and `-`"));
        }
        self.text = self.text.trim_start_matches([' ', '\t']);
        match self.text.strip_prefix('=') {
            Some(after) => self.text = after.trim_start_matches([' ', '\t']),
            None => return Err((self.line, "a name must be followed by `=`")),
        }
        Ok(name.to_owned())
    }

    fn value(&mut self) -> Result<String, Fault> {
        let value = match self.text.chars().next() {
            Some('\'') => self.single_quoted()?,
            Some('"') => self.double_quoted()?,
            _ => return Ok(self.bare()),
        };
        let after = self.take(end_of_line(self.text)).trim_start();
        if !after.is_empty() && !after.starts_with('#') {
            return Err((self.line, "something follows the closing quote"));
        }
        Ok(value)
    }

    fn bare(&mut self) -> String {
        let line = self.take(end_of_line(self.text));
        let comment = line
            .char_indices()
            .find(|&(at, c)| c == '#' && (at == 0 || line[..at].ends_with([' ', '\t'])));
        line[..comment.map_or(line.len(), |(at, _)| at)].trim_end().to_owned()
    }

    fn single_quoted(&mut self) -> Result<String, Fault> {
        let end = self.text[1..].find('\'').ok_or((self.line, "a quote is not closed"))?;
        let quoted = self.take(end + 2);
        Ok(quoted[1..=end].to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, Fault> {
        // As long as all that is left, so that it is never moved and left behind unwiped.
        let mut value = Zeroizing::new(String::with_capacity(self.text.len()));
        let mut chars = self.text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.take(at + 1);
                    return Ok(value.as_str().to_owned());
                }
                '\\' => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 'r')) => '\r',
                    Some((_, 't')) => '\t',
                    Some((_, c @ ('\\' | '"' | '$'))) => c,
                    Some((at, _)) => {
                        self.take(at);
                        return Err((self.line, "an unknown escape; write `\\\\` for `\\`"));
                    }
                    None => break,
                }),
                c => value.push(c),
            }
        }
        Err((self.line, "a quote is not closed"))
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.text.split_at(length);
        self.line += taken.matches('\n').count() as u64;
        self.text = rest;
        taken
    }
}

fn end_of_line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_is_read() {
        let text = "\u{feff}# comment\r\n\n  PLAIN=value # comment\r\nexport TOKEN=a#b$c\\d\n\
                    QUOTED = 'it #is $HOME \\n'\nESCAPED=\"a\\\"b\\n\\$x\" # comment\n\
                    EMPTY=\nSPACED=  two words  \nPEM='-----BEGIN\nabc\n-----END'\nexport=x\n\
                    LAST=\"\"";
        assert_eq!(
            Value::Object(parse(text).unwrap()),
            json!({
                "PLAIN": "value", "TOKEN": "a#b$c\\d", "QUOTED": "it #is $HOME \\n",
                "ESCAPED": "a\"b\n$x", "EMPTY": "", "SPACED": "two words",
                "PEM": "-----BEGIN\nabc\n-----END", "export": "x", "LAST": "",
            })
        );
    }

    #[test]
    fn a_fault_has_its_line() {
        for (text, line, part) in [
            ("A=1\nB 2", 2, "followed by `=`"),
            ("A=1\n\n=x", 3, "a name must"),
            ("1A=x", 1, "a name must"),
            ("A='x\ny\n", 1, "not closed"),
            ("A=1\nB=\"x", 2, "not closed"),
            ("A=\"x\\", 1, "not closed"),
            ("A='x' y", 1, "follows the closing quote"),
            ("A=\"x\n\\q\"", 2, "unknown escape"),
            ("A=1\nB=2\nA=3", 3, "a second time"),
        ] {
            let (at, reason) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text:?}");
            assert!(reason.contains(part), "{text:?}: {reason}");
        }
    }
}
