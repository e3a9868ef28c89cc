//! The crates' arrows point one way. A new arrow is a decision: it is made here, with its reason in ARCHITECTURE.md.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Who may use whom, among the crates of this workspace.
const ARROWS: [(&str, &[&str]); 15] = [
    ("stayput-model", &[]),
    ("stayput-kernel", &[]),
    ("stayput-config", &["stayput-model"]),
    ("stayput-wire", &["stayput-model"]),
    ("stayput-logs", &[]),
    ("stayput-dashboard", &["stayput-wire"]),
    ("stayput-keeper", &["stayput-kernel"]),
    ("stayput-ports", &["stayput-model", "stayput-kernel"]),
    (
        "stayput-daemon",
        &["stayput-model", "stayput-config", "stayput-kernel", "stayput-keeper", "stayput-ports", "stayput-wire", "stayput-logs"],
    ),
    (
        "stayput",
        &[
            "stayput-model",
            "stayput-config",
            "stayput-kernel",
            "stayput-keeper",
            "stayput-ports",
            "stayput-config",
            "stayput-wire",
            "stayput-logs",
            "stayput-compare",
            "stayput-daemon",
            "stayput-dashboard",
        ],
    ),
    ("stayput-load", &[]),
    ("stayput-compare", &["stayput-kernel", "stayput-ports", "stayput-load"]),
    ("stayput-testkit", &["stayput-model", "stayput-kernel", "stayput-wire", "stayput-load"]),
    ("stayput-counted", &["stayput-model", "stayput-kernel", "stayput-wire"]),
    ("xtask", &["stayput-testkit", "stayput-logs", "stayput-wire"]),
];

/// Crates that are kept from what they must not do by not having the means.
const BANNED: [(&str, &[&str], &str); 3] = [
    ("stayput-model", &["rustix", "libc", "tokio"], "the model does no I/O"),
    ("stayput-keeper", &["tokio"], "the keeper has one thread and no runtime"),
    ("stayput-wire", &["tokio"], "the client blocks"),
];

/// Direct dependencies of each workspace member, without those for tests and builds.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let used = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap();
        dependencies.iter().filter(|dependency| dependency["kind"].is_null()).map(name).collect()
    };
    packages.iter().map(|package| (name(package), used(package))).collect()
}

#[test]
fn arrows_point_one_way() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, listed, "a crate was added or removed: say here what it may use");
    for (name, allowed) in ARROWS {
        for used in dependencies[name].iter().filter(|used| ours.contains(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} uses {used}: this arrow is not in ARCHITECTURE.md");
        }
    }
}

/// Lines like "| `libc` | why | `kernel` |". Who has nobody in the last column is there for tests alone.
#[test]
fn every_dependency_has_its_reason_and_its_users() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, table) = text.split_once("## Dependencies").unwrap();
    let names = |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let line = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix('|')?.split('|').collect();
        let [name, _, users] = cells[..] else { return None };
        Some((name.split('`').next()?.to_owned(), names(users)))
    };
    let listed: BTreeMap<String, BTreeSet<String>> = table.lines().filter_map(line).collect();
    assert!(listed.len() > 20, "the search for the table is broken: {listed:?}");
    let dependencies = dependencies();
    let mut used = BTreeMap::<&str, BTreeSet<String>>::new();
    for (member, needed) in &dependencies {
        let member = if member == "stayput" { "cli" } else { member.trim_start_matches("stayput-") };
        for name in needed.iter().filter(|name| !dependencies.contains_key(*name)) {
            used.entry(name).or_default().insert(member.to_owned());
        }
    }
    for (name, users) in &used {
        assert_eq!(listed.get(*name), Some(users), "{name}: ARCHITECTURE.md says who uses it, and why");
    }
    for (name, users) in &listed {
        assert!(users.is_empty() || used.contains_key(name.as_str()), "{name} is in ARCHITECTURE.md, and nobody uses it");
    }
}

#[test]
fn the_list_itself_has_no_circle() {
    let mut settled = BTreeSet::new();
    while settled.len() < ARROWS.len() {
        let next: Vec<&str> = ARROWS
            .iter()
            .filter(|(name, allowed)| !settled.contains(name) && allowed.iter().all(|used| settled.contains(used)))
            .map(|(name, _)| *name)
            .collect();
        assert!(!next.is_empty(), "a circle among the crates that are not in {settled:?}");
        settled.extend(next);
    }
}

#[test]
fn each_crate_stays_in_its_room() {
    let dependencies = dependencies();
    for (name, banned, why) in BANNED {
        for dependency in banned {
            assert!(!dependencies[name].contains(*dependency), "{name} uses {dependency}: {why}");
        }
    }
}

/// `unsafe_code = "deny"` is a lint of the workspace; a crate has either the workspace's lints or its own.
#[test]
fn the_kernel_crate_alone_has_lints_of_its_own() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (member, _) in ARROWS {
        let directory = match member {
            "stayput" => root.join("crates/cli"),
            "xtask" => root.join("xtask"),
            member => root.join("crates").join(member.trim_start_matches("stayput-")),
        };
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        assert_eq!(manifest.contains("[lints]\nworkspace = true"), member != "stayput-kernel", "{member}");
    }
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"deny\""));
}

#[test]
fn the_files_that_the_documents_name_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut named = 0;
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "docs/LIMITS.md", "docs/promises.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let paths = text.split('`').skip(1).step_by(2).filter(|code| {
            code.contains('/') && !code.contains(' ') && std::path::Path::new(code).extension().is_some_and(|kind| kind == "rs")
        });
        for path in paths {
            assert!(root.join(path).exists() || root.join("crates").join(path).exists(), "{document} names {path}");
            named += 1;
        }
    }
    assert!(named > 10, "the search for paths is broken: {named}");
}
