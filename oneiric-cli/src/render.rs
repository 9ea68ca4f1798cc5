//! Tables and text for a terminal.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

/// A text of somebody else, without what could move the cursor or colour the rest: errors quote
/// names of files, and agents quote commands.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match c {
        c if harmful(c) => c.escape_default().to_string(),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// A table with a heading, its columns as wide as what is in them.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_uppercase).to_vec()] }
    }

    /// Adds a row; what is not there shows as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| {
            let cell = printable(&cell).replace('\n', " ");
            if cell.is_empty() { "-".to_owned() } else { cell }
        };
        self.rows.push(cells.map(shown).to_vec());
    }

    /// The table as lines of text.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The word that `--json` has for something, such as `rolled_back`.
pub(crate) fn token(of: &impl Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A time of milliseconds as people read it.
pub(crate) fn millis(millis: Option<f64>) -> String {
    match millis {
        None => String::new(),
        Some(millis) if millis < 1000.0 => format!("{millis:.1}ms"),
        Some(millis) => format!("{:.1}s", millis / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(["name", "state"]);
        table.row(["a".into(), String::new()]);
        table.row(["longer".into(), "one\ntwo".into()]);
        assert_eq!(table.render(), "NAME    STATE\na       -\nlonger  one two\n");
    }

    #[test]
    fn a_terminal_is_not_driven_by_others() {
        assert_eq!(printable("plain\ntext"), "plain\ntext");
        assert_eq!(printable("\u{1b}[2Jx\r"), "\\u{1b}[2Jx\\r");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(millis(None), "");
        assert_eq!(millis(Some(12.34)), "12.3ms");
        assert_eq!(millis(Some(2500.0)), "2.5s");
    }
}
