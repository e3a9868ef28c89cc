//! `stayput schema`: what may stand in `stayput.toml`, for editors.

use std::process::ExitCode;

use crate::output;

/// Runs it.
pub(crate) fn run() -> ExitCode {
    // A reader that went away wants no more.
    let _ = output::say(&format!("{:#}\n", stayput_config::schema()));
    ExitCode::SUCCESS
}
