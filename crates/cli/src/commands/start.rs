//! `stayput start` and `stayput signal`: services of a running instance, by name or glob.

use std::process::ExitCode;

use serde_json::json;
use stayput_model::text::printable;
use stayput_wire::message::StartedService;
use stayput_wire::{Reply, Request, SignalScope};

use super::{instances, number};
use crate::error::Error;
use crate::output;

/// Arguments of `stayput start`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Those that run are left alone; one that is disabled is started by its own name.
Exit status: 0 if all are started, 1 if one is not (it is left to go on trying), 2 if there is no such service.")]
pub(crate) struct StartArgs {
    /// Services, by name or pattern ('web-*')
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Do not wait until they are started
    #[arg(long)]
    no_wait: bool,
    /// Print how they stand as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `stayput signal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput signal HUP web          to the main process of the generation that has the connections
  stayput signal USR1 '*'         to each service

Exit status: 0; 1 if a service does not run; 2 if there is no such signal or service.")]
pub(crate) struct SignalArgs {
    /// A name such as HUP or SIGHUP, or a number
    signal: String,
    /// Services, by name or pattern ('web-*')
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// To every process of the service, not to its main process alone
    #[arg(long)]
    tree: bool,
    /// Print who got it as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `stayput start`.
pub(crate) fn run(args: &StartArgs) -> Result<ExitCode, Error> {
    let found = instances::choose(args.instance.as_deref(), "start --instance")?;
    let mut show = instances::shown(args.json);
    let request = Request::Start { services: args.services.clone(), wait: !args.no_wait };
    match instances::ask(&found, &request, None, &mut show)? {
        Reply::Starting { services } => {
            let text = match services.as_slice() {
                [] => "nothing to start\n".to_owned(),
                several => format!("starting {}\n", several.join(", ")),
            };
            output::say(&if args.json { format!("{}\n", json!({ "services": services })) } else { text });
            Ok(ExitCode::SUCCESS)
        }
        Reply::Started { services } => {
            if args.json {
                output::say(&format!("{}\n", json!({ "services": services })));
            } else {
                services.iter().for_each(report);
            }
            Ok(if services.iter().all(|service| service.started) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

/// How a service stands after a start.
pub(super) fn report(service: &StartedService) {
    if service.started {
        output::say(&format!("{}: started: {}\n", service.name, printable(&service.detail)));
        return;
    }
    output::complain(&format!("{}: not started: {}\n", service.name, printable(&service.detail)));
    for line in &service.last_output {
        output::complain(&format!("    | {}\n", printable(line)));
    }
}

/// Runs `stayput signal`.
pub(crate) fn signal(args: &SignalArgs) -> Result<ExitCode, Error> {
    let signal = number::parse(&args.signal)?;
    let found = instances::choose(args.instance.as_deref(), "signal --instance")?;
    let scope = if args.tree { SignalScope::Tree } else { SignalScope::Main };
    let request = Request::Signal { services: args.services.clone(), signal, scope };
    match instances::ask(&found, &request, Some(instances::ANSWER_WITHIN), &mut |_| ())? {
        Reply::Signalled { services } => {
            if args.json {
                output::say(&format!("{}\n", json!({ "signal": signal, "services": services })));
            } else {
                for service in &services {
                    let name = &service.name;
                    match (service.generation, service.pid) {
                        (Some(generation), Some(pid)) => {
                            output::say(&format!("{name}: sent to generation {generation} (pid {pid})\n"));
                        }
                        _ => output::complain(&format!("{name}: it does not run, nobody got the signal\n")),
                    }
                }
            }
            let all = services.iter().all(|service| service.generation.is_some());
            Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        other => Err(instances::unexpected(&found, other)),
    }
}
