//! Where a configuration is: named, or found by walking up.

use crate::files::{Disk, Files};
use std::path::{Path, PathBuf};

/// Names that are looked for in each directory, in this order.
pub(crate) const NAMES: [&str; 2] = ["stayput.toml", "Procfile"];

/// The first `stayput.toml`, else `Procfile`, in this directory or the nearest one above it.
pub fn find(start_dir: &Path) -> Option<PathBuf> {
    find_in(start_dir, &Disk)
}

pub(crate) fn find_in(start_dir: &Path, files: &dyn Files) -> Option<PathBuf> {
    let mut candidates = start_dir.ancestors().flat_map(|directory| NAMES.map(|name| directory.join(name)));
    candidates.find(|path| files.facts(path).is_ok_and(|facts| !facts.directory))
}
