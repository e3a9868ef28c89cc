//! Text from strangers, made fit for a terminal.
//!
//! Command lines, process names, paths and log lines can hold anything. Shown raw they can move the cursor, forge lines,
//! set the window's title or reverse the reading order (CVE-2021-25743, CVE-2021-42574).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::secrets::Arguments;

/// `text` with every character that a terminal could act upon written as an escape: C0 and DEL (`\n`, `\t`, `\x1b`), C1
/// (`\u{9b}`), bidirectional controls, zero-width and other invisible format characters, line and paragraph separators.
///
/// Borrowed if there was nothing to do. The result holds no control character at all and is one line.
///
/// ```
/// use stayput_model::text::printable;
/// assert_eq!(printable("python app.py"), "python app.py");
/// assert_eq!(printable("a\n\u{1b}[2Jb\u{202e}"), r"a\n\x1b[2Jb\u{202e}");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unsafe) else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    for character in text[first..].chars() {
        push(&mut out, character);
    }
    Cow::Owned(out)
}

/// As [`printable`], for bytes: what is not UTF-8 is written as `\xNN`.
pub fn printable_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| push(&mut out, character));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// JSON with the characters that act instead of being seen, beyond those that JSON itself never holds, as its escapes: the same document, which a
/// terminal shows and does not obey. Text with colours in it is left as it is as well.
///
/// ```
/// use stayput_model::text::inert_json;
/// assert_eq!(inert_json("{\"a\":\"\u{9b}2J\"}"), r#"{"a":"\u009b2J"}"#);
/// ```
pub fn inert_json(text: &str) -> Cow<'_, str> {
    let acts = |character: char| character == '\u{7f}' || (!character.is_ascii() && is_unsafe(character));
    // Most of it is ASCII, and some megabytes of that are seen through at once.
    if text.bytes().all(|byte| byte < 0x7f) || !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if acts(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// A command line as one would type it, but for its secrets, which are hidden ([`crate::secrets`]): arguments are made [`printable`], and quoted if
/// they need it. Every command line that is shown or told is made by this.
pub fn command_line<'a>(arguments: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut out = String::new();
    let mut secrets = Arguments::default();
    for argument in arguments {
        if !out.is_empty() {
            out.push(' ');
        }
        let printable = printable_bytes(argument);
        let text = secrets.shown(&printable);
        // The stars of what is hidden are for people, not for a shell.
        let hidden = matches!(text, Cow::Owned(_));
        let plain =
            |character: char| !character.is_whitespace() && (!"'\"$`&|;<>()*?#".contains(character) || (hidden && character == '*'));
        if !text.is_empty() && text.chars().all(plain) {
            out.push_str(&text);
        } else {
            out.push('\'');
            out.push_str(&text.replace('\'', r"'\''"));
            out.push('\'');
        }
    }
    out
}

fn push(out: &mut String, character: char) {
    match character {
        '\n' => out.push_str(r"\n"),
        '\r' => out.push_str(r"\r"),
        '\t' => out.push_str(r"\t"),
        '\0'..'\u{80}' if character.is_control() => {
            let _ = write!(out, "\\x{:02x}", u32::from(character));
        }
        _ if is_unsafe(character) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
        }
        _ => out.push(character),
    }
}

/// Characters that act instead of being seen.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_is_escaped() {
        assert_eq!(printable("\u{7f}\u{9b}31m\u{200b}\u{2028}\r\0"), r"\x7f\u{9b}31m\u{200b}\u{2028}\r\x00");
        assert!(matches!(printable("grün ✓ 端口"), Cow::Borrowed("grün ✓ 端口")));
        assert_eq!(printable_bytes(b"a\xff\x1b"), r"a\xff\x1b");
    }

    #[test]
    fn command_lines_are_quoted_where_needed() {
        let arguments: [&[u8]; 5] = [b"sh", b"-c", b"exec sleep 5; echo it's", b"", b"\x1b[31m"];
        assert_eq!(command_line(arguments), r"sh -c 'exec sleep 5; echo it'\''s' '' \x1b[31m");
        let secrets: [&[u8]; 5] = [b"app", b"--token", b"hunter2", b"amqp://a:b@c", b"KEY=* *"];
        assert_eq!(command_line(secrets), "app --token *** amqp://a:***@c 'KEY=* *'");
    }

    proptest! {
        #[test]
        fn nothing_acts(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            for shown in [printable_bytes(&bytes), printable(&text).into_owned(), command_line([&bytes[..], text.as_bytes()])] {
                prop_assert!(!shown.chars().any(is_unsafe), "{:?}", shown);
            }
        }

        #[test]
        fn json_does_not_act(text in any::<String>()) {
            let document = text.replace(|character: char| character < ' ', "");
            prop_assert!(!inert_json(&document).chars().any(is_unsafe), "{:?}", document);
        }

        #[test]
        fn plain_text_is_left_alone(text in "[ -~]*") {
            prop_assert_eq!(printable(&text), text.clone());
        }
    }
}
