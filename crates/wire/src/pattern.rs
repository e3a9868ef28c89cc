//! Which services a person means: names and globs.

/// Whether `text` is a glob and not just a name.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a name fits a pattern: `*` any characters, `?` one, `[abc]` and `[a-z]` one of these, `[!abc]` one that is none of them;
/// everything else itself. A `[` that is never closed is itself.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star is, and how far its match has been tried: it takes one more character whenever what follows does not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => {
                if let Some(length) = one(&pattern[p..], name[n]) {
                    p += length;
                    n += 1;
                    continue;
                }
            }
            None => {}
        }
        let Some((at, tried)) = star else { return false };
        star = Some((at, tried + 1));
        (p, n) = (at + 1, tried + 1);
    }
    pattern[p..].iter().all(|&character| character == '*')
}

/// Length of the first element of the pattern if the character fits it.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern[0] {
        '?' => Some(1),
        '[' => match pattern.iter().skip(2).position(|&c| c == ']').map(|at| at + 2) {
            Some(end) => {
                let (negated, set) = match pattern[1] {
                    '!' => (true, &pattern[2..end]),
                    _ => (false, &pattern[1..end]),
                };
                (in_set(set, character) != negated).then_some(end + 1)
            }
            None => (character == '[').then_some(1),
        },
        literal => (literal == character).then_some(1),
    }
}

fn in_set(set: &[char], character: char) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&'-') && at + 2 < set.len() {
            if (set[at]..=set[at + 2]).contains(&character) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == character {
                return true;
            }
            at += 1;
        }
    }
    false
}

/// The name that was probably meant, if one is close: one that begins with what was typed, or is a few edits away.
pub fn closest<'a, S: AsRef<str>>(typed: &str, names: &'a [S]) -> Option<&'a str> {
    if typed.is_empty() {
        return None;
    }
    let names = || names.iter().map(AsRef::as_ref);
    if let Some(name) = names().find(|name| name.starts_with(typed)) {
        return Some(name);
    }
    let (edits, name) = names().map(|name| (distance(typed, name), name)).min()?;
    (edits <= 2.max(typed.len() / 3)).then_some(name)
}

/// Edits (insert, delete, replace) from one to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, from) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        for (pattern, name) in [
            ("web", "web"),
            ("*", ""),
            ("*", "web"),
            ("w*", "web"),
            ("*b", "web"),
            ("w?b", "web"),
            ("*-*", "web-1"),
            ("web-[0-9]", "web-7"),
            ("web-[!0-9]", "web-x"),
            ("[", "["),
            ("a*b*c", "aXbYbZc"),
            ("[-]", "-"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("web", "webs"), ("", "web"), ("w?b", "wb"), ("web-[0-9]", "web-x"), ("a*b", "ac"), ("[!a]", "a"), ("[]", "]")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn edits() {
        for (one, other, edits) in [("", "", 0), ("web", "web", 0), ("wbe", "web", 2), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }

    #[test]
    fn a_close_name_is_suggested_and_a_far_one_is_not() {
        let names = ["http.server", "web"];
        assert_eq!(closest("wbe", &names), Some("web"));
        assert_eq!(closest("http", &names), Some("http.server"));
        assert_eq!(closest("database", &names), None);
        assert_eq!(closest("", &names), None);
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_no_pattern_panics(pattern in any::<String>(), name in "[A-Za-z0-9_.@-]{1,12}") {
            prop_assert!(matches(&name, &name));
            prop_assert!(matches("*", &pattern));
            let _ = matches(&pattern, &name);
        }
    }
}
