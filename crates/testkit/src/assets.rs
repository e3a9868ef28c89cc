//! Where the real servers are, and whether an ordinary user can reach them. `cargo xtask setup` fills the place, the tests only look.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory of the real servers: `testkit/` in cargo's target directory, or one in /var/tmp when the target directory is closed to other users
/// and the tests run as root (they also run as nobody then).
pub fn dir() -> PathBuf {
    let in_target = target_dir().join("testkit");
    if !rustix::process::geteuid().is_root() || is_open_to_all(&in_target) {
        return in_target;
    }
    // One per checkout: two of them may want different versions.
    let checkout: String = env!("CARGO_MANIFEST_DIR").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    PathBuf::from(format!("/var/tmp/stayput-testkit{checkout}"))
}

/// Cargo's target directory, from the place of the running program (`target/debug/deps/x`, `target/debug/x`).
pub fn target_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(dir);
    }
    let program = std::env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), Path::to_path_buf)
}

/// Whether every directory on the way, as far as it exists, can be entered by everybody.
pub fn is_open_to_all(path: &Path) -> bool {
    let Ok(absolute) = std::path::absolute(path) else {
        return false;
    };
    absolute.ancestors().all(|step| match std::fs::metadata(step) {
        Ok(status) => !status.is_dir() || status.mode() & 0o001 != 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}

/// A program on PATH that can be executed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // /usr/sbin is not on everybody's PATH, and nginx is there.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.metadata().is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0))
}

/// A Python that can make environments; the system's first, because another user can run it too.
pub fn python() -> Option<PathBuf> {
    [Some(PathBuf::from("/usr/bin/python3")), find_program("python3")].into_iter().flatten().find(|python| {
        Command::new(python)
            .args(["-c", "import venv, ensurepip"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}
