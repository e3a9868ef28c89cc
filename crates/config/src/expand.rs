//! Variables in texts: `${NAME}`, `${NAME:-default}`, `$$` for a dollar. Any other dollar stays as it is.

use crate::value::Wrong;
use std::collections::HashMap;

/// Longest text after expansion in bytes.
const LONGEST: usize = 128 * 1024;

/// What variables there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// These.
    Known(&'a Variables),
    /// It is not known yet: texts with variables stay unknown, and nothing is said about them.
    Unknown,
}

/// Variables by name; values can hold any byte but NUL.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(HashMap<Vec<u8>, Vec<u8>>);

impl Variables {
    /// From `NAME=value`; later ones win.
    pub(crate) fn new(entries: &[Vec<u8>]) -> Self {
        let mut variables = Self::default();
        variables.lay_over(entries);
        variables
    }

    pub(crate) fn lay_over(&mut self, entries: &[Vec<u8>]) {
        for entry in entries {
            if let Some(equals) = entry.iter().position(|byte| *byte == b'=') {
                self.0.insert(entry[..equals].to_vec(), entry[equals + 1..].to_vec());
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name.as_bytes()).map(Vec::as_slice)
    }
}

/// The text with its variables.
///
/// # Errors
/// What is wrong; `None`: the scope is not known, and there are variables.
pub(crate) fn expand(text: &str, scope: Scope<'_>) -> Result<String, Option<Wrong>> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece.map_err(Some)? {
            Piece::Text(text) => out.push_str(text),
            Piece::Variable(variable) => match scope {
                Scope::Known(variables) => out.push_str(&variable.value(variables)?),
                Scope::Unknown => return Err(None),
            },
        }
        if out.len() > LONGEST {
            return Err(Some(Wrong::new("longer than 128 KiB with its variables", "a variable in it is very long")));
        }
    }
    Ok(out)
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Variable(Variable<'a>),
}

/// `${name}` or `${name:-default}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variable<'a> {
    name: &'a str,
    default: Option<&'a str>,
}

impl Variable<'_> {
    /// Its value, or the default if it is unset or empty.
    pub(crate) fn value(&self, variables: &Variables) -> Result<String, Wrong> {
        let set = variables.get(self.name).filter(|value| !value.is_empty() || self.default.is_none());
        match (set, self.default) {
            (Some(value), _) => String::from_utf8(value.to_vec())
                .map_err(|_| Wrong::new(format!("the value of the variable {} is not UTF-8", self.name), "set it to a text")),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(Wrong::new(
                format!("the variable {} is not set", self.name),
                format!("set it, or give a default: ${{{}:-value}}; $$ is a dollar", self.name),
            )),
        }
    }
}

/// The parts of a text, in order.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, Wrong>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(after) = rest.strip_prefix("$$") {
            let dollar = &rest[..1];
            rest = after;
            return Some(Ok(Piece::Text(dollar)));
        }
        if let Some(inside) = rest.strip_prefix("${") {
            let Some(end) = inside.find('}') else {
                rest = "";
                return Some(Err(Wrong::new("a variable without its closing }", "write ${NAME} or ${NAME:-default}; $$ is a dollar")));
            };
            rest = &inside[end + 1..];
            return Some(variable(&inside[..end]).map(Piece::Variable));
        }
        // A dollar that stands for itself belongs to the text after it.
        let from = usize::from(rest.starts_with('$'));
        let end = rest[from..].find('$').map_or(rest.len(), |at| at + from);
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(Ok(Piece::Text(piece)))
    })
}

fn variable(inside: &str) -> Result<Variable<'_>, Wrong> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name = name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit());
    if is_name {
        Ok(Variable { name, default })
    } else {
        Err(Wrong::new("this is no variable", "write ${NAME} or ${NAME:-default}; $$ is a dollar"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> Result<String, Option<Wrong>> {
        let variables = Variables::new(&[b"A=1".to_vec(), b"EMPTY=".to_vec(), b"RAW=\xff".to_vec()]);
        expand(text, Scope::Known(&variables))
    }

    #[test]
    fn forms() {
        for (text, result) in [
            ("plain", "plain"),
            ("${A}", "1"),
            ("x${A}y${A:-2}z", "x1y1z"),
            ("${NONE:-a b}", "a b"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("$$A $${A}", "$A ${A}"),
            ("$A $1 a$ ^x$", "$A $1 a$ ^x$"),
            ("$$$$", "$$"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(result), "{text}");
        }
        for text in ["${NONE}", "${A", "${}", "${A B}", "${A:=x}", "${1}", "${RAW}", "$${A} ${"] {
            assert!(matches!(expanded(text), Err(Some(_))), "{text}");
        }
        assert_eq!(expand("${A}", Scope::Unknown), Err(None));
        assert_eq!(expand("$$", Scope::Unknown).as_deref(), Ok("$"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_text_without_dollars_stays(text in any::<String>()) {
            let result = expanded(&text);
            if !text.contains('$') {
                prop_assert_eq!(result, Ok(text));
            }
        }
    }
}
