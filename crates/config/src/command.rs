//! A command line without a shell: split into words as a shell would, with what only a shell could do refused by name.

use crate::expand::{self, Piece, Variables};
use crate::value::Wrong;

/// Stands for the variable of the number that follows, while the text is split: a variable is always within one word, whatever is in it.
/// A character of the last private use plane, which nobody types.
const MARK: char = '\u{10fff0}';
const HINT: &str = "there is no shell between: quote it, or use shell = \"...\" instead of command";

/// The words of a command.
///
/// # Errors
/// Nothing in it, quotes without an end, variables that are not set, NUL, or what only a shell could do.
pub(crate) fn split(text: &str, variables: &Variables) -> Result<Vec<String>, Wrong> {
    if text.contains(MARK) {
        return Err(Wrong::new("a character of a private use plane", "take it out"));
    }
    let mut values = Vec::new();
    let mut marked = String::with_capacity(text.len());
    for piece in expand::pieces(text) {
        match piece? {
            // A dollar of `$$` is no shell's either.
            Piece::Text("$") => {
                values.push("$".to_owned());
                marked.push(MARK);
            }
            Piece::Text(text) => marked.push_str(text),
            Piece::Variable(variable) => {
                values.push(variable.value(variables)?);
                marked.push(MARK);
            }
        }
    }
    without_shell(&marked)?;
    let words = shlex::split(&marked).ok_or_else(|| Wrong::new("a quote or backslash without its end", "close the quote"))?;
    let mut values = values.into_iter();
    let fill = |word: String| {
        let mut filled = String::with_capacity(word.len());
        for character in word.chars() {
            match character {
                MARK => filled.push_str(&values.next().unwrap_or_default()),
                other => filled.push(other),
            }
        }
        filled
    };
    let words: Vec<String> = words.into_iter().map(fill).collect();
    match words.first() {
        None => Err(Wrong::new("an empty command", "its first word is the program")),
        Some(first) if first.is_empty() => Err(Wrong::new("the program's name is empty", "its first word is the program")),
        Some(_) if words.iter().any(|word| word.contains('\0')) => Err(Wrong::new("a NUL character in a word", "no command can hold one")),
        Some(_) => Ok(words),
    }
}

/// Refuses what a shell would act upon and nobody here does.
fn without_shell(text: &str) -> Result<(), Wrong> {
    let mut quote = None;
    let mut word_begins = true;
    let mut first_word = String::new();
    let mut in_first = true;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let at_begin = std::mem::replace(&mut word_begins, false);
        match (quote, character) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None | Some('"'), '\\') => {
                characters.next();
            }
            (None | Some('"'), '`') => return Err(Wrong::new("command substitution by ` is a shell's", HINT)),
            (None | Some('"'), '$') => match characters.peek() {
                Some('(') => return Err(Wrong::new("command substitution by $( ) is a shell's", HINT)),
                Some(next) if next.is_ascii_alphabetic() || *next == '_' => {
                    let hint = "write ${NAME}, or use shell = \"...\" instead of command; $$ is a dollar";
                    return Err(Wrong::new("$NAME without braces is a shell's", hint));
                }
                _ => {}
            },
            (None, '|' | '&' | ';' | '<' | '>') => {
                return Err(Wrong::new(format!("{character} outside of quotes is a shell's"), HINT));
            }
            (None, '#') if at_begin => return Err(Wrong::new("# begins a comment in a shell", "quote it, or take it out")),
            (None, blank) if blank.is_ascii_whitespace() => {
                word_begins = true;
                in_first &= first_word.is_empty();
            }
            (None, other) if in_first => first_word.push(other),
            _ => {}
        }
    }
    if first_word
        .split_once('=')
        .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()))
    {
        return Err(Wrong::new(
            "a variable before the command is a shell's",
            "use env = { NAME = \"value\" }, or shell = \"...\" instead of command",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Result<Vec<String>, Wrong> {
        split(text, &Variables::new(&[b"PORT=8000".to_vec(), b"SPACED=a 'b\" $(c)".to_vec(), b"EMPTY=".to_vec()]))
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, expected) in [
            ("python app.py", &["python", "app.py"][..]),
            ("  a\t'b c'  \"d 'e'\" f\\ g ''\n h", &["a", "b c", "d 'e'", "f g", "", "h"]),
            ("a --port=${PORT} '${PORT}x'", &["a", "--port=8000", "8000x"]),
            ("a ${SPACED} \"-${SPACED}\"", &["a", "a 'b\" $(c)", "-a 'b\" $(c)"]),
            ("a ${NONE:-b c} ${EMPTY}", &["a", "b c", ""]),
            ("a $$HOME $$ '$' 5$", &["a", "$HOME", "$", "$", "5$"]),
            ("a 'b | c' \"d;e\" f\\&g x#y", &["a", "b | c", "d;e", "f&g", "x#y"]),
            ("a *.py ~ --x=1", &["a", "*.py", "~", "--x=1"]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for (text, part) in [
            ("", "empty command"),
            ("  ", "empty command"),
            ("''", "name is empty"),
            ("${EMPTY} x", "name is empty"),
            ("a 'b", "quote"),
            ("a | b", "|"),
            ("a && b", "&"),
            ("a > b", ">"),
            ("a `b`", "`"),
            ("a \"$(b)\"", "$( )"),
            ("a $HOME", "$NAME"),
            ("a \"$HOME\"", "$NAME"),
            ("a # b", "comment"),
            ("A=1 b", "before the command"),
            ("a ${NONE}", "not set"),
            ("a ${", "closing"),
        ] {
            let wrong = words(text).unwrap_err();
            assert!(wrong.message.contains(part), "{text}: {wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = words(&text);
        }

        #[test]
        fn quoted_words_come_through(words_in in prop::collection::vec("[^\0$\u{10fff0}]{1,9}", 1..5)) {
            let text = shlex::try_join(words_in.iter().map(String::as_str)).unwrap();
            prop_assert_eq!(words(&text).unwrap(), words_in);
        }
    }
}
