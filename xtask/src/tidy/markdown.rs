//! The parts of a Markdown text that can be wrong about the code.

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A heading without its marks.
    Heading(String),
    /// The target of a link.
    Link(String),
    /// The text between backticks, on one line.
    Code(String),
    /// A line of a fenced block, with the language of the block.
    Fenced { language: String, line: String },
}

/// The parts of a text, each with the number of its line.
pub(super) fn parts(text: &str) -> Vec<(usize, Part)> {
    let mut parts = Vec::new();
    let mut fence: Option<(&str, &str)> = None;
    let mut paragraph = String::new();
    let mut start = 1;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if let Some((mark, language)) = fence {
            if trimmed.starts_with(mark) && trimmed.trim_matches('`').is_empty() {
                fence = None;
            } else {
                let (language, line) = (language.to_owned(), trimmed.to_owned());
                parts.push((number, Part::Fenced { language, line }));
            }
            continue;
        }
        let opens = trimmed.starts_with("```");
        let heading = heading(trimmed);
        if opens || trimmed.is_empty() || heading.is_some() {
            inline(&std::mem::take(&mut paragraph), start, &mut parts);
        }
        if opens {
            let language = trimmed.trim_start_matches('`');
            fence = Some((&trimmed[..trimmed.len() - language.len()], language.trim()));
        } else if let Some(heading) = heading {
            parts.push((number, Part::Heading(heading.to_owned())));
            inline(heading, number, &mut parts);
        } else if !trimmed.is_empty() {
            if paragraph.is_empty() {
                start = number;
            }
            paragraph.push_str(trimmed);
            paragraph.push('\n');
        }
    }
    inline(&paragraph, start, &mut parts);
    parts
}

/// The name by which a link points to a heading.
pub(super) fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|&c| c.is_alphanumeric() || "-_ ".contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim())
}

/// Code and links of a paragraph. A span of code may go over the end of a line.
fn inline(text: &str, first_line: usize, parts: &mut Vec<(usize, Part)>) {
    let line_at = |rest: &str| first_line + text[..text.len() - rest.len()].matches('\n').count();
    let mut rest = text;
    while let Some(at) = rest.find(['`', ']']) {
        rest = &rest[at..];
        let line = line_at(rest);
        if let Some(target) = link(rest) {
            parts.push((line, Part::Link(target.to_owned())));
            rest = &rest[1..];
        } else if rest.starts_with(']') {
            rest = &rest[1..];
        } else {
            let inside = rest.trim_start_matches('`');
            let mark = &rest[..rest.len() - inside.len()];
            rest = inside;
            if let Some((code, after)) = inside.split_once(mark) {
                parts.push((line, Part::Code(code.replace('\n', " ").trim().to_owned())));
                rest = after;
            }
        }
    }
}

/// The target in `](target "title")` or, at the start of a line, `]: target`.
fn link(text: &str) -> Option<&str> {
    let target = match text.strip_prefix("](") {
        Some(inside) => inside.split_once(')')?.0,
        None => text.strip_prefix("]: ")?.lines().next()?,
    };
    target.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_found_with_its_line() {
        let text = "# The `x` page\n\
                    See [this](a.md \"title\") and `one\ntwo`, not `` ` ``.\n\
                    \n\
                    ```sh\n\
                    oneiric agent # `no code`\n\
                    ```\n\
                    [that]: b.md\n\
                    #hash";
        let fenced =
            Part::Fenced { language: "sh".into(), line: "oneiric agent # `no code`".into() };
        assert_eq!(
            parts(text),
            [
                (1, Part::Heading("The `x` page".into())),
                (1, Part::Code("x".into())),
                (2, Part::Link("a.md".into())),
                (2, Part::Code("one two".into())),
                (3, Part::Code("`".into())),
                (6, fenced),
                (8, Part::Link("b.md".into())),
            ]
        );
    }

    #[test]
    fn a_longer_fence_holds_a_shorter_one() {
        let lines: Vec<_> = parts("````md\n```sh\nx\n```\n````\n`after`").into_iter().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3], (6, Part::Code("after".into())));
    }

    #[test]
    fn anchors_are_those_of_the_usual_renderer() {
        assert_eq!(anchor("8.2 What is `closed`, and why"), "82-what-is-closed-and-why");
        assert_eq!(anchor("oneiric-core"), "oneiric-core");
    }
}
