//! `stayput.toml` and Procfiles: from text to [`InstanceConfig`], with every error at once.
//!
//! The way of a file: `node` parses it into a tree in which each value knows its place; `load` reads includes, lays profiles and what is extended
//! over each other and puts variables in; `decode` and `file` make typed values of it (and the JSON schema); `resolve` makes services of those, and
//! `check` looks at all of them together. No step stops at its first problem. Nothing here starts, binds or writes anything, and what is read is read
//! through [`Files`].

pub mod accounts;
mod check;
mod command;
mod decode;
mod dotenv;
mod expand;
mod file;
pub mod files;
mod find;
mod kinds;
mod load;
mod node;
mod procfile;
mod report;
mod resolve;
mod schema;
mod secret;
mod source;
mod trust;
pub mod value;

pub use files::{Disk, Files, Memory};
pub use find::find;
pub use report::{Place, Problem, Report};
pub use schema::schema;
pub use stayput_model::plan::{self, diff};

use stayput_model::config::{InstanceConfig, ReportStyle, Source};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file; `None`: it is searched for.
    pub path: Option<PathBuf>,
    /// Where the search begins, and what `path` and messages are relative to; absolute.
    pub start_dir: PathBuf,
    /// The profile.
    pub profile: Option<String>,
    /// Names or globs of the services that are wanted, with those that they come after; empty: all.
    pub only: Vec<String>,
    /// `NAME=value`; becomes [`InstanceConfig::env`] as it is.
    pub environment: Vec<Vec<u8>>,
    /// Effective user.
    pub uid: u32,
    /// How the instance is to speak.
    pub report: ReportStyle,
}

impl Request {
    /// The request of this process: its working directory, environment and user.
    ///
    /// # Errors
    /// The working directory cannot be read.
    pub fn of_process(report: ReportStyle) -> std::io::Result<Self> {
        let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        Ok(Self {
            path: None,
            start_dir: std::env::current_dir()?,
            profile: None,
            only: Vec::new(),
            environment: std::env::vars_os().map(entry).collect(),
            uid: rustix::process::geteuid().as_raw(),
            report,
        })
    }

    /// The request that was made before, for a reload.
    pub fn again(source: &Source, environment: Vec<Vec<u8>>, uid: u32, report: ReportStyle) -> Self {
        let path = PathBuf::from(std::ffi::OsString::from_vec(source.path.clone()));
        let start_dir = path.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Self { path: Some(path), start_dir, profile: source.profile.clone(), only: source.only.clone(), environment, uid, report }
    }
}

/// The configuration that is asked for, from the files of this machine.
///
/// # Errors
/// [`Report`]: all that is wrong with it.
pub fn load(request: &Request) -> Result<InstanceConfig, Report> {
    load_from(request, &Disk)
}

/// What an instance is without any configuration: no service, and the defaults of everything else. Its file is the one that `load` finds first as soon
/// as somebody writes it.
pub fn without_file(request: &Request) -> InstanceConfig {
    load::nothing(request, &Disk)
}

/// As [`load`], from these files.
///
/// # Errors
/// [`Report`]: all that is wrong with it.
///
/// ```
/// use stayput_config::{Memory, Request, load_from};
/// use stayput_model::config::ReportStyle;
/// let files = Memory::default().with("/srv/app/stayput.toml", "[service.web]\ncommand = 'python app.py'\nport = 8000\n");
/// let request = Request {
///     path: None, start_dir: "/srv/app".into(), profile: None, only: vec![], environment: vec![], uid: 0, report: ReportStyle::Plain,
/// };
/// let config = load_from(&request, &files).unwrap();
/// assert_eq!((config.name.as_str(), config.services[0].argv.len()), ("app", 2));
/// ```
pub fn load_from(request: &Request, files: &dyn Files) -> Result<InstanceConfig, Report> {
    load::load(request, files)
}
