//! Files with variables, one `NAME=value` per line.
//!
//! - Blank lines and lines that begin with `#` count for nothing; `export ` before a name is skipped.
//! - A name has letters, digits and `_`, `.`, `-`, and does not begin with a digit.
//! - A value without quotes ends at ` #` or at the end of the line, without the blanks around it.
//! - In single quotes everything stands for itself. In double quotes `\n`, `\r`, `\t`, `\"`, `\\` and `\$` are what they say. Both can go over several lines.
//! - Nothing is put in for `$`: a value is what stands there.

/// `NAME=value` of each variable in order, or the first line (from 1) that is wrong and why. No message repeats a value.
pub(crate) fn parse(text: &str) -> Result<Vec<Vec<u8>>, (usize, &'static str)> {
    let mut entries = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    let mut line = 1;
    let mut counted = rest;
    while !rest.is_empty() {
        // Lines are counted as they go by: files of many lines are read in one pass.
        line += counted[..counted.len() - rest.len()].matches('\n').count();
        counted = rest;
        let end = rest.find('\n').unwrap_or(rest.len());
        let (this, after) = (rest[..end].trim(), rest.get(end + 1..).unwrap_or_default());
        if this.is_empty() || this.starts_with('#') {
            rest = after;
            continue;
        }
        let Some(equals) = rest[..end].find('=') else { return Err((line, "it has no =")) };
        let name = rest[..equals].trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        check_name(name).map_err(|why| (line, why))?;
        let (value, after) = value(&rest[equals + 1..]).map_err(|(rest, why)| (line_of(rest), why))?;
        if value.contains('\0') {
            return Err((line, "its value holds a NUL character"));
        }
        entries.push(format!("{name}={value}").into_bytes());
        rest = after;
    }
    Ok(entries)
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.is_empty() {
        Err("there is no name before the =")
    } else if name.bytes().all(letter) && !name.as_bytes()[0].is_ascii_digit() {
        Ok(())
    } else {
        Err("what is before the = is no name of a variable")
    }
}

type Faulty<'a> = (&'a str, &'static str);

/// The value at the beginning of `text`, and what comes after its line.
fn value(text: &str) -> Result<(String, &str), Faulty<'_>> {
    let begin = text.trim_start_matches([' ', '\t']);
    if let Some(quote @ ('"' | '\'')) = begin.chars().next() {
        return quoted(&begin[1..], quote);
    }
    let end = begin.find('\n').unwrap_or(begin.len());
    let line = &begin[..end];
    let comment = line.char_indices().find(|(at, character)| *character == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])));
    let value = line[..comment.map_or(line.len(), |(at, _)| at)].trim();
    Ok((value.to_owned(), begin.get(end + 1..).unwrap_or_default()))
}

fn quoted(text: &str, quote: char) -> Result<(String, &str), Faulty<'_>> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if quote == '"' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(plain @ ('"' | '\\' | '$' | '\'')) => value.push(plain),
                // A backslash before anything else stands for itself.
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            _ if character == quote => {
                let after = &text[at + 1..];
                let end = after.find('\n').unwrap_or(after.len());
                let left = after[..end].trim();
                if !left.is_empty() && !left.starts_with('#') {
                    return Err((after, "something follows the closing quote"));
                }
                return Ok((value, after.get(end + 1..).unwrap_or_default()));
            }
            _ => value.push(character),
        }
    }
    Err((text, "a quote is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Vec<String>, (usize, &'static str)> {
        parse(text).map(|entries| entries.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect())
    }

    #[test]
    fn rules() {
        let text = "\u{feff}# comment\r\n\nA=1\r\nexport B = two words # comment\nC=a#b\nD='$x # \\n'\nE=\"a\\n\\\"b\\\" \\$ \\d\" # c\nF=\nG=\"two\nlines\"\nH=x=y\nI= # nothing";
        let expected = ["A=1", "B=two words", "C=a#b", "D=$x # \\n", "E=a\n\"b\" $ \\d", "F=", "G=two\nlines", "H=x=y", "I="];
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn faults_name_their_line() {
        for (text, line) in
            [("A=1\nB", 2), ("\n\n=x", 3), ("A='x\n\n", 1), ("A='x\ny' z\n", 2), ("1A=x", 1), ("A B=x", 1), ("A=\0", 1), ("\n\nA=\"", 3)]
        {
            assert_eq!(parsed(text).unwrap_err().0, line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[A-C =\"'\\\\#\n\r$\0ü]{0,60}") {
            if let Err((line, _)) = parse(&text) {
                prop_assert!(line <= text.matches('\n').count() + 1);
            }
        }
    }
}
