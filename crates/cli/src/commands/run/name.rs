//! What an instance is called if nobody says.

use std::ffi::OsStr;
use std::path::Path;

/// Longest name made here: leaves room for "-2".
const LONGEST: usize = 56;

/// The name that a command suggests: `python app.py` → `app`, `python -m http.server` → `http.server`, `node server.js` →
/// `server`, anything else its file name.
pub(super) fn suggest<S: AsRef<OsStr>>(command: &[S]) -> String {
    let words: Vec<&str> = command.iter().map(|word| word.as_ref().to_str().unwrap_or_default()).collect();
    let program = words.first().map_or("", |word| file_name(word));
    let script = match program.trim_end_matches(|character: char| character.is_ascii_digit() || character == '.') {
        "python" | "pypy" => python(&words[1..]),
        "node" | "nodejs" | "bun" | "ruby" | "perl" | "php" => words[1..].iter().find(|word| !word.starts_with('-')).map(|word| stem(word)),
        _ => None,
    };
    clean(script.unwrap_or(program))
}

fn python<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "-m" => return arguments.next().copied(),
            "-c" | "-" => return None,
            "-W" | "-X" => {
                arguments.next();
            }
            option if option.starts_with('-') => {}
            script => return Some(stem(script)),
        }
    }
    None
}

fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn stem(path: &str) -> &str {
    Path::new(path).file_stem().and_then(OsStr::to_str).unwrap_or_default()
}

fn clean(text: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_.@-".contains(character);
    let name: String = text.chars().map(|character| if allowed(character) { character } else { '-' }).take(LONGEST).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "service".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suggestions() {
        for (command, name) in [
            ("python app.py", "app"),
            ("python3 -u src/app.py --debug", "app"),
            ("/usr/bin/python3.12 -m http.server 8000", "http.server"),
            ("python -X dev -W error app.py", "app"),
            ("python -c pass", "python"),
            ("python", "python"),
            ("node --inspect server.js", "server"),
            ("./target/release/api", "api"),
            ("sh -c whatever", "sh"),
            ("nginx", "nginx"),
            ("/", "service"),
            (".hidden", "hidden"),
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            assert_eq!(suggest(&words), name, "{command}");
        }
        assert_eq!(suggest(&["grün es"]), "gr-n-es");
        assert_eq!(suggest::<&str>(&[]), "service");
    }

    proptest! {
        #[test]
        fn a_suggestion_is_always_a_name(words in prop::collection::vec(any::<String>(), 0..4)) {
            prop_assert!(stayput_wire::runtime::check_name(&suggest(&words)).is_ok());
        }
    }
}
