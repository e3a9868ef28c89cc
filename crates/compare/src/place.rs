//! The private directory of a comparison: names under which our binary runs, and the runtime directory of the stayput that is compared. It is
//! removed with this value.

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::story::{Child, PROGRAM};

/// The directory.
#[derive(Debug)]
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// Makes it, under `$TMPDIR` or `/tmp`.
    ///
    /// # Errors
    /// [`Error::Place`].
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |error| Error::Place(std::env::temp_dir().display().to_string(), error);
        // Short, and closed to others: a unix socket's path has room for 107 bytes.
        let mode = std::fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("stayput-").permissions(mode.clone()).tempdir().map_err(failed)?;
        let binary = std::env::current_exe().map_err(failed)?;
        for name in [PROGRAM, Child::Stray.program(), Child::Worker.program(), "stayput"] {
            symlink(&binary, directory.path().join(name)).map_err(failed)?;
        }
        let run = directory.path().join("run");
        std::fs::create_dir(&run).and_then(|()| std::fs::set_permissions(&run, mode)).map_err(failed)?;
        Ok(Self { directory })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Our binary under the name of the story's server.
    pub(crate) fn server(&self) -> PathBuf {
        self.path(PROGRAM)
    }

    /// Our binary under its own name.
    pub(crate) fn stayput(&self) -> PathBuf {
        self.path("stayput")
    }

    /// What keeps the instances of a comparison apart from the user's.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let of = |path: &Path| path.as_os_str().to_owned();
        vec![("XDG_RUNTIME_DIR", of(&self.path("run"))), ("XDG_STATE_HOME", of(&self.path("run")))]
    }
}
