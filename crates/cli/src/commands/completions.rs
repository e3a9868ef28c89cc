//! `stayput completions` and `stayput man`: what shells and man(1) know of this program, made of the arguments that it takes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Put what it prints where the shell looks for it:
  bash    stayput completions bash >~/.local/share/bash-completion/completions/stayput
  zsh     stayput completions zsh >DIRECTORY/_stayput, a DIRECTORY of $fpath
  fish    stayput completions fish >~/.config/fish/completions/stayput.fish")]
pub(crate) struct Args {
    /// For which shell
    shell: Shell,
}

/// Arguments of `stayput man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "stayput.1 and one page per command; for example:
  stayput man ~/.local/share/man/man1
Exit status: 0; 1 if a page could not be written; 2 if there is no such directory.")]
pub(crate) struct ManArgs {
    /// The directory into which the pages are written; it has to exist
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Runs `stayput completions`.
pub(crate) fn run(args: &Args, whole: &Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut for_people(whole), "stayput", &mut script);
    output::say(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Runs `stayput man`.
pub(crate) fn man(args: &ManArgs, whole: &Command) -> Result<ExitCode, Error> {
    let directory = args.directory.display();
    if !args.directory.is_dir() {
        return Err(Error::new(Kind::BadInput, format!("{directory} is no directory")).hint(format!("mkdir -p {directory}")));
    }
    let failed = |error: std::io::Error| Error::new(Kind::Failed, format!("the pages cannot be written into {directory}")).because(&error);
    clap_mangen::generate_to(for_people(whole), &args.directory).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Without the commands that stayput starts itself.
fn for_people(whole: &Command) -> Command {
    let mut command = Command::new("stayput").version(env!("CARGO_PKG_VERSION")).subcommand_required(true);
    if let Some(about) = whole.get_about() {
        command = command.about(about.clone());
    }
    command.subcommands(whole.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}
