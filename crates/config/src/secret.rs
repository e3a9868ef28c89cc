//! Which lines of a file hold values of environment variables. Values may be secrets, and a report goes to journals, dashboards and chats: the line is
//! shown with its structure, and without what the values are.
//!
//! This is decided by the text, because a file with mistakes has no tree, and in doubt for the secret: a line too many loses a little of a message.

/// The line with this number, from 1, as it may be shown if it is about `env` and not only about files of variables: in a table of that name, at a key
/// of it, or in a value that began there. The structure and the names stay; of values there is a star for each character. `None`: it holds no secret.
pub(crate) fn masked(text: &str, line: u32) -> Option<String> {
    let (mut in_table, mut open) = (false, Open::default());
    for (number, this) in (1..).zip(text.lines()) {
        let header = open.is_nothing() && this.trim_start().starts_with('[');
        if header {
            in_table = names_env(this);
        }
        let inside = !open.is_nothing() || in_table || (!header && names_env(this));
        if number == line {
            return (inside && !header).then(|| mask(this, open.quote));
        }
        if inside && !header {
            open.follow(this);
        }
    }
    None
}

/// The word `env` stands there and not in quotes, or alone in them; `env-file` does not count.
fn names_env(line: &str) -> bool {
    let word = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    let parts: Vec<&str> = line.split(['\'', '"']).collect();
    parts.iter().enumerate().any(|(at, part)| {
        if at % 2 == 1 {
            return *part == "env";
        }
        part.split(|character: char| !word(character)).any(|found| found == "env")
    })
}

/// What a value needs to end.
#[derive(Debug, Default)]
struct Open {
    brackets: usize,
    quote: Option<&'static str>,
}

impl Open {
    fn is_nothing(&self) -> bool {
        self.brackets == 0 && self.quote.is_none()
    }

    fn follow(&mut self, line: &str) {
        let mut rest = line;
        loop {
            if let Some(open) = self.quote {
                let Some(end) = rest.find(open) else { return };
                rest = &rest[end + open.len()..];
                self.quote = None;
            }
            let Some(at) = rest.find(['{', '}', '[', ']', '\'', '"', '#']) else { return };
            let found = rest.as_bytes()[at];
            self.quote = quote_at(&rest[at..]);
            rest = &rest[at + self.quote.map_or(1, str::len)..];
            match found {
                b'{' | b'[' => self.brackets += 1,
                b'}' | b']' => self.brackets = self.brackets.saturating_sub(1),
                b'#' => return,
                _ => {}
            }
        }
    }
}

fn quote_at(text: &str) -> Option<&'static str> {
    ["'''", "\"\"\"", "'", "\""].into_iter().find(|quote| text.starts_with(quote))
}

/// A line that begins inside of this quote, with stars for what is no name and no structure.
fn mask(line: &str, mut quote: Option<&'static str>) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let value = match quote.take() {
            Some(open) => {
                let end = rest.find(open).unwrap_or(rest.len());
                &rest[..end + open.len().min(rest.len() - end)]
            }
            None if quote_at(rest).is_some() => {
                let open = quote_at(rest).unwrap_or_default();
                let end = rest[open.len()..].find(open).map_or(rest.len(), |end| end + 2 * open.len());
                &rest[..end]
            }
            None if first.is_whitespace() || "=[]{},".contains(first) => {
                shown.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            None => {
                &rest[..rest.find(|character: char| character.is_whitespace() || "=[]{},'\"".contains(character)).unwrap_or(rest.len())]
            }
        };
        rest = &rest[value.len()..];
        let is_name = rest.trim_start().starts_with('=');
        let star = |character: char| if is_name || "'\"".contains(character) { character } else { '*' };
        shown.extend(value.chars().map(star));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_variables_are_known_and_no_others() {
        let text = "\
name = 'environment'
env = { A = 'x' }
[service.web]
command = 'env-dump'
env-file = 'secret.env' # of all
env.TOKEN = 'x'
env = {
  A = '''
x
''', B = ['}',
  'y'] # }
}
drain = '1s'
[service.web.env]
TOKEN = 'x'

[service.api]
port = 1
";
        let secret: Vec<u32> = (1..=18).filter(|line| masked(text, *line).is_some()).collect();
        assert_eq!(secret, [2, 6, 7, 8, 9, 10, 11, 12, 15, 16]);
        assert_eq!(masked(text, 19), None, "a line that is not there");
        assert_eq!(masked(text, 9).unwrap(), "*");
        assert_eq!(masked(text, 10).unwrap(), "''', B = ['*',");
    }

    #[test]
    fn names_and_structure_stay_and_values_do_not() {
        let first = |text: &str| masked(text, 1).unwrap();
        assert_eq!(first("env = { TOKEN = 'hunter2', \"A B\"=\"x\" }"), "env = { TOKEN = '*******', \"A B\"=\"*\" }");
        assert_eq!(first("env.TOKEN = ['grün', 5.5, true]"), "env.TOKEN = ['****', ***, ****]");
        assert_eq!(first("env.TOKEN = 'never closed"), "env.TOKEN = '************");
        assert_eq!(first("service.web = { env = { A = x } }"), "service.web = { env = { A = * } }");
        assert_eq!(first("env TOKEN"), "*** *****");
        assert_eq!(masked("env.TOKEN = 'never closed\nAbC=x", 2).unwrap(), "*****");
        assert_eq!(masked("[service.env]\nTOKEN = '''\na = b\n", 3).unwrap(), "*****");
    }
}
