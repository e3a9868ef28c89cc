//! `stayput completions` and `stayput man`: what shells and man(1) know of this program, made of the arguments that it takes. Names of services and
//! instances are not in the scripts: they ask for them (`names`).

pub(crate) mod names;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, ValueHint};
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
    let command = for_people(whole);
    clap_complete::generate(args.shell, &mut hinted(command.clone()), "stayput", &mut script);
    output::say(&with_names(args.shell, &String::from_utf8_lossy(&script), &command));
    ExitCode::SUCCESS
}

/// The function that zsh calls for an address of electronic mail, which nothing of ours takes: its place is our names' in the script.
const ZSH_HINT: &str = "_email_addresses";

/// Names are marked by a hint that the generator has, for it has none of ours.
fn hinted(command: Command) -> Command {
    command.mut_subcommands(|sub| {
        let whole = sub.clone();
        sub.mut_args(|argument| match names::offer(&whole, &argument) {
            Some(_) => argument.value_hint(ValueHint::EmailAddress),
            None => argument,
        })
    })
}

/// The script, with what asks `stayput __complete` where a name is wanted.
fn with_names(shell: Shell, script: &str, command: &Command) -> String {
    match shell {
        Shell::Bash => format!("{script}{BASH}"),
        Shell::Zsh => script.replace(ZSH_HINT, "_stayput_names").replacen("_stayput() {\n", &format!("{ZSH}_stayput() {{\n{ZSH_WORDS}"), 1),
        Shell::Fish => {
            let places = command.get_subcommands().flat_map(|sub| {
                let named = sub.get_arguments().filter(|argument| names::offer(sub, argument).is_some());
                named.map(|argument| {
                    let option = argument.get_long().map(|long| format!(" -l {long} -r")).unwrap_or_default();
                    let condition = format!("__fish_stayput_using_subcommand {}", sub.get_name());
                    format!("complete -c stayput -n \"{condition}\"{option} -f -a \"(__stayput_names)\"\n")
                })
            });
            format!("{script}{FISH}{}", places.collect::<String>())
        }
        _ => script.to_owned(),
    }
}

/// Over the generated function: where there are names, they are what is offered.
const BASH: &str = r#"
_stayput_names() {
    _stayput "$@"
    local names
    names="$("$1" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
    if [[ -n "$names" ]]; then
        COMPREPLY=( $(compgen -W "$names" -- "${COMP_WORDS[COMP_CWORD]}") )
    fi
}
complete -F _stayput_names -o bashdefault -o default stayput
"#;

const ZSH: &str = r#"(( $+functions[_stayput_names] )) ||
_stayput_names() {
    local -a names
    names=(${(f)"$("${_stayput_words[1]}" __complete -- "${(@)_stayput_words[2,-1]}" 2>/dev/null)"})
    compadd -a names
}

"#;

/// All that was typed, before the generated functions take words away.
const ZSH_WORDS: &str = "    local -a _stayput_words=(\"${(@)words[1,CURRENT]}\")\n";

const FISH: &str = r"
function __stayput_names
    set -l words (commandline -opc)
    $words[1] __complete -- $words[2..] (commandline -ct) 2>/dev/null
end
";

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
