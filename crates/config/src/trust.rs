//! Who may write a file that says what stayput starts. As root, nobody else may: they would be root.

use crate::files::{Facts, Files};
use std::path::Path;

/// Why a file is not trusted: what is wrong, and what to do.
pub(crate) struct Distrust {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Checks a file that was opened with `facts`, and every directory above it, as it was named and as it is without links.
///
/// `uid` is who reads it. Root trusts only itself. Anybody else trusts themselves and root, and only for files that were searched for
/// (`found`): in a directory like /tmp it could be anybody's. A path that was given is meant.
pub(crate) fn check(path: &Path, facts: Facts, uid: u32, found: bool, files: &dyn Files) -> Result<(), Distrust> {
    if uid != 0 {
        let foreign = facts.uid != 0 && facts.uid != uid;
        let open = facts.mode & 0o002 != 0;
        return if found && (foreign || open) {
            let whose =
                if foreign { format!("it belongs to uid {}", facts.uid) } else { format!("others may write it (mode {:04o})", facts.mode) };
            Err(Distrust {
                message: format!("it was found by searching, and {whose}"),
                hint: "if it is meant, name it: -f PATH".to_owned(),
            })
        } else {
            Ok(())
        };
    }
    let shown = |path: &Path| crate::source::shown(path, Path::new("/"));
    if let Some(why) = writers(facts) {
        return Err(Distrust {
            message: format!("{why}, and stayput runs as root"),
            hint: "chown root:root and chmod go-w it, or run stayput as its owner".to_owned(),
        });
    }
    let canonical = files.canonical(path).unwrap_or_else(|_| path.to_owned());
    for directory in path.ancestors().skip(1).chain(canonical.ancestors().skip(1)) {
        // A directory that cannot be looked at could be anybody's.
        let Ok(facts) = files.facts(directory) else {
            return Err(Distrust {
                message: format!("/{} cannot be looked at, and stayput runs as root", shown(directory)),
                hint: "put the file into a directory of root's".to_owned(),
            });
        };
        // In a sticky directory only its owner, root, and the owner of a file can replace that file.
        let sticky = facts.mode & 0o1000 != 0 && facts.uid == 0;
        if let (false, Some(why)) = (sticky, writers(facts)) {
            let place = if directory == Path::new("/") { "/".to_owned() } else { format!("/{}", shown(directory).trim_start_matches('/')) };
            return Err(Distrust {
                message: format!("of its directory {place} {why}, and stayput runs as root"),
                hint: "put the file into a directory that only root may write, or run stayput as that owner".to_owned(),
            });
        }
    }
    Ok(())
}

/// Who else than root may write it.
fn writers(facts: Facts) -> Option<String> {
    if facts.uid != 0 {
        return Some(format!("the owner is uid {}", facts.uid));
    }
    if facts.mode & 0o002 != 0 {
        return Some(format!("others may write it (mode {:04o})", facts.mode & 0o7777));
    }
    (facts.gid != 0 && facts.mode & 0o020 != 0).then(|| format!("group {} may write it (mode {:04o})", facts.gid, facts.mode & 0o7777))
}
