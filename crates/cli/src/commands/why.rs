//! `stayput why`.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// Arguments of `stayput why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs it.
pub(crate) fn run(_args: &Args) -> Result<ExitCode, Error> {
    Err(Error::new(
        Kind::Failed,
        "`stayput why` is not implemented yet",
    ))
}
