//! What lies beside a binary for those who install it: man pages, completions, the unit for systemd.
//!
//! The binary writes the first two itself. One that this machine cannot execute has those of another target: they say the same.

use std::path::Path;
use std::process::Command;

use crate::setup::workspace;

/// For which shell, and what the file is called where the shell looks for it.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "stayput"), ("zsh", "_stayput"), ("fish", "stayput.fish")];

/// Writes them into `place`; `program` is executed.
pub(super) fn write(program: &Path, place: &Path) -> Result<(), String> {
    let pages = place.join("man/man1");
    std::fs::create_dir_all(&pages).map_err(|error| format!("cannot make {}: {error}", pages.display()))?;
    super::checked(Command::new(program).arg("man").arg(&pages))?;
    if !pages.join("stayput.1").is_file() {
        return Err(format!("{} has written no man page into {}", program.display(), pages.display()));
    }
    for (shell, name) in COMPLETIONS {
        let path = place.join("completions").join(shell).join(name);
        let output = Command::new(program).args(["completions", shell]).output();
        let output = output.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        if !output.status.success() || output.stdout.is_empty() {
            return Err(format!("{} completions {shell} ended with {}", program.display(), output.status));
        }
        put(&path, &output.stdout)?;
    }
    let unit = workspace().join("dist/stayput.service");
    let unit = std::fs::read(&unit).map_err(|error| format!("cannot read {}: {error}", unit.display()))?;
    put(&place.join("systemd/stayput.service"), &unit)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let write = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, bytes)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn program(directory: &Path, does: &str) -> std::path::PathBuf {
        let path = directory.join("program");
        // By another process: one that is forked beside this test while it is open for writing could not execute it.
        let script = format!("printf '#!/bin/sh\\n%s\\n' '{does}' >\"$1\"");
        assert!(Command::new("sh").args(["-c", &script, "sh"]).arg(&path).status().unwrap().success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn pages_completions_and_unit_lie_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("place");
        let program = program(directory.path(), "case $1 in man) echo page >$2/stayput.1;; completions) echo script of $2;; esac");
        write(&program, &place).unwrap();
        let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
        assert_eq!(read("man/man1/stayput.1"), "page\n");
        assert_eq!(read("completions/bash/stayput"), "script of bash\n");
        assert_eq!(read("completions/zsh/_stayput"), "script of zsh\n");
        assert_eq!(read("completions/fish/stayput.fish"), "script of fish\n");
        assert!(read("systemd/stayput.service").contains("[Service]"));
    }

    #[test]
    fn what_writes_nothing_is_not_passed_on() {
        for does in ["exit 1", "true", "test $1 = man && echo page >$2/stayput.1"] {
            let directory = tempfile::tempdir().unwrap();
            assert!(write(&program(directory.path(), does), &directory.path().join("place")).is_err(), "{does}");
        }
    }
}
