//! Where a template uses a name.

/// The line of the first use of a variable, from 1.
pub(crate) fn line_of(source: &str, name: &str) -> Option<usize> {
    let mut rest = source;
    while let Some(begin) = rest.find('{') {
        let tag = &rest[begin..];
        let end = match tag.as_bytes().get(1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => "#}",
            _ => {
                rest = &tag[1..];
                continue;
            }
        };
        let length = tag[2..].find(end).map_or(tag.len(), |at| at + 4);
        if end != "#}"
            && let Some(at) = variable_in(&tag[..length], name)
        {
            let offset = source.len() - tag.len() + at;
            return Some(source[..offset].matches('\n').count() + 1);
        }
        rest = &tag[length..];
    }
    None
}

/// The offset of a variable in a tag: a word of its own, not within quotes, and no attribute.
fn variable_in(tag: &str, name: &str) -> Option<usize> {
    let in_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let mut before = ' ';
    let mut rest = tag;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => rest[1..].find(first).map_or(rest.len(), |at| at + 2),
            _ if in_word(first) => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        if &rest[..length] == name && before != '.' && before != '|' {
            return Some(tag.len() - rest.len());
        }
        if !first.is_whitespace() {
            before = first;
        }
        rest = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_use_is_found_and_nothing_that_looks_like_one() {
        for (source, line) in [
            ("{{ key }}", Some(1)),
            ("key\n{# key #}\n{{ keys }}\n{{ db.key }}\n{{ a | key }}\n{{- key -}}", Some(6)),
            ("{{ 'key' }}\n{{ \"a key\" ~ key }}", Some(2)),
            ("{% if a\n and key %}", Some(2)),
            ("{ key }\n{% for x in key %}", Some(2)),
            ("{{ '' ~ key }}", Some(1)),
            ("{{ keys }} key", None),
        ] {
            assert_eq!(line_of(source, "key"), line, "{source}");
        }
    }
}
