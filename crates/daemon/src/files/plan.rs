//! Which directories are watched for which globs: those in which a file may match, without those that are ignored. The disk is read and nothing else
//! is done.

use super::ignore::Rules;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Most directories of a service; a mistake such as watching `/` must not take all watches of the user.
pub(super) const MOST: usize = 50_000;
/// Never watched: what version control, package managers and interpreters write by themselves.
const NEVER: [&str; 6] = [".git", ".hg", ".svn", "node_modules", "__pycache__", ".stayput"];

/// The globs of a service, relative to its directory.
#[derive(Debug)]
pub(super) struct Globs {
    pub(super) root: PathBuf,
    set: GlobSet,
    ignored: GlobSet,
    /// Where each begins, and how many levels below there are files that may match; `None`: any.
    bases: Vec<(PathBuf, Option<usize>)>,
}

impl Globs {
    /// Globs that do not parse were refused with the configuration.
    pub(super) fn new(root: PathBuf, files: &[String], ignore: &[String]) -> Self {
        let bases = files.iter().map(|glob| base(&root, glob)).collect();
        Self { set: set(files), ignored: set(ignore), root, bases }
    }

    /// Whether a file is one of those, by its path alone.
    pub(super) fn is_watched(&self, path: &Path) -> bool {
        let relative = relative(&self.root, path);
        self.set.is_match(&relative) && !self.ignored.is_match(&relative) && !is_scratch(path)
    }

    fn skips(&self, directory: &Path) -> bool {
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `tmp/**` says that nothing below is of interest.
        let below = relative(&self.root, &directory.join("x"));
        NEVER.contains(&name) || self.ignored.is_match(relative(&self.root, directory)) || self.ignored.is_match(below)
    }
}

fn set(globs: &[String]) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        let glob = glob.strip_prefix("./").unwrap_or(glob);
        if let Ok(glob) = GlobBuilder::new(glob).literal_separator(true).build() {
            builder.add(glob);
        }
    }
    builder.build().unwrap_or_else(|_| GlobSet::empty())
}

/// The path as globs see it: relative to the root, or with `..` in front, or as it is.
fn relative(root: &Path, path: &Path) -> PathBuf {
    let mut up = PathBuf::new();
    for ancestor in root.ancestors() {
        if let Ok(rest) = path.strip_prefix(ancestor) {
            // Of absolute globs and of what is far away only the path itself can match.
            return if ancestor == Path::new("/") && root != Path::new("/") { path.to_owned() } else { up.join(rest) };
        }
        up.push("..");
    }
    path.to_owned()
}

/// What editors leave beside a file while it is written.
fn is_scratch(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let ends = |suffix: &[u8]| name.ends_with(suffix);
    name == b"4913" || name.starts_with(b".#") || ends(b"~") || ends(b".swp") || ends(b".swx") || ends(b".swo")
}

/// The part of a glob without wildcards, and how far below it files may match.
fn base(root: &Path, glob: &str) -> (PathBuf, Option<usize>) {
    let mut path = root.to_owned();
    let components: Vec<Component<'_>> = Path::new(glob).components().collect();
    let is_wild = |component: &Component<'_>| component.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[{\\".contains(byte));
    // The last part is a file, even if it has no wildcard.
    let literal = components.iter().take(components.len().saturating_sub(1)).take_while(|component| !is_wild(component)).count();
    for component in &components[..literal] {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    let rest = &components[literal..];
    // `{a,b/c}` may have separators of its own.
    let deep = rest.iter().any(|component| {
        let bytes = component.as_os_str().as_encoded_bytes();
        bytes == b"**" || bytes.contains(&b'{')
    });
    (path, (!deep).then(|| rest.len().saturating_sub(1)))
}

/// What is watched.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) directories: BTreeSet<PathBuf>,
    /// Where globs begin and that are not there.
    pub(super) missing: BTreeSet<PathBuf>,
    /// Directories above those where globs begin: there it is seen that they go or come, also by the move of one between.
    pub(super) waiting: BTreeSet<PathBuf>,
    pub(super) rules: Rules,
    /// Where globs begin.
    bases: BTreeSet<PathBuf>,
    /// There were too many.
    pub(super) truncated: bool,
}

impl Plan {
    pub(super) fn make(globs: &Globs) -> Self {
        let mut plan = Self { rules: Rules::above(&globs.root), ..Self::default() };
        for (base, depth) in &globs.bases {
            plan.bases.insert(base.clone());
            plan.waiting.extend(
                base.ancestors().skip(1).take_while(|path| path.starts_with(&globs.root)).filter(|path| path.is_dir()).map(Path::to_owned),
            );
            if base.is_dir() {
                plan.walk(globs, base, *depth);
            } else {
                plan.missing.insert(base.clone());
                plan.waiting.extend(base.ancestors().skip(1).find(|path| path.is_dir()).map(Path::to_owned));
            }
        }
        plan
    }

    fn walk(&mut self, globs: &Globs, base: &Path, depth: Option<usize>) {
        let mut found = vec![(base.to_owned(), depth)];
        while let Some((path, depth)) = found.pop() {
            if self.directories.len() >= MOST {
                self.truncated = true;
                return;
            }
            self.rules.read(&path);
            let deeper = depth.map(|depth| depth.checked_sub(1));
            self.directories.insert(path.clone());
            let below = match deeper {
                None => None,
                Some(None) => continue,
                Some(Some(depth)) => Some(depth),
            };
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                let inner = entry.path();
                // Links to directories are not followed: they may lead around in a circle.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !globs.skips(&inner) && !self.rules.ignores(&inner, true) {
                    found.push((inner, below));
                }
            }
        }
    }

    /// Whether the coming or going of this changes what is to be watched.
    pub(super) fn hangs_on(&self, path: &Path, is_directory: bool) -> bool {
        let within = path.parent().is_some_and(|parent| self.directories.contains(parent));
        (is_directory && within) || self.bases.iter().any(|base| base.starts_with(path))
    }
}
