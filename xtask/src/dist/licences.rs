//! The licences of everything that is in a binary, as plain text: a list, then each text once. From `cargo metadata`, so from what cargo
//! really links for that target; build-time and test dependencies are not in the binary and not in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::setup::workspace;

const FILE: &str = "LICENCES.txt";

/// Writes the list beside the binary.
pub(super) fn write(target: &str, libc: &str, place: &Path) -> Result<(), String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .current_dir(workspace())
        .output()
        .map_err(|error| format!("cannot start cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = linked(&metadata, "stayput").ok_or("cargo metadata has another shape than this program knows")?;
    let text = text(&packages, libc)?;
    std::fs::write(place.join(FILE), text).map_err(|error| format!("cannot write {FILE}: {error}"))?;
    println!("dist: {FILE}: {} packages", packages.len());
    Ok(())
}

/// The packages of others that are linked into `root`, by name and version.
fn linked<'metadata>(metadata: &'metadata Value, root: &str) -> Option<Vec<&'metadata Value>> {
    let mut packages = BTreeMap::new();
    for package in metadata["packages"].as_array()? {
        packages.insert(package["id"].as_str()?, package);
    }
    let mut nodes = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array()? {
        nodes.insert(node["id"].as_str()?, node);
    }
    let mut waiting: Vec<&str> = packages.iter().filter(|(_, package)| package["name"] == root).map(|(id, _)| *id).collect();
    let mut seen: BTreeSet<&str> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        for dependency in nodes.get(id)?["deps"].as_array()? {
            // A kind of null is a normal dependency.
            let is_normal = dependency["dep_kinds"].as_array()?.iter().any(|kind| kind["kind"].is_null());
            let id = dependency["pkg"].as_str()?;
            if is_normal && !is_macro(packages.get(id)?) && seen.insert(id) {
                waiting.push(id);
            }
        }
    }
    let mut all: Vec<&Value> =
        seen.into_iter().filter_map(|id| packages.get(id).copied()).filter(|package| !package["source"].is_null()).collect();
    all.sort_by_key(|package| (package["name"].as_str(), package["version"].as_str()));
    Some(all)
}

/// Procedural macros run while the program is built; they and theirs are not in it.
fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    targets.flat_map(|target| target["kind"].as_array().into_iter().flatten()).any(|kind| kind == "proc-macro")
}

fn text(packages: &[&Value], libc: &str) -> Result<String, String> {
    let mut list = String::from(
        "stayput itself: MIT OR Apache-2.0 (LICENSE-MIT, LICENSE-APACHE).\n\n\
         This binary also contains the following, each under its own licence.\n\n",
    );
    let _ = writeln!(list, "the Rust standard library: MIT OR Apache-2.0, https://github.com/rust-lang/rust\nC library: {libc}");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let name = format!("{} {}", field("name"), field("version"));
        let licence = match field("license") {
            "" => return Err(format!("{name} names no licence")),
            licence => licence,
        };
        let _ = writeln!(list, "{name}: {licence}, {}", field("repository"));
        let Some(source) = Path::new(field("manifest_path")).parent() else { continue };
        for text in licence_texts(source)? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    for (text, names) in texts {
        let _ = write!(list, "\n{}\n{}\n\n{}\n", "-".repeat(80), names.join(", "), text.trim_end());
    }
    Ok(list)
}

/// The texts that a package brings.
fn licence_texts(source: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", source.display());
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(source).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"].iter().any(|start| name.starts_with(start));
        if is_licence && entry.path().is_file() {
            texts.push(String::from_utf8_lossy(&std::fs::read(entry.path()).map_err(failed)?).into_owned());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, kind: &str, source: &Value) -> Value {
        json!({ "id": name, "name": name, "version": "1.0.0", "source": source, "license": "MIT", "targets": [{ "kind": [kind] }] })
    }

    fn dependency(name: &str, kind: &Value) -> Value {
        json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] })
    }

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let (ours, registry) = (json!(null), json!("registry"));
        let metadata = json!({
            "packages": [
                package("stayput", "bin", &ours), package("kernel", "lib", &ours), package("libc", "lib", &registry),
                package("derive", "proc-macro", &registry), package("syn", "lib", &registry), package("proptest", "lib", &registry),
            ],
            "resolve": { "nodes": [
                { "id": "stayput", "deps": [dependency("kernel", &json!(null)), dependency("proptest", &json!("dev"))] },
                { "id": "kernel", "deps": [dependency("libc", &json!(null)), dependency("derive", &json!(null))] },
                { "id": "libc", "deps": [] },
                { "id": "derive", "deps": [dependency("syn", &json!(null))] },
            ] },
        });
        let names: Vec<&Value> = linked(&metadata, "stayput").unwrap().iter().map(|package| &package["name"]).collect();
        assert_eq!(names, ["libc"]);
        assert_eq!(linked(&json!({}), "stayput"), None);
    }
}
