//! From the tree of a document to typed values, every problem noted and none fatal; and the JSON schema of the same types.
//!
//! [`table!`] makes both from one list of keys, so that what is accepted and what the schema says cannot differ.

use crate::node::{Node, Table, Value};
use crate::report::Problems;
use crate::source::Span;
use crate::value::Wrong;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::borrow::Cow;

/// A value that can be read from a tree.
pub(crate) trait Decode: Sized {
    /// The value; `None`: what is wrong with it was noted.
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self>;
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Span,
}

impl<T: Decode> Decode for At<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        T::decode(node, problems).map(|value| Self { value, at: node.at })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Notes that another kind of value is wanted.
pub(crate) fn expected<T>(what: &str, node: &Node, problems: &mut Problems) -> Option<T> {
    if !matches!(node.value, Value::Unknown) {
        problems.add(node.at, format!("expected {what}, this is {}", node.value.kind()));
    }
    None
}

/// Notes what a parser of values found wrong.
pub(crate) fn checked<T>(result: Result<T, Wrong>, node: &Node, problems: &mut Problems) -> Option<T> {
    result.map_err(|wrong| problems.wrong(node.at, wrong)).ok()
}

impl Decode for String {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.contains('\0') => {
                problems.add(node.at, "a NUL character in a text").hint("no command, path or variable can hold one");
                None
            }
            Value::Text(text) => Some(text.clone()),
            _ => expected("a text in quotes", node, problems),
        }
    }
}

impl Decode for bool {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Boolean(value) => Some(*value),
            // From a variable.
            Value::Text(text) if text == "true" || text == "false" => Some(text == "true"),
            _ => expected("true or false", node, problems),
        }
    }
}

/// A whole number within bounds; from a variable also as text.
pub(crate) fn number(node: &Node, bounds: std::ops::RangeInclusive<i64>, problems: &mut Problems) -> Option<i64> {
    let number = match &node.value {
        Value::Integer { value, .. } => *value,
        Value::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => return expected("a whole number", node, problems),
    };
    let inside = number.filter(|number| bounds.contains(number));
    if inside.is_none() {
        problems.add(node.at, "this number is out of bounds").hint(format!("from {} to {}", bounds.start(), bounds.end()));
    }
    inside
}

/// One value, or a list of them.
#[derive(Debug, Clone)]
pub(crate) struct Many<T>(pub(crate) Vec<At<T>>);

impl<T: Decode> Decode for Many<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let before = problems.len();
        let items = match &node.value {
            Value::Array(items) => items.iter().filter_map(|item| At::decode(item, problems)).collect(),
            _ => At::decode(node, problems).into_iter().collect(),
        };
        (problems.len() == before).then_some(Self(items))
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Many_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// A table whose keys are names that the user gives, in the order of the file.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "names are resolved in the tree; here only the shape of all values is looked at")]
pub(crate) struct Named<T>(pub(crate) Vec<(At<String>, At<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Decode> Decode for Named<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Table(table) = &node.value else { return expected("a table", node, problems) };
        let entry = |entry: &crate::node::Entry| {
            let value = At::decode(&entry.node, problems)?;
            Some((At { value: entry.key.clone(), at: entry.key_at }, value))
        };
        Some(Self(table.0.iter().filter_map(entry).collect()))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({ "type": "object", "additionalProperties": one })
    }
}

/// Reads the keys of one table, and notes those that it does not know.
pub(crate) struct Reader<'a> {
    table: &'a Table,
    known: Vec<String>,
    what: &'static str,
    problems: &'a mut Problems,
}

impl<'a> Reader<'a> {
    /// `what`: what the table is, for "there is no such key in ...".
    pub(crate) fn new(node: &'a Node, what: &'static str, problems: &'a mut Problems) -> Option<Self> {
        match &node.value {
            Value::Table(table) => Some(Self { table, known: Vec::new(), what, problems }),
            _ => expected(&format!("a table ({what})"), node, problems),
        }
    }

    /// The value of a field's key, if it is there and right.
    pub(crate) fn take<T: Decode>(&mut self, field: &str) -> Option<At<T>> {
        let key = field.trim_start_matches("r#").replace('_', "-");
        let value = self.table.get(&key).and_then(|entry| At::decode(&entry.node, self.problems));
        self.known.push(key);
        value
    }

    pub(crate) fn finish(self) {
        for entry in self.table.0.iter().filter(|entry| !self.known.contains(&entry.key)) {
            let found = self.problems.add(entry.key_at, format!("there is no such key in {}", self.what));
            found.hint(match suggest(&entry.key, self.known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known keys: {}", self.known.join(", ")),
            });
        }
    }
}

/// The candidate that was probably meant.
pub(crate) fn suggest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The comparison takes time by the product of the lengths.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_lowercase().replace('_', "-");
    let close = candidates.map(|candidate| {
        let other = candidate.to_lowercase();
        // Short words differ much by one letter or by two that changed places.
        let slip = strsim::osa_distance(&text, &other) <= text.len().min(other.len()) / 3;
        (strsim::jaro_winkler(&text, &other) + if slip { 1.0 } else { 0.0 }, candidate)
    });
    let best = close.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

/// A struct whose fields are the keys of a table (`_` stands for `-`), each optional and with its place.
macro_rules! table {
    ($(#[$meta:meta])* $what:literal $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Clone, Default, schemars::JsonSchema)]
        #[schemars(rename_all = "kebab-case", deny_unknown_fields)]
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: Option<$crate::decode::At<$type>>,)*
        }

        impl $crate::decode::Decode for $name {
            fn decode(node: &$crate::node::Node, problems: &mut $crate::report::Problems) -> Option<Self> {
                let mut table = $crate::decode::Reader::new(node, $what, problems)?;
                let value = Self { $($field: table.take(stringify!($field)),)* };
                table.finish();
                Some(value)
            }
        }
    };
}
pub(crate) use table;
