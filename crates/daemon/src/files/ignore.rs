//! `.gitignore` and `.ignore`, as gitignore(5) has them: the last rule that matches decides, and a deeper file goes before one above it.

use globset::{GlobBuilder, GlobMatcher};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = [".gitignore", ".ignore"];
/// Longest file that is read.
const LONGEST: u64 = 1 << 20;

/// The rules of all files that were read.
#[derive(Debug, Default)]
pub(super) struct Rules {
    files: BTreeMap<PathBuf, Vec<Rule>>,
}

#[derive(Debug)]
struct Rule {
    glob: GlobMatcher,
    /// What it matches is not ignored.
    keeps: bool,
    directories_only: bool,
}

/// Whether a path is that of a file with rules.
pub(super) fn is_rules(path: &Path) -> bool {
    path.file_name().is_some_and(|name| NAMES.iter().any(|rules| name == *rules))
}

impl Rules {
    /// Those of the directories above, up to the root of the repository; none outside of one.
    pub(super) fn above(directory: &Path) -> Self {
        let mut rules = Self::default();
        let above: Vec<&Path> = directory.ancestors().collect();
        if let Some(root) = above.iter().position(|path| path.join(".git").exists()) {
            above[..=root].iter().for_each(|path| rules.read(path));
        }
        rules
    }

    /// Reads those of this directory.
    pub(super) fn read(&mut self, directory: &Path) {
        if self.files.contains_key(directory) {
            return;
        }
        let mut rules = Vec::new();
        for name in NAMES {
            let path = directory.join(name);
            if std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= LONGEST)
                && let Ok(text) = std::fs::read_to_string(path)
            {
                rules.extend(text.lines().filter_map(parse));
            }
        }
        if !rules.is_empty() {
            self.files.insert(directory.to_owned(), rules);
        }
    }

    /// Whether this path is ignored; the directories that it is in are not asked.
    pub(super) fn ignores(&self, path: &Path, is_directory: bool) -> bool {
        for directory in path.ancestors().skip(1) {
            let Some(rules) = self.files.get(directory) else { continue };
            let Ok(relative) = path.strip_prefix(directory) else { continue };
            let matching = |rule: &&Rule| (is_directory || !rule.directories_only) && rule.glob.is_match(relative);
            if let Some(rule) = rules.iter().rev().find(matching) {
                return !rule.keeps;
            }
        }
        false
    }
}

/// One line; `None`: it is empty, a comment, or no pattern.
fn parse(line: &str) -> Option<Rule> {
    // A space at the end counts only with a backslash before it.
    let line = line.trim_end_matches('\r');
    let trimmed = line.trim_end_matches(' ');
    let line = if trimmed.ends_with('\\') && trimmed.len() < line.len() { &line[..=trimmed.len()] } else { trimmed };
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (keeps, line) = line.strip_prefix('!').map_or((false, line), |line| (true, line));
    let (directories_only, line) = line.strip_suffix('/').map_or((false, line), |line| (true, line));
    // With a slash that is not the last character it is relative to the directory of its file, else it matches on every level.
    let glob = match (line.strip_prefix('/'), line.contains('/')) {
        (Some(anchored), _) => anchored.to_owned(),
        (None, true) => line.to_owned(),
        (None, false) => format!("**/{line}"),
    };
    let glob = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build().ok()?;
    Some(Rule { glob: glob.compile_matcher(), keeps, directories_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let rules = text.lines().filter_map(parse).collect();
        Rules { files: BTreeMap::from([(PathBuf::from("/srv/app"), rules)]) }
    }

    #[test]
    fn rules_are_those_of_git() {
        let rules = rules("# build\n*.log\n!keep.log\n/dist\nbuild/\ndoc/*.txt\n\\#odd\n");
        let file = |path: &str| rules.ignores(&Path::new("/srv/app").join(path), false);
        let directory = |path: &str| rules.ignores(&Path::new("/srv/app").join(path), true);
        assert!(file("a.log") && file("deep/er/a.log") && !file("keep.log") && !file("deep/keep.log"));
        assert!(directory("dist") && file("dist") && !directory("deep/dist"), "anchored");
        assert!(directory("build") && directory("deep/build") && !file("build"), "directories only");
        assert!(file("doc/a.txt") && !file("doc/deep/a.txt") && !file("a.txt"));
        assert!(file("#odd") && !file("# build"));
        assert!(!Rules::default().ignores(Path::new("/srv/app/a.log"), false));
    }
}
