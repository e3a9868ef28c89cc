//! The figures of each measurement: one file of docs/bench/ each, from which docs/BENCHMARKS.md is made.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::setup::workspace;

fn path(name: &str) -> PathBuf {
    workspace().join("docs/bench").join(name).with_extension("json")
}

/// Those that were measured last. `None`: none were, or those that are there are of another form.
pub(super) fn load<F: DeserializeOwned>(name: &str) -> Option<F> {
    serde_json::from_str(&std::fs::read_to_string(path(name)).ok()?).ok()
}

/// Writes them, in the place of those of before.
///
/// # Errors
/// The path, and why it cannot be written.
pub(super) fn save(name: &str, figures: &impl Serialize) -> Result<(), String> {
    let path = path(name);
    let text = serde_json::to_string_pretty(figures).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| std::fs::write(&path, text + "\n"))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}
