//! Brings what can be had into a directory of the bench's own, and says of the rest why not. Nothing is installed into the system: Debian packages are
//! unpacked, cargo and npm install below the directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stayput_testkit::assets;

use crate::setup::workspace;

/// Pinned: a bench must not change under us.
const PM2: &str = "pm2@7.0.4";
const CRATES: [(&str, &str); 3] = [("horust", "0.1.14"), ("systemfd", "0.4.6"), ("servicrab", "1.0.0")];
const DEBIAN: [&str; 3] = ["runit", "s6", "libserver-starter-perl"];
/// Programs of the bench that the peers run.
const PROGRAMS: [&str; 3] = ["peer_server.py", "peer_app.py", "peer_server.js"];

/// What is there.
#[derive(Debug)]
pub(in super::super) struct Tools {
    pub(in super::super) dir: PathBuf,
    /// By the name of what was to be installed: why it is not there.
    pub(in super::super) missing: BTreeMap<String, String>,
}

impl Tools {
    /// Installs what is missing.
    pub(in super::super) fn install() -> Result<Self, String> {
        let dir = assets::dir().join("peers");
        let mut tools = Self { dir, missing: BTreeMap::new() };
        let programs = tools.dir.join("programs");
        std::fs::create_dir_all(&programs).map_err(|error| format!("cannot make {}: {error}", programs.display()))?;
        for program in PROGRAMS {
            let (from, to) = (workspace().join("xtask/programs").join(program), programs.join(program));
            std::fs::copy(&from, &to).map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
        }
        if !tools.dir.join("npm/node_modules/pm2/bin/pm2").exists() {
            let prefix = tools.dir.join("npm").display().to_string();
            let words = ["install", "--prefix", &prefix, "--ignore-scripts", "--no-audit", "--no-fund", PM2];
            tools.tried("pm2", "npm", &words, None);
        }
        for (name, version) in CRATES {
            if !tools.dir.join("cargo/bin").join(name).exists() {
                let (root, build) = (tools.dir.join("cargo").display().to_string(), tools.dir.join("build").display().to_string());
                let words = ["install", "--locked", "-j", "2", "--root", &root, "--target-dir", &build, "--version", version, name];
                tools.tried(name, "cargo", &words, None);
            }
        }
        for package in DEBIAN {
            if !tools.dir.join("debs").join(format!("{package}.done")).exists() {
                tools.debian(package);
            }
        }
        Ok(tools)
    }

    fn tried(&mut self, name: &str, program: &str, words: &[&str], place: Option<&Path>) -> bool {
        println!("+ {program} {}", words.join(" "));
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).current_dir(place.unwrap_or(Path::new(".")));
        let why = match command.status() {
            Ok(status) if status.success() => return true,
            Ok(status) => format!("`{program} {}` ended with {status}", words.first().unwrap_or(&"")),
            Err(error) => format!("{program} cannot be started: {error}"),
        };
        self.missing.insert(name.to_owned(), why);
        false
    }

    /// The package and the libraries of its own that it needs, unpacked.
    fn debian(&mut self, package: &str) {
        let (debs, root) = (self.dir.join("debs"), self.dir.join("root"));
        let _ = std::fs::create_dir_all(&debs).and_then(|()| std::fs::create_dir_all(&root));
        let options =
            ["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"];
        let listed = Command::new("apt-cache").args(options).arg(package).output().map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let own = |name: &str| ["libs6", "libskarnet", "libexecline"].iter().any(|prefix| name.starts_with(prefix));
        let mut wanted = vec![package];
        wanted.extend(listed.lines().filter(|line| !line.starts_with(' ') && own(line)));
        wanted.sort_unstable();
        wanted.dedup();
        let mut words = vec!["download", "-qq"];
        words.extend(&wanted);
        if !self.tried(package, "apt-get", &words, Some(&debs)) {
            return;
        }
        let all = std::fs::read_dir(&debs).into_iter().flatten().flatten().map(|entry| entry.path());
        for deb in all.filter(|path| path.extension().is_some_and(|end| end == "deb")) {
            if !self.tried(package, "dpkg", &["-x", &deb.display().to_string(), &root.display().to_string()], None) {
                return;
            }
        }
        let _ = std::fs::write(debs.join(format!("{package}.done")), "");
    }

    /// A path below the directory, as a word.
    pub(in super::super) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Where the unpacked libraries are.
    pub(in super::super) fn libraries(&self) -> String {
        let lib = self.dir.join("root/usr/lib");
        let found =
            std::fs::read_dir(&lib).into_iter().flatten().flatten().find(|entry| entry.file_name().to_string_lossy().contains("-linux-"));
        found.map_or(lib, |entry| entry.path()).display().to_string()
    }
}
