//! The `stayput` command: one file per subcommand under `commands/`; the only crate that prints.
#![expect(clippy::print_stderr, reason = "this is the crate that talks to people")]

fn main() -> std::process::ExitCode {
    eprintln!("error: no command is implemented yet");
    std::process::ExitCode::from(2)
}
