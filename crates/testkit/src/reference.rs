//! The pages of the documentation that are made from the program itself: its commands from their `--help`, its configuration from its schema. So they
//! cannot say what is not so; `cargo xtask docs` writes them, and a test compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The pages, each by its path in the directory of the documentation.
///
/// # Errors
/// The program cannot be executed, or says something that is not understood here.
pub fn pages(stayput: &Path) -> Result<[(&'static str, String); 2], String> {
    let schema = serde_json::from_str(&say(stayput, &["schema"])?).map_err(|error| format!("stayput schema: {error}"))?;
    Ok([("reference/commands.md", commands(stayput)?), ("reference/config.md", config(&schema)?)])
}

/// The names of all commands, in the order of `stayput --help`.
///
/// # Errors
/// As [`pages`].
pub fn names(stayput: &Path) -> Result<Vec<String>, String> {
    let help = help(stayput, &[])?;
    let list = help.split_once("Commands:\n").map(|(_, rest)| rest).ok_or("--help has no list of commands")?;
    let words = list.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    Ok(words.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect())
}

/// What `stayput COMMAND --help` says, 100 columns wide.
///
/// # Errors
/// As [`pages`].
pub fn help(stayput: &Path, command: &[&str]) -> Result<String, String> {
    say(stayput, &[command, &["--help"]].concat())
}

fn say(stayput: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(stayput);
    // Without a terminal clap takes the width from here.
    command.args(arguments).env("COLUMNS", "100").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", stayput.display()))?;
    if !output.status.success() {
        return Err(format!("stayput {}: {}: {}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

fn commands(stayput: &Path) -> Result<String, String> {
    let mut page =
        "# Commands\n\nMade from the program's own help by `cargo xtask docs`. The same stands in `stayput COMMAND --help`.\n".to_owned();
    for name in names(stayput)? {
        let help = help(stayput, &[&name])?;
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    }
    Ok(page)
}

/// A table of the file: its name in the schema, and where it stands.
const TABLES: [(&str, &str); 12] = [
    ("Service", "[service.NAME], [template.NAME]"),
    ("Ready", "ready"),
    ("Stop", "stop"),
    ("StopStep", "a step of stop"),
    ("Restart", "restart"),
    ("Health", "health"),
    ("Limits", "limits"),
    ("Watch", "watch"),
    ("ServiceLogs", "logs of a service"),
    ("Logs", "[logs]"),
    ("Dashboard", "[dashboard]"),
    ("Profile", "[profile.NAME]"),
];

fn title(name: &str) -> &str {
    TABLES.iter().find(|(known, _)| *known == name).map_or(name, |(_, title)| title)
}

fn config(schema: &Value) -> Result<String, String> {
    let mut page = "# stayput.toml\n\nMade from the schema of the program by `cargo xtask docs`; `stayput schema` prints that schema for editors. Every key may be left out, \
                    but a service needs `command` or `shell`. Times are written like `500ms`, `30s`, `1m30s`; sizes like `512M`. `${NAME}` and \
                    `${NAME:-default}` stand for variables of the environment. A key that is not here is an error, shown with its line; so is one that this \
                    release knows and does not carry out yet.\n\n## The file\n"
        .to_owned();
    table(&mut page, schema)?;
    let defined = schema["$defs"].as_object().ok_or("the schema has no $defs")?;
    let known = TABLES.iter().map(|(name, _)| *name).filter(|name| defined.contains_key(*name));
    let others = defined.keys().map(String::as_str).filter(|name| !TABLES.iter().any(|(known, _)| known == name));
    for name in known.chain(others) {
        let definition = &defined[name];
        let _ = write!(page, "\n## {}\n", title(name));
        if let Some(description) = definition["description"].as_str() {
            let _ = write!(page, "\n{}\n", description.replace('\n', " "));
        }
        if definition["properties"].is_object() {
            table(&mut page, definition)?;
        } else {
            let _ = write!(page, "\n{}\n", kind(definition));
        }
    }
    Ok(page)
}

fn table(page: &mut String, definition: &Value) -> Result<(), String> {
    let keys = definition["properties"].as_object().ok_or("a table of the schema has no properties")?;
    page.push_str("\n| Key | Value | Meaning |\n|---|---|---|\n");
    // By name, whatever the order of the document's map is.
    for (key, value) in keys.iter().collect::<BTreeMap<_, _>>() {
        let meaning = value["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let mut examples: Vec<&Value> = Vec::new();
        collect_examples(value, &mut examples);
        let examples =
            examples.iter().map(|example| format!("`{}`", toml_text(example).replace('|', "\\|"))).collect::<Vec<_>>().join(", ");
        let example = if examples.is_empty() { examples } else { format!(" Like {examples}.") };
        let _ = writeln!(page, "| `{key}` | {} | {meaning}{example} |", kind(value).replace('|', "\\|"));
    }
    Ok(())
}

/// At most three of them, each once: the key's own, or else those of its forms. A time and a size are explained at the top.
fn collect_examples<'schema>(value: &'schema Value, found: &mut Vec<&'schema Value>) {
    if is_time(value) {
        return;
    }
    for example in value["examples"].as_array().into_iter().flatten() {
        if found.len() < 3 && !found.contains(&example) {
            found.push(example);
        }
    }
    if found.is_empty() {
        let forms = value["anyOf"].as_array().into_iter().flatten().chain(value.get("items"));
        forms.for_each(|form| collect_examples(form, found));
    }
}

fn is_time(value: &Value) -> bool {
    value["pattern"].as_str().is_some_and(|pattern| pattern.contains("(ms|s|m|min|h|d)"))
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Object(pairs) => {
            let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} = {}", toml_text(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// What may stand behind the key, in words.
fn kind(value: &Value) -> String {
    if let Some(name) = value["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let title = title(name);
        let keep = title.to_lowercase();
        let anchor: String =
            keep.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect();
        return format!("[table](#{anchor})");
    }
    if let Some(forms) = value["anyOf"].as_array() {
        let mut all: Vec<String> = Vec::new();
        for form in forms.iter().map(kind).flat_map(|form| form.split(", or ").map(str::to_owned).collect::<Vec<_>>()) {
            if !all.contains(&form) {
                all.push(form);
            }
        }
        return all.join(", or ");
    }
    if let Some(only) = value.get("const") {
        return format!("`{only}`");
    }
    if let Some(words) = value["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", or ");
    }
    if let Some(types) = value["type"].as_array() {
        return types.iter().filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(", or ");
    }
    match value["type"].as_str() {
        Some("array") => format!("list of: {}", kind(&value["items"]).replace(", or ", " / ")),
        Some("object") if value["additionalProperties"].is_object() => {
            format!("table: name = {}", kind(&value["additionalProperties"]).replace(", or ", " / "))
        }
        Some("string") if is_time(value) => "time".to_owned(),
        Some(kind) => word(kind),
        None => "any".to_owned(),
    }
}

fn word(kind: &str) -> String {
    match kind {
        "string" => "text",
        "integer" => "number",
        "boolean" => "`true`, or `false`",
        "object" => "table",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn forms_are_said_in_words() {
        let time = json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|min|h|d))+$", "examples": ["1s"] });
        assert_eq!(kind(&time), "time");
        let port = json!({ "anyOf": [{ "type": "integer" }, { "type": "string", "examples": ["[::1]:1"] }] });
        let many = json!({ "anyOf": [port, { "type": "array", "items": port }] });
        assert_eq!(kind(&many), "number, or text, or list of: number / text");
        assert_eq!(kind(&json!({ "anyOf": [{ "const": false }, { "$ref": "#/$defs/StopStep" }] })), "`false`, or [table](#a-step-of-stop)");
        let mut found = Vec::new();
        collect_examples(&many, &mut found);
        assert_eq!(found, [&json!("[::1]:1")]);
        assert_eq!(toml_text(&json!({ "db": "ready" })), "{ db = \"ready\" }");
    }
}
