//! A TOML document as a tree in which every key and value knows its place, whichever file it came from.
//!
//! It knows nothing of services: it parses, lays one table over another, and puts variables into texts.

use crate::expand::{self, Scope};
use crate::report::Problems;
use crate::source::Span;
use toml::de::{DeTable, DeValue};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Span,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer {
        /// `None`: it does not fit.
        value: Option<i64>,
        /// 10 unless written with `0x`, `0o` or `0b`.
        radix: u32,
    },
    Float,
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
    /// A text that could not be completed; what is wrong was said.
    Unknown,
}

/// Keys and values in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Span,
    pub(crate) node: Node,
}

impl Value {
    /// What it is, for "expected ..., this is ...".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Unknown => "a text",
            Self::Integer { .. } => "a whole number",
            Self::Float => "a number with a point",
            Self::Boolean(_) => "true or false",
            Self::Datetime => "a date or time",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    pub(crate) fn table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.key == key)?;
        Some(self.0.remove(at))
    }

    /// Lays `over` over it: its keys win. Tables of these keys are laid over each other, everything else is replaced as a whole.
    pub(crate) fn overlay(&mut self, over: &Self, merged: &[&str]) {
        for entry in &over.0 {
            match self.0.iter_mut().find(|own| own.key == entry.key) {
                None => self.0.push(entry.clone()),
                Some(own) => match (&mut own.node.value, &entry.node.value) {
                    (Value::Table(own), Value::Table(over)) if merged.contains(&entry.key.as_str()) => own.overlay(over, &[]),
                    _ => *own = entry.clone(),
                },
            }
        }
    }
}

/// The document in a text, as far as it can be read, and what is wrong with its syntax.
pub(crate) fn parse(text: &str, file: u16, problems: &mut Problems) -> Table {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let at = Span { file, start: span.start as u32, end: span.end as u32 };
        problems.add(at, lower(error.message()));
    }
    table(document.get_ref(), file)
}

/// The parser's messages, in our case.
fn lower(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    (first + characters.as_str()).replace('\n', ", ")
}

fn span(range: std::ops::Range<usize>, file: u16) -> Span {
    Span { file, start: range.start as u32, end: range.end as u32 }
}

fn table(source: &DeTable<'_>, file: u16) -> Table {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        key_at: span(key.span(), file),
        node: node(value, file),
    };
    let mut entries: Vec<Entry> = source.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.key_at);
    Table(entries)
}

fn node(source: &toml::Spanned<DeValue<'_>>, file: u16) -> Node {
    let value = match source.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer { value: i64::from_str_radix(integer.as_str(), integer.radix()).ok(), radix: integer.radix() }
        }
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(item, file)).collect()),
        DeValue::Table(entries) => Value::Table(table(entries, file)),
    };
    Node { at: span(source.span(), file), value }
}

/// Keys whose texts are split into words or given to a shell first; their variables come later, or are the shell's.
const LATER: [&str; 3] = ["command", "exec", "shell"];

/// Puts variables into the texts of a table.
pub(crate) fn expand_table(table: &mut Table, scope: Scope<'_>, problems: &mut Problems) {
    for entry in &mut table.0 {
        let later = LATER.contains(&entry.key.as_str()) && matches!(entry.node.value, Value::Text(_));
        if !later {
            expand_node(&mut entry.node, scope, problems);
        }
    }
}

/// Puts variables into the texts of a value.
pub(crate) fn expand_node(node: &mut Node, scope: Scope<'_>, problems: &mut Problems) {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => match expand::expand(text, scope) {
            Ok(expanded) => *text = expanded,
            Err(wrong) => {
                if let Some(wrong) = wrong {
                    problems.wrong(node.at, wrong);
                }
                node.value = Value::Unknown;
            }
        },
        Value::Array(items) => items.iter_mut().for_each(|item| expand_node(item, scope, problems)),
        Value::Table(table) => expand_table(table, scope, problems),
        _ => {}
    }
}
