//! The kinds of values that keys of `stayput.toml` take, each with its parser and its schema.

use crate::decode::{At, Decode, checked, expected, number};
use crate::file;
use crate::node::{Node, Value};
use crate::report::Problems;
use crate::value::{self, Wrong};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

/// The schema of a kind, inline.
macro_rules! schema {
    ($name:ident, |$generator:ident| $schema:expr) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A kind that is written as a text and parsed by a function of `value`.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident($type:ty) = $parse:expr, $schema:tt) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name(pub(crate) $type);

        impl Decode for $name {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let text = String::decode(node, problems)?;
                checked($parse(&text), node, problems).map(Self)
            }
        }

        schema!($name, |_generator| json_schema!($schema));
    };
}

/// A kind that is a whole number within bounds.
macro_rules! whole {
    ($(#[$doc:meta])* $name:ident = $least:literal..=$most:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name(pub(crate) u32);

        impl Decode for $name {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                number(node, $least..=$most, problems).map(|number| Self(number as u32))
            }
        }

        schema!($name, |_generator| json_schema!({ "type": "integer", "minimum": $least, "maximum": $most }));
    };
}

#[expect(clippy::unnecessary_wraps, reason = "it is one parser among many")]
fn any(text: &str) -> Result<String, Wrong> {
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, Wrong> {
    value::name(text).map(|()| text.to_owned())
}

fn glob(text: &str) -> Result<String, Wrong> {
    let wrong = |message: String| Wrong::new(message, "write it like src/**/*.py, relative to the working directory");
    if text.is_empty() {
        return Err(wrong("an empty glob".to_owned()));
    }
    // The message of the error repeats the glob; that of its kind does not.
    globset::Glob::new(text).map(|_| text.to_owned()).map_err(|error| wrong(format!("not a glob: {}", error.kind())))
}

fn env_file(text: &str) -> Result<String, Wrong> {
    if text.is_empty() { Err(Wrong::new("an empty path", "name the file, like \".env\"")) } else { Ok(text.to_owned()) }
}

const NAME: &str = "^[A-Za-z0-9_@][A-Za-z0-9_.@-]{0,63}$";
const TIME: &str = "^(0|([0-9]+(ms|s|m|min|h|d))+)$|\\$\\{";

text!(/// A name.
    Name(String) = name, { "type": "string", "pattern": NAME });
text!(/// A time.
    Time(Duration) = value::duration, { "type": "string", "pattern": TIME, "examples": ["30s", "500ms", "1m30s"] });
text!(/// A stop signal.
    Signal(i32) = value::signal, { "type": "string", "examples": ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL"] });
text!(/// A path and query for HTTP.
    WebPath(String) = value::http_path, { "type": "string", "pattern": "^/|\\$\\{", "examples": ["/health"] });
text!(/// A `Host` header.
    WebHost(String) = value::http_host, { "type": "string" });
text!(/// A regular expression.
    Regex(String) = value::expression, { "type": "string", "format": "regex" });
text!(/// A cron expression.
    Schedule(String) = value::cron, { "type": "string", "examples": ["0 3 * * *", "*/5 * * * *", "@daily"] });
text!(/// A share of a core.
    Percent(u32) = value::percent, { "type": "string", "pattern": "^[0-9]+%$|\\$\\{", "examples": ["50%", "200%"] });
text!(/// A glob.
    Glob(String) = glob, { "type": "string", "examples": ["src/**/*.py"] });
text!(/// The path of a file with variables.
    #[expect(dead_code, reason = "it is read in the tree, before this")]
    EnvFile(String) = env_file, { "type": "string", "examples": [".env"] });
text!(/// A command line for a shell.
    Shell(String) = any, { "type": "string" });

whole!(/// Copies of a service.
    Replicas = 1..=256);
whole!(/// A count of starts or failures.
    Starts = 1..=1_000_000);
whole!(/// Processes and threads.
    Tasks = 1..=4_194_304);
whole!(/// A port.
    PortNumber = 1..=65_535);

/// A size in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl Decode for Size {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) => checked(value::size(text), node, problems).map(Self),
            Value::Integer { .. } => number(node, 0..=i64::MAX >> 3, problems).map(|bytes| Self(bytes as u64)),
            _ => expected("a size like \"512M\" or a number of bytes", node, problems),
        }
    }
}

schema!(Size, |_generator| json_schema!({
    "anyOf": [{ "type": "string", "pattern": "^[0-9]+([KMGT](iB)?)?$|\\$\\{", "examples": ["512M", "2G"] }, { "type": "integer", "minimum": 0 }]
}));

/// A command that is not yet split.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// To be split into words; its variables are not yet put in.
    Text(String),
    /// Words.
    Words(Vec<String>),
}

impl Decode for Command {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(_) => String::decode(node, problems).map(Self::Text),
            Value::Array(items) => {
                let words: Vec<String> = items.iter().filter_map(|item| String::decode(item, problems)).collect();
                if items.is_empty() {
                    problems.add(node.at, "an empty command").hint("its first word is the program");
                }
                (words.len() == items.len() && !words.is_empty()).then_some(Self::Words(words))
            }
            _ => expected("a text or a list of texts", node, problems),
        }
    }
}

schema!(Command, |_generator| json_schema!({
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
    "examples": ["python app.py", ["python", "app.py"]]
}));

/// Variables in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(pub(crate) Vec<(String, String)>);

impl Decode for Variables {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Table(table) = &node.value else { return expected("a table of variables", node, problems) };
        let mut variables = Vec::new();
        for entry in &table.0 {
            if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
                problems.add(entry.key_at, "this cannot be the name of a variable").hint("a name is not empty and holds no =");
            }
            let value = match &entry.node.value {
                Value::Integer { value: Some(value), .. } => Some(value.to_string()),
                Value::Boolean(value) => Some(value.to_string()),
                Value::Float => {
                    problems.add(entry.node.at, "a number with a point can be written in many ways").hint("write it in quotes");
                    None
                }
                Value::Text(_) | Value::Unknown => String::decode(&entry.node, problems),
                _ => expected("a text, a whole number, true or false", &entry.node, problems),
            };
            variables.extend(value.map(|value| (entry.key.clone(), value)));
        }
        Some(Self(variables))
    }
}

schema!(Variables, |_generator| json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "integer", "boolean"] } }));

/// An address to listen on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl Decode for Listen {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let address = match &node.value {
            Value::Text(text) => value::port(text),
            Value::Integer { value, .. } => {
                value::port_number(value.unwrap_or(i64::MAX)).map(|port| SocketAddr::from(([0, 0, 0, 0], port)))
            }
            _ => return expected("a port like 8000 or \"127.0.0.1:8000\"", node, problems),
        };
        checked(address, node, problems).map(Self)
    }
}

schema!(Listen, |_generator| json_schema!({
    "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string", "examples": ["127.0.0.1:8000", "[::1]:8000"] }]
}));

/// When a service is ready.
#[derive(Debug, Clone)]
pub(crate) enum ReadyForm {
    Word(stayput_model::config::Readiness),
    Table(file::Ready),
}

impl Decode for ReadyForm {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) => checked(value::readiness(text), node, problems).map(Self::Word),
            Value::Table(_) => file::Ready::decode(node, problems).map(Self::Table),
            _ => expected("\"accept\", \"notify\" or a table like { http = \"/health\" }", node, problems),
        }
    }
}

schema!(ReadyForm, |generator| {
    let table = generator.subschema_for::<file::Ready>();
    json_schema!({ "anyOf": [{ "type": "string", "pattern": "^(accept|notify|http:.+|log:.+)$", "examples": ["accept", "notify", "http:/health"] }, table] })
});

/// How a service is stopped.
#[derive(Debug, Clone)]
pub(crate) enum StopForm {
    Signal(i32),
    Table(file::Stop),
    Steps(Vec<At<file::StopStep>>),
}

impl Decode for StopForm {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) => checked(value::signal(text), node, problems).map(Self::Signal),
            Value::Table(_) => file::Stop::decode(node, problems).map(Self::Table),
            Value::Array(items) => {
                if items.is_empty() || items.len() > 8 {
                    problems
                        .add(node.at, "a stop has one to eight steps")
                        .hint("[{ signal = \"INT\", wait = \"5s\" }, { signal = \"TERM\", wait = \"5s\" }]");
                    return None;
                }
                Some(Self::Steps(items.iter().filter_map(|item| At::decode(item, problems)).collect()))
            }
            _ => expected("a signal, a table like { signal = \"TERM\", grace = \"10s\" } or a list of steps", node, problems),
        }
    }
}

schema!(StopForm, |generator| {
    let signal = generator.subschema_for::<Signal>();
    let table = generator.subschema_for::<file::Stop>();
    let step = generator.subschema_for::<file::StopStep>();
    json_schema!({ "anyOf": [signal, table, { "type": "array", "items": step, "minItems": 1, "maxItems": 8 }] })
});

/// A kind that is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident($type:ty) { $($word:literal => $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name(pub(crate) $type);

        impl $name {
            const WORDS: &[&str] = &[$($word),*];
        }

        impl Decode for $name {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let text = String::decode(node, problems)?;
                match text.as_str() {
                    $($word => Some(Self($value)),)*
                    _ => {
                        let near = crate::decode::suggest(&text, Self::WORDS.iter().copied());
                        let hint = match near {
                            Some(near) => format!("did you mean \"{near}\"?"),
                            None => format!("one of \"{}\"", Self::WORDS.join("\", \"")),
                        };
                        problems.add(node.at, "there is no such word here").hint(hint);
                        None
                    }
                }
            }
        }

        schema!($name, |_generator| json_schema!({ "enum": $name::WORDS }));
    };
}

words!(/// When a service is started again.
PolicyWord(stayput_model::config::RestartPolicy) {
    "always" => stayput_model::config::RestartPolicy::Always,
    "on-failure" => stayput_model::config::RestartPolicy::OnFailure,
    "never" => stayput_model::config::RestartPolicy::Never,
});
words!(/// Whether it has an end.
KindWord(bool) {
    "service" => false,
    "task" => true,
});
words!(/// How far another service must be.
WhenWord(stayput_model::config::When) {
    "started" => stayput_model::config::When::Started,
    "ready" => stayput_model::config::When::Ready,
    "completed" => stayput_model::config::When::Completed,
});

/// What happens when a service ends by itself.
#[derive(Debug, Clone)]
pub(crate) enum RestartForm {
    Word(stayput_model::config::RestartPolicy),
    Table(file::Restart),
}

impl Decode for RestartForm {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Table(_) => file::Restart::decode(node, problems).map(Self::Table),
            Value::Text(_) | Value::Unknown => PolicyWord::decode(node, problems).map(|word| Self::Word(word.0)),
            _ => expected("\"always\", \"on-failure\", \"never\" or a table", node, problems),
        }
    }
}

schema!(RestartForm, |generator| {
    let table = generator.subschema_for::<file::Restart>();
    json_schema!({ "anyOf": [{ "enum": PolicyWord::WORDS }, table] })
});

/// Services with how far they must be; `None`: ready, or completed if it is a task.
#[derive(Debug, Clone)]
pub(crate) struct AfterList(pub(crate) Vec<(At<String>, Option<At<WhenWord>>)>);

impl Decode for AfterList {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let before = problems.len();
        let list = match &node.value {
            Value::Table(table) => table
                .0
                .iter()
                .filter_map(|entry| Some((At { value: entry.key.clone(), at: entry.key_at }, Some(At::decode(&entry.node, problems)?))))
                .collect(),
            Value::Array(items) => items.iter().filter_map(|item| Some((At::decode(item, problems)?, None))).collect(),
            Value::Text(_) | Value::Unknown => At::decode(node, problems).into_iter().map(|name| (name, None)).collect(),
            _ => return expected("the names of services like [\"db\"], or a table like { db = \"started\" }", node, problems),
        };
        (problems.len() == before).then_some(Self(list))
    }
}

schema!(AfterList, |_generator| json_schema!({
    "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" } },
        { "type": "object", "additionalProperties": { "enum": WhenWord::WORDS } }
    ],
    "examples": [["db"], { "db": "started", "migrate": "completed" }]
}));

/// A user or a group.
#[derive(Debug, Clone)]
pub(crate) enum User {
    Number(u32),
    Text(String),
}

impl Decode for User {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            // u32::MAX is "no user" for setresuid(2).
            Value::Integer { .. } => number(node, 0..=i64::from(u32::MAX) - 1, problems).map(|number| Self::Number(number as u32)),
            Value::Text(_) | Value::Unknown => String::decode(node, problems).map(Self::Text),
            _ => expected("a name like \"www-data\", or a number", node, problems),
        }
    }
}

schema!(
    User,
    |_generator| json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }], "examples": ["www-data", 33] })
);

/// A mode mask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask(pub(crate) u32);

impl Decode for Mask {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) => checked(value::umask(text), node, problems).map(Self),
            Value::Integer { value: Some(mask @ 0..=0o777), radix: 8 } => Some(Self(*mask as u32)),
            Value::Integer { value: Some(0), .. } => Some(Self(0)),
            Value::Integer { .. } => {
                problems.add(node.at, "a mask is read in octal, and this is a decimal number").hint("write it like \"022\" or 0o022");
                None
            }
            _ => expected("a mask like \"022\"", node, problems),
        }
    }
}

schema!(
    Mask,
    |_generator| json_schema!({ "anyOf": [{ "type": "string", "pattern": "^(0o)?[0-7]{1,4}$|\\$\\{" }, { "type": "integer" }], "examples": ["022", "0077"] })
);

/// A resource limit, soft and hard; [`u64::MAX`] is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Decode for Limit {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let one = |text: &str| if text == "unlimited" { Ok(u64::MAX) } else { value::size(text) };
        let pair = match &node.value {
            Value::Integer { .. } => number(node, 0..=i64::MAX >> 3, problems).map(|limit| (limit as u64, limit as u64)),
            Value::Text(text) => {
                let (soft, hard) = text.split_once(':').unwrap_or((text, text));
                let pair = one(soft).and_then(|soft| Ok((soft, one(hard)?)));
                checked(
                    pair.map_err(|_| Wrong::new("not a limit", "a number, a size like \"8M\", \"unlimited\", or \"soft:hard\"")),
                    node,
                    problems,
                )
            }
            _ => expected("a number, a size like \"8M\", \"unlimited\" or \"soft:hard\"", node, problems),
        };
        let (soft, hard) = pair?;
        if soft > hard {
            problems.add(node.at, "the soft limit is above the hard one").hint("the lower one stands first: \"1024:4096\"");
            return None;
        }
        Some(Self { soft, hard })
    }
}

schema!(Limit, |_generator| json_schema!({
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }], "examples": [65536, "1024:65536", "unlimited", "8M"]
}));

/// What is watched.
#[derive(Debug, Clone)]
pub(crate) enum WatchForm {
    Globs(crate::decode::Many<Glob>),
    Table(file::Watch),
}

impl Decode for WatchForm {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Table(_) => file::Watch::decode(node, problems).map(Self::Table),
            _ => crate::decode::Many::decode(node, problems).map(Self::Globs),
        }
    }
}

schema!(WatchForm, |generator| {
    let globs = generator.subschema_for::<crate::decode::Many<Glob>>();
    let table = generator.subschema_for::<file::Watch>();
    json_schema!({ "anyOf": [globs, table] })
});

/// The dashboard: a table, or false.
#[derive(Debug, Clone)]
pub(crate) enum DashboardForm {
    Switch(bool),
    Table(file::Dashboard),
}

impl Decode for DashboardForm {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Boolean(on) => Some(Self::Switch(*on)),
            Value::Table(_) => file::Dashboard::decode(node, problems).map(Self::Table),
            _ => expected("a table, true or false", node, problems),
        }
    }
}

schema!(DashboardForm, |generator| {
    let table = generator.subschema_for::<file::Dashboard>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, table] })
});

/// Where the dashboard listens; `None`: nowhere.
#[derive(Debug, Clone)]
pub(crate) struct DashboardListen(pub(crate) Option<Vec<SocketAddr>>);

/// The loopback addresses with this port.
pub(crate) fn loopback(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))]
}

impl Decode for DashboardListen {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let items = match &node.value {
            Value::Boolean(false) => return Some(Self(None)),
            Value::Boolean(true) => return expected("an address, a port or false", node, problems),
            Value::Array(items) if items.is_empty() => {
                problems.add(node.at, "an empty list").hint("false is no dashboard");
                return None;
            }
            Value::Array(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut addresses = Vec::new();
        for item in items {
            let Listen(address) = Listen::decode(item, problems)?;
            // A bare port: everybody in the network is not meant.
            let bare = match &item.value {
                Value::Text(text) => !text.contains(':'),
                _ => true,
            };
            if bare {
                addresses.extend(loopback(address.port()));
            } else {
                addresses.push(address);
            }
        }
        Some(Self(Some(addresses)))
    }
}

schema!(DashboardListen, |generator| {
    let one = generator.subschema_for::<Listen>();
    json_schema!({ "anyOf": [{ "const": false }, one, { "type": "array", "items": one, "minItems": 1 }] })
});
