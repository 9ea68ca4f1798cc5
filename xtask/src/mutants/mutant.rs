//! One mutant: a defect on purpose, and the test that must notice it.
//!
//! ```text
//! One sentence that says what is broken.
//! test: PACKAGE TARGET NAME
//! file: path/of/a/source.rs
//! --- find
//! text that stands there exactly once
//! --- replace
//! what stands there instead
//! --- end
//! ```
//! `file` and the block after it may come again. The target of a library's own tests is `lib`.

use crate::process::{Failure, Result};

/// See the module's documentation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) test: Test,
    pub(super) edits: Vec<Edit>,
}

/// Where a test is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) package: String,
    pub(super) target: String,
    pub(super) name: String,
}

/// One exact change of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) file: String,
    pub(super) find: String,
    pub(super) replace: String,
}

impl Mutant {
    /// Reads what a file of this name says.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self> {
        let wrong = |why: &str| Failure::new(format!("mutants/{name}.txt: {why}"));
        let mut lines = text.lines();
        let about = lines.next().unwrap_or_default().to_owned();
        let (mut test, mut file, mut edits) = (None, None, Vec::new());
        while let Some(line) = lines.next() {
            if let Some(words) = line.strip_prefix("test: ") {
                test = Test::parse(words);
            } else if let Some(path) = line.strip_prefix("file: ") {
                file = Some(path.to_owned());
            } else if line == "--- find" {
                let mut block = |end: &str| {
                    let block: Vec<_> = lines.by_ref().take_while(|line| *line != end).collect();
                    block.join("\n")
                };
                let (find, replace) = (block("--- replace"), block("--- end"));
                let file = file.clone().ok_or_else(|| wrong("it names no file to change"))?;
                edits.push(Edit { file, find, replace });
            } else if !line.is_empty() {
                return Err(wrong(&format!("`{line}` is not understood")));
            }
        }
        let test = test.ok_or_else(|| wrong("it names no test as `PACKAGE TARGET NAME`"))?;
        if about.is_empty() || edits.is_empty() || edits.iter().any(|edit| edit.find.is_empty()) {
            return Err(wrong("it changes nothing, or does not say what"));
        }
        Ok(Self { name: name.to_owned(), about, test, edits })
    }
}

impl Test {
    fn parse(words: &str) -> Option<Self> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        let [package, target, name] = words.try_into().ok()?;
        Some(Self { package, target, name })
    }
}

impl Edit {
    /// The text with this change in it, if what it looks for stands there once.
    pub(super) fn apply(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            0 => Err(Failure::new(format!("what it looks for is not in {}", self.file))),
            n => Err(Failure::new(format!("what it looks for is in {} {n} times", self.file))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "It forgets.\ntest: p t a::b\n\nfile: src/x.rs\n--- find\n    keep();\n\
        --- replace\n--- end\nfile: src/y.rs\n--- find\na\nb\n--- replace\nc\n--- end\n";

    #[test]
    fn a_mutant_is_read_with_its_indentation() {
        let mutant = Mutant::parse("forgets", TEXT).unwrap();
        assert_eq!(mutant.about, "It forgets.");
        assert_eq!((mutant.test.package.as_str(), mutant.test.name.as_str()), ("p", "a::b"));
        assert_eq!(mutant.edits[0].find, "    keep();");
        assert_eq!(mutant.edits[0].replace, "");
        assert_eq!(mutant.edits[1].apply("x\na\nb\ny").unwrap(), "x\nc\ny");
    }

    #[test]
    fn what_is_not_there_exactly_once_is_an_error() {
        let edit = &Mutant::parse("m", TEXT).unwrap().edits[0];
        assert!(edit.apply("nothing").unwrap_err().to_string().contains("is not in src/x.rs"));
        let twice = "    keep();\n    keep();\n";
        assert!(edit.apply(twice).unwrap_err().to_string().contains("2 times"));
    }

    #[test]
    fn a_mutant_without_a_test_or_a_change_is_refused() {
        for text in ["", "About.\ntest: p t n\n", "About.\ntest: p t\nfile: f\n--- find\na\n"] {
            assert!(Mutant::parse("m", text).is_err(), "{text:?}");
        }
    }
}
