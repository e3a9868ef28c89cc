//! `stayput doctor`: what this host allows, found out by trying it here, and which of the seven promises hold.
//!
//! Exit code: 0 all promises are kept, 1 some are not, 2 bad input.

mod look;
mod show;

use std::process::ExitCode;

use stayput_model::host::judge;

use crate::output;

const AFTER_HELP: &str = "\
Everything is tried, on throw-away child processes and loopback ports that the
kernel chooses; nothing is concluded from version numbers, and nothing is left.

Exit code: 0 all promises are kept, 1 some are not, 2 bad input.
The fields of --json are explained in docs/DOCTOR.md.";

/// Arguments of `stayput doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> ExitCode {
    let report = judge(&look::look());
    let text = if args.json {
        serde_json::to_string_pretty(&show::document(&report)).unwrap_or_default() + "\n"
    } else {
        show::text(&report, output::is_colourful())
    };
    output::say(&text);
    ExitCode::from(u8::from(!report.keeps_all()))
}
