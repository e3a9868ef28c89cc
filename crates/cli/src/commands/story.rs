//! The hidden command that plays the servers of `stayput compare`. It is not for people.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use stayput_compare::story::{self, Child, Reuse, Server};

use crate::error::{Error, Kind};
use crate::output;

/// Its name on the command line.
pub(crate) const NAME: &str = story::NAME;

/// Arguments of `stayput __story`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// The web dashboard
    Serve {
        #[arg(long)]
        port: u16,
        #[arg(long, value_enum)]
        reuse: ReuseArg,
        #[arg(long, default_value_t = 0)]
        boot_ms: u64,
        #[arg(long, default_value_t = 0)]
        slow_exit_ms: u64,
        #[arg(long, value_enum)]
        child: Option<ChildArg>,
        #[arg(long)]
        tied: bool,
    },
    /// A child that inherited the listener
    Stray {
        #[arg(long)]
        tied: bool,
    },
    /// A child that serves on the inherited listener
    Worker {
        #[arg(long)]
        fd: i32,
        #[arg(long)]
        tied: bool,
    },
    /// Any program, which ends with us
    Tied {
        #[arg(long)]
        parent: i32,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ReuseArg {
    None,
    Late,
    Addr,
    Both,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ChildArg {
    Stray,
    Worker,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    // Whoever compares has signals blocked, and a child inherits that.
    stayput_kernel::process::default_signals();
    let played = match &args.role {
        Role::Serve { port, reuse, boot_ms, slow_exit_ms, child, tied } => story::serve(&Server {
            port: *port,
            reuse: match reuse {
                ReuseArg::None => Reuse::None,
                ReuseArg::Late => Reuse::Late,
                ReuseArg::Addr => Reuse::Addr,
                ReuseArg::Both => Reuse::Both,
            },
            boot: Duration::from_millis(*boot_ms),
            slow_exit: Duration::from_millis(*slow_exit_ms),
            child: child.map(|child| match child {
                ChildArg::Stray => Child::Stray,
                ChildArg::Worker => Child::Worker,
            }),
            tied: *tied,
        }),
        Role::Stray { tied } => {
            story::stray(*tied);
            Ok(())
        }
        Role::Worker { fd, tied } => story::worker(*fd, *tied),
        Role::Tied { parent, command } => {
            let program = command.first().map_or_else(String::new, |program| program.display().to_string());
            return Err(Error::new(Kind::Failed, format!("cannot execute {program}")).because(&story::tied(*parent, command)));
        }
    };
    Ok(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In the story's own words.
            output::complain(&format!("{error}\n"));
            ExitCode::FAILURE
        }
    })
}
