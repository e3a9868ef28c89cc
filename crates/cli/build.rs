//! Tells the program which commit and target it was built for: `stayput --version`. Without git, or outside of our own repository (a source
//! tarball, also one that was unpacked into another repository), the commit is "unknown".

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let commit = commit(&root).unwrap_or_else(|| "unknown".to_owned());
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let linked = if features.split(',').any(|feature| feature == "crt-static") { ", static" } else { "" };
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=STAYPUT_VERSION={version} (commit {commit}, {target}{linked})");
}

fn commit(root: &Path) -> Option<String> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // Again whenever the commit or the sources change; a path that does not exist would mean: always.
    let head = git(root, &["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    let named = ["HEAD", head.as_str(), "packed-refs"].into_iter().filter(|name| !name.is_empty());
    let files = named.filter_map(|name| git(root, &["rev-parse", "--git-path", name])).map(|path| root.join(path));
    for path in files.chain(["Cargo.toml", "Cargo.lock", "crates"].map(|path| root.join(path))).filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(root, &["status", "--porcelain", "--untracked-files=no", "--", "Cargo.toml", "Cargo.lock", "crates"])?.is_empty();
    Some(if changed { format!("{commit} with changes") } else { commit })
}

/// What git says; `None` if it fails or is not there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
