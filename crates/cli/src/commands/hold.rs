//! `stayput hold` and `stayput release`: a port held now, or let go. For people who debug.

use std::process::ExitCode;

use serde_json::json;
use stayput_model::text::printable;
use stayput_wire::{Reply, Request};

use super::instances::{self, ANSWER_WITHIN};
use crate::error::Error;
use crate::output;

/// Arguments of `stayput hold`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput hold 8000               for the only service: connections to port 8000 wait from now on
  stayput hold 127.0.0.1:8000 web

The service gets the socket, and what waits in it, when it binds the address.
Exit status: 0 if it is held, 1 if somebody else has it (it is not waited for), 2 if that is no address or no service.")]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    what: What,
}

/// Arguments of `stayput release`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Connections that wait there are reset, and their number is told. A port on which a generation accepts is not released: stop the service.
Exit status: 0 if it is released, 1 if somebody accepts on it, 2 if nothing holds it."
)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct What {
    /// PORT (hold: of every IPv4 address; release: of any) or ADDRESS:PORT
    #[arg(value_name = "PORT|ADDRESS")]
    address: String,
    /// For which service [default: the only one; release: whoever holds it]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `stayput hold`.
pub(crate) fn hold(args: &HoldArgs) -> Result<ExitCode, Error> {
    let What { address, service, .. } = &args.what;
    ask(&args.what, "hold --instance", &Request::Hold { service: service.clone(), address: address.clone() })
}

/// Runs `stayput release`.
pub(crate) fn release(args: &ReleaseArgs) -> Result<ExitCode, Error> {
    let What { address, service, .. } = &args.what;
    ask(&args.what, "release --instance", &Request::Release { service: service.clone(), address: address.clone() })
}

fn ask(what: &What, verb: &str, request: &Request) -> Result<ExitCode, Error> {
    let found = instances::choose(what.instance.as_deref(), verb)?;
    match instances::ask(&found, request, Some(ANSWER_WITHIN), &mut |_| ())? {
        Reply::Done { facts } => {
            if what.json {
                output::say(&format!("{}\n", json!({ "facts": facts })));
            } else {
                for fact in &facts {
                    output::say(&format!("{}\n", printable(fact)));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(&found, other)),
    }
}
