//! What of a command line is a secret, and how it is hidden: `--password x`, `API_TOKEN=x`, the password in a URL, a header, a token that is known by
//! its shape. A command line is shown in status, on the dashboard, in plans and in reports, and from there it goes into chats and tickets.
//!
//! It is decided by names and shapes alone, and in doubt for the secret: a word too many that is hidden costs a little of a message. It is no proof: a
//! secret under a name that says nothing is shown, and everybody on the machine can read it in `ps` anyway. Variables and files are for secrets.

use std::borrow::Cow;
use std::ops::Range;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "***";

/// A value of this name is a secret if one of its words has one of these in it.
const PARTS: [&str; 9] = ["password", "passwd", "passphrase", "passcode", "secret", "apikey", "accesskey", "privatekey", "credential"];
/// … or is one of these.
const WORDS: [&str; 9] = ["pass", "pwd", "token", "tokens", "bearer", "cookie", "jwt", "masterauth", "authkey"];
/// Words that only end like `dbpass`.
const NO_PASS: [&str; 5] = ["bypass", "compass", "surpass", "overpass", "trespass"];
/// What makes a key one that nobody may know.
const KEYS: [&str; 9] = ["api", "access", "private", "secret", "auth", "signing", "encryption", "master", "shared"];
/// A name that ends so is about a secret and is none.
const ABOUT: [&str; 33] = [
    "file",
    "files",
    "path",
    "dir",
    "directory",
    "name",
    "type",
    "ttl",
    "expiry",
    "expires",
    "lifetime",
    "length",
    "size",
    "limit",
    "policy",
    "prompt",
    "stdin",
    "env",
    "var",
    "timeout",
    "algorithm",
    "url",
    "uri",
    "endpoint",
    "issuer",
    "method",
    "mode",
    "enabled",
    "required",
    "interval",
    "id",
    "domain",
    "store",
];
/// A name that begins so is a switch or a number.
const SWITCHES: [&str; 13] = ["no", "max", "min", "num", "n", "enable", "disable", "require", "allow", "skip", "use", "without", "ask"];
/// How tokens of well-known services begin; they are longer than names.
const SHAPES: [&str; 14] =
    ["ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "sk_live_", "rk_live_", "sk-", "npm_", "AKIA"];
const SHAPED: usize = 20;
/// Programs with a short option whose value is a secret, and whether that can be the next argument.
const SHORT: [(&str, &str, bool); 8] = [
    ("mysql", "-p", false),
    ("mysqldump", "-p", false),
    ("mysqladmin", "-p", false),
    ("mariadb", "-p", false),
    ("mariadb-dump", "-p", false),
    ("sshpass", "-p", true),
    ("redis-cli", "-a", true),
    ("curl", "-u", true),
];

/// Whether what is called so is a secret: `--db-password`, `API_TOKEN`, `spring.datasource.password`; not `--password-file`.
///
/// ```
/// use stayput_model::secrets::is_secret;
/// assert!(is_secret("AWS_SECRET_ACCESS_KEY") && is_secret("dbPassword") && !is_secret("max-tokens"));
/// ```
pub fn is_secret(name: &str) -> bool {
    // Where a shell stands is told in the same three letters.
    if name == "PWD" {
        return false;
    }
    let words = words(name);
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return false };
    if ABOUT.contains(&last.as_str()) || (words.len() > 1 && SWITCHES.contains(&first.as_str())) {
        return false;
    }
    let ends_so = |word: &str| word.ends_with("pass") && !NO_PASS.contains(&word);
    let is_one = |word: &String| PARTS.iter().any(|part| word.contains(part)) || WORDS.contains(&word.as_str()) || ends_so(word);
    let is_key = |pair: &[String]| KEYS.contains(&pair[0].as_str()) && matches!(pair[1].as_str(), "key" | "keys");
    matches!(last.as_str(), "auth" | "authorization") || words.iter().any(is_one) || words.windows(2).any(is_key)
}

/// The words of a name, small: `dbPassword`, `DB_PASSWORD` and `db-password` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for character in name.chars() {
        if character.is_ascii_alphanumeric() {
            let begins = !before.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && character.is_ascii_uppercase());
            if begins {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.push(character.to_ascii_lowercase());
            }
        }
        before = character;
    }
    words
}

/// A line with its secrets hidden. Borrowed if there was none.
///
/// ```
/// use stayput_model::secrets::hidden;
/// assert_eq!(hidden("serve --password hunter2 postgres://app:x@db/shop"), "serve --password *** postgres://app:***@db/shop");
/// ```
pub fn hidden(line: &str) -> Cow<'_, str> {
    replaced(line, &Arguments::default().scan(line, false), |_| HIDDEN.to_owned())
}

/// As [`hidden`], with a star for each character: for what is pointed at by its column.
pub fn starred(line: &str) -> Cow<'_, str> {
    replaced(line, &Arguments::default().scan(line, false), |secret| "*".repeat(secret.chars().count()))
}

fn replaced<'a>(text: &'a str, secrets: &[Range<usize>], by: impl Fn(&str) -> String) -> Cow<'a, str> {
    if secrets.is_empty() {
        return Cow::Borrowed(text);
    }
    let (mut shown, mut at) = (String::with_capacity(text.len()), 0);
    for secret in secrets {
        shown.push_str(&text[at..secret.start]);
        shown.push_str(&by(&text[secret.clone()]));
        at = secret.end;
    }
    shown.push_str(&text[at..]);
    Cow::Owned(shown)
}

/// Arguments of one command, one after the other: what is a secret may be said by the one before it.
#[derive(Debug, Default)]
pub struct Arguments {
    /// The next argument is the value of a secret.
    follows: bool,
    /// The next argument is a script.
    script: bool,
    /// The short option of the program that was named last.
    short: Option<(&'static str, bool)>,
}

impl Arguments {
    /// The next argument with its secrets hidden.
    pub fn shown<'a>(&mut self, argument: &'a str) -> Cow<'a, str> {
        let follows = std::mem::take(&mut self.follows);
        let script = std::mem::take(&mut self.script);
        if follows && !argument.is_empty() && !is_option(argument) && !is_harmless(argument) {
            return Cow::Owned(HIDDEN.to_owned());
        }
        let secrets = self.scan(argument, !script);
        let letters = argument.strip_prefix('-').filter(|letters| letters.bytes().all(|byte| byte.is_ascii_lowercase()));
        self.script = letters.is_some_and(|letters| letters.ends_with('c'));
        replaced(argument, &secrets, |_| HIDDEN.to_owned())
    }

    /// Where in a text secrets are. With `whole` the text is one argument: what begins it as a name and `=` has all the rest as its value.
    fn scan(&mut self, text: &str, whole: bool) -> Vec<Range<usize>> {
        let mut secrets: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while let Some(name) = next_name(text, at) {
            at = name.end;
            let found = self.at_name(text, &name, whole);
            if let Some(found) = found.filter(|found| !is_harmless(&text[found.clone()])) {
                at = found.end.max(at);
                secrets.push(found);
            }
        }
        secrets
    }

    /// The secret that this name, or what is taken for one, speaks of.
    fn at_name(&mut self, text: &str, name: &Range<usize>, whole: bool) -> Option<Range<usize>> {
        let (word, rest) = (&text[name.clone()], &text[name.end..]);
        if let Some(program) = SHORT.iter().find(|(program, ..)| *program == word) {
            self.short = Some((program.1, program.2));
        }
        if rest.starts_with("://") {
            return in_url(text, name.end + 3, matches!(word, "http" | "https"));
        }
        if let Some((option, next)) = self.short
            && let Some(attached) = word.strip_prefix(option)
        {
            if next {
                // What comes behind it may be another program's.
                self.short = None;
            }
            if !attached.is_empty() {
                return Some(name.start + option.len()..value_end(text, name.end, false));
            }
            return if next { self.after(text, name.end) } else { None };
        }
        if word.eq_ignore_ascii_case("bearer") && rest.starts_with(' ') {
            return self.after(text, name.end);
        }
        if is_secret(word) {
            if let Some((begin, colon)) = assigned(text, name) {
                let first = whole && name.start == 0 && !colon;
                // `"NAME=two words"` in a list: it ends with the quote before its name.
                let around = text[..name.start].chars().next_back().filter(|before| "\"'".contains(*before) && !rest.starts_with(*before));
                let end = match around {
                    _ if first => text.len(),
                    Some(quote) => text[begin..].find(quote).map_or(text.len(), |length| begin + length),
                    None => value_end(text, begin, colon),
                };
                let quoted = !first && text[begin..].starts_with(['\'', '"']);
                let begin = begin + usize::from(quoted);
                return Some(begin..end.max(begin));
            }
            return if word.starts_with('-') { self.after(text, name.end) } else { None };
        }
        if is_shaped(word) {
            return Some(name.clone());
        }
        with_password(text, name)
    }

    /// The value after an option: behind blanks, and behind quotes and a comma if they are arguments of a list.
    fn after(&mut self, text: &str, from: usize) -> Option<Range<usize>> {
        let skipped = text[from..].find(|character: char| !" \t\"',".contains(character)).map_or(text.len(), |length| from + length);
        if skipped == text.len() {
            self.follows = true;
            return None;
        }
        let quote = text[from..skipped].chars().next_back().filter(|last| "\"'".contains(*last));
        let end = match quote {
            Some(quote) => text[skipped..].find(quote).map_or(text.len(), |length| skipped + length),
            None => value_end(text, skipped, false),
        };
        (skipped > from && !is_option(&text[skipped..end])).then_some(skipped..end)
    }
}

/// The next run of characters of which names are made.
fn next_name(text: &str, from: usize) -> Option<Range<usize>> {
    let part = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    let start = from + text[from..].find(part)?;
    let end = text[start..].find(|character| !part(character)).map_or(text.len(), |length| start + length);
    Some(start..end)
}

/// Where a value begins if one is given to the name that ends here, and whether it is given by a colon: `NAME=value`, `"name": "value"`.
fn assigned(text: &str, name: &Range<usize>) -> Option<(usize, bool)> {
    let blanks = |from: usize| from + text[from..].len() - text[from..].trim_start_matches([' ', '\t']).len();
    let closed = name.end + usize::from(text[name.end..].starts_with(['"', '\'']));
    let sign = blanks(closed);
    let colon = text[sign..].starts_with(':');
    if !colon && !text[sign..].starts_with('=') {
        return None;
    }
    let begin = blanks(sign + 1);
    // A mount, and no value: `secret:/run/secret:ro`.
    let begins = text[..name.start].chars().next_back().is_none_or(|before| " \t\"'{,;".contains(before));
    (!colon || (begins && !text[begin..].starts_with(['/', ':']))).then_some((begin, colon))
}

/// Where a value ends: with its quote, at a blank, at the next of several (`a=1&b=2`); a header goes on to the end of its quotes.
fn value_end(text: &str, begin: usize, header: bool) -> usize {
    let rest = &text[begin..];
    if let Some(quote) = rest.chars().next().filter(|first| "\"'".contains(*first)) {
        return rest[1..].find(quote).map_or(text.len(), |length| begin + 1 + length);
    }
    let ends = |at: usize, character: char| match character {
        '"' | '\'' => true,
        ' ' | '\t' => !header,
        '&' | ';' | ',' => next_name(rest, at + 1).is_some_and(|name| name.start == at + 1 && rest[name.end..].starts_with('=')),
        _ => false,
    };
    rest.char_indices().find(|(at, character)| ends(*at, *character)).map_or(text.len(), |(at, _)| begin + at)
}

/// The password in a URL whose scheme ends here. Of the web also a name alone: it is a token more often than a name.
fn in_url(text: &str, begin: usize, web: bool) -> Option<Range<usize>> {
    let length = text[begin..].find([' ', '\t', '"', '\'', '<', '>']).unwrap_or(text.len() - begin);
    let url = &text[begin..begin + length];
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(at) = authority.rfind('@') {
        return match authority[..at].find(':') {
            Some(colon) => Some(begin + colon + 1..begin + at),
            None => web.then_some(begin..begin + at),
        };
    }
    // A password with a slash in it that was not written as %2F.
    let colon = authority.find(':')?;
    let is_port = colon + 1 < authority.len() && authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit());
    let at = url.rfind('@')?;
    (!is_port).then_some(begin + colon + 1..begin + at)
}

/// `user:password@host`, as drivers of databases take it.
fn with_password(text: &str, name: &Range<usize>) -> Option<Range<usize>> {
    let rest = text[name.end..].strip_prefix(':')?;
    let length = rest.find(['@', '/', ' ', '\t', '"', '\'']).filter(|length| rest[*length..].starts_with('@'))?;
    // An image with its digest.
    (!rest[length..].starts_with("@sha256:")).then_some(name.end + 1..name.end + 1 + length)
}

fn is_option(text: &str) -> bool {
    let name = text.trim_start_matches('-');
    match text.len() - name.len() {
        0 => false,
        1 => name.len() < 2,
        _ => name.starts_with(|first: char| first.is_ascii_alphabetic()),
    }
}

/// Nothing to hide: no value, a yes or a no, a variable that somebody else puts in.
fn is_harmless(value: &str) -> bool {
    let variable = |name: &str| {
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    matches!(value, "" | "true" | "false" | "yes" | "no" | "none" | "null") || value.strip_prefix('$').is_some_and(variable)
}

/// A token that is known by how it begins, or a JSON web token.
fn is_shaped(word: &str) -> bool {
    let json = word.starts_with("eyJ") && word.len() > 2 * SHAPED && word.matches('.').count() == 2;
    json || (word.len() >= SHAPED && SHAPES.iter().any(|shape| word.starts_with(shape)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_secrets_and_names_that_only_speak_of_them() {
        for name in [
            "password",
            "--db-password",
            "DB_PASSWORD",
            "PGPASSWORD",
            "MYSQL_PWD",
            "dbPassword",
            "-Dspring.datasource.password",
            "API_TOKEN",
            "github-token",
            "AWS_SECRET_ACCESS_KEY",
            "api-key",
            "apiKey",
            "X-Api-Key",
            "REDISCLI_AUTH",
            "Authorization",
            "requirepass",
            "storepass",
            "cookie",
            "private_key",
            "client_secret",
            "jwt",
            "--basic-auth",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "",
            "--",
            "PWD",
            "path",
            "--password-file",
            "PASSWORD_FILE",
            "token-ttl",
            "max-tokens",
            "--no-password",
            "bypass",
            "compass",
            "tokenizer",
            "AWS_ACCESS_KEY_ID",
            "keyboard",
            "--key",
            "author",
            "secretName",
            "passthrough",
            "--enable-auth",
            "monkey",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    /// As arguments of a command: what is shown of them.
    fn shown(arguments: &[&str]) -> String {
        let mut all = Arguments::default();
        arguments.iter().map(|argument| all.shown(argument).into_owned()).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn arguments_are_hidden_and_what_is_around_them_is_not() {
        for (arguments, wanted) in [
            (&["serve", "--password", "hunter2", "--port", "80"][..], "serve | --password | *** | --port | 80"),
            (&["serve", "--password=two words", "x"], "serve | --password=*** | x"),
            (&["serve", "--password", "two words", "x"], "serve | --password | *** | x"),
            (&["serve", "--password", "--verbose"], "serve | --password | --verbose"),
            (&["serve", "--password", "-hunter2"], "serve | --password | ***"),
            (&["serve", "--password-file", "/run/pw"], "serve | --password-file | /run/pw"),
            (&["env", "API_TOKEN=a=b&c", "PORT=80", "app"], "env | API_TOKEN=*** | PORT=80 | app"),
            (&["env", "TOKEN=", "DEBUG=true"], "env | TOKEN= | DEBUG=true"),
            (&["app", "postgres://app:p%40ss@db:5432/shop"], "app | postgres://app:***@db:5432/shop"),
            (&["app", "redis://:x@cache/0", "ssh://git@host/x"], "app | redis://:***@cache/0 | ssh://git@host/x"),
            (&["app", "postgresql+psycopg2://a:b/c@d/e"], "app | postgresql+psycopg2://a:***@d/e"),
            (&["app", "https://0123@errors.example/1", "http://h:80/a@b"], "app | https://***@errors.example/1 | http://h:80/a@b"),
            (&["app", "http://h/x?user=a&token=b&n=1"], "app | http://h/x?user=a&token=***&n=1"),
            (&["app", "app:pw@tcp(db:3306)/shop", "nginx:1@sha256:ab"], "app | app:***@tcp(db:3306)/shop | nginx:1@sha256:ab"),
            (&["app", "host=db password=pw dbname=x"], "app | host=db password=*** dbname=x"),
            (&["app", "Server=db;Password=pw;Timeout=3"], "app | Server=db;Password=***;Timeout=3"),
            (&["curl", "-H", "Authorization: Bearer abc.def", "x"], "curl | -H | Authorization: *** | x"),
            (&["curl", "-u", "me:pw", "-update"], "curl | -u | *** | -update"),
            (&["curl", "-uyou:pw"], "curl | -u***"),
            (&["sh", "-c", "TOKEN=ab exec app --token 'a b' --port 1"], "sh | -c | TOKEN=*** exec app --token '***' --port 1"),
            (&["sh", "-c", "exec app --token \"$TOKEN\" --secret ${S}"], "sh | -c | exec app --token \"$TOKEN\" --secret ${S}"),
            (&["sh", "-lc", "mysql -ppw shop"], "sh | -lc | mysql -p*** shop"),
            (&["/usr/bin/mysqldump", "-ppw", "-p", "shop"], "/usr/bin/mysqldump | -p*** | -p | shop"),
            (&["app", "-p", "8080", "-pfull"], "app | -p | 8080 | -pfull"),
            (&["app", r#"{"user":"a","password":"b c","n":1}"#], r#"app | {"user":"a","password":"***","n":1}"#),
            (&["app", "ghp_0123456789abcdefghij", "sk-short"], "app | *** | sk-short"),
            (&["docker", "-v", "secret:/run/secret:ro"], "docker | -v | secret:/run/secret:ro"),
            (&["llm", "--max-tokens", "4096"], "llm | --max-tokens | 4096"),
            (&["app", "--password"], "app | --password"),
        ] {
            assert_eq!(shown(arguments), wanted, "{arguments:?}");
        }
    }

    #[test]
    fn a_line_keeps_its_columns() {
        let line = "command = [\"app\", \"--password\", \"grün\", \"--url\", \"redis://:x@h\"]";
        let stars = starred(line);
        assert_eq!(stars, "command = [\"app\", \"--password\", \"****\", \"--url\", \"redis://:*@h\"]");
        assert_eq!(starred("command = 'app --token abc'"), "command = 'app --token ***'");
        assert_eq!(starred("[\"DB_PASSWORD=a b\", \"x\"]"), "[\"DB_PASSWORD=***\", \"x\"]");
        assert!(matches!(hidden("python app.py --port 80"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_secret_is_nowhere(secret in "[a-z]{12,20}[0-9]{4}", before in "[ -~]{0,20}", after in "[ -~]{0,20}") {
            // In whatever company: as the value of an option, of a variable, and in a URL.
            let own = [before.as_str(), "--api-key", secret.as_str(), after.as_str()];
            let option = own.map(str::to_owned);
            let variable = [before.clone(), format!("DB_PASSWORD={secret}"), after.clone()];
            let url = [before.clone(), format!("amqp://user:{secret}@host/{}", after.replace(' ', ""))];
            for arguments in [&option[..], &variable[..], &url[..]] {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let shown = shown(&arguments);
                prop_assert!(!shown.contains(&secret), "{}", shown);
            }
        }

        #[test]
        fn any_text_is_taken(text in any::<String>(), arguments in proptest::collection::vec(any::<String>(), 0..6)) {
            let _ = hidden(&text);
            prop_assert_eq!(starred(&text).chars().count(), text.chars().count());
            let mut all = Arguments::default();
            for argument in &arguments {
                let _ = all.shown(argument);
            }
        }
    }
}
