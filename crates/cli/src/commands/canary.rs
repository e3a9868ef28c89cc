//! A restart in two steps: the options of `stayput restart` that give a new generation a share of the connections first, and what decides about
//! it. And `stayput rollback`.

use std::process::ExitCode;

use serde_json::json;
use stayput_model::text::printable;
use stayput_wire::runtime::Found;
use stayput_wire::{Canary, Reply, Request};

use super::run::input;
use super::{instances, restart};
use crate::error::{Error, Kind};
use crate::output;

/// How long a share lasts if nothing is said.
const USUAL: &str = "60s";

/// The options of a restart in two steps.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Give the new generation this share of the new connections first
    #[arg(long, value_name = "PERCENT")]
    canary: Option<String>,
    /// Give it all of them after so long, if it has not failed [default: 60s]
    #[arg(long = "for", value_name = "TIME", requires = "canary", conflicts_with = "stay")]
    time: Option<String>,
    /// Leave it at its share until --switch or --abort
    #[arg(long, requires = "canary")]
    stay: bool,
    /// Give all new connections to the generation that has a share
    #[arg(long, conflicts_with_all = ["canary", "abort", "all", "parallel"])]
    switch: bool,
    /// Give all back to the old generation; the one that has a share finishes what it has
    #[arg(long, conflicts_with_all = ["canary", "all", "parallel"])]
    abort: bool,
}

impl Options {
    /// The share that is asked for.
    pub(super) fn canary(&self) -> Result<Option<Canary>, Error> {
        let Some(percent) = &self.canary else { return Ok(None) };
        let permille = permille(percent)?;
        let time = input::duration("--for", self.time.as_deref().unwrap_or(USUAL))?;
        let for_ms = (!self.stay).then(|| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(Some(Canary { permille, for_ms }))
    }

    /// What is decided, if anything is: all to the new generation?
    pub(super) fn decision(&self) -> Option<bool> {
        (self.switch || self.abort).then_some(self.switch)
    }
}

/// `5%`, `5`, `0.5%`: in thousandths, more than nothing and less than all.
fn permille(text: &str) -> Result<u16, Error> {
    let wrong = || {
        Error::new(Kind::BadInput, format!("--canary {text:?} is no share")).hint("write it like 5% or 0.5%: more than 0, less than 100")
    };
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole, 2) || !digits(tenths, 1) {
        return Err(wrong());
    }
    let value = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    match value(whole)? * 10 + value(tenths)? {
        0 => Err(wrong()),
        permille => Ok(permille),
    }
}

/// Tells the daemon what was decided.
pub(super) fn decide(found: &Found, services: &[String], switch: bool, in_json: bool) -> Result<ExitCode, Error> {
    let service = match services {
        [] => None,
        [only] => Some(only.clone()),
        _ => return Err(Error::new(Kind::BadInput, "--switch and --abort are for one service at a time")),
    };
    match instances::ask(found, &Request::Decide { service, switch }, Some(instances::ANSWER_WITHIN), &mut |_| ())? {
        Reply::Done { facts } => {
            if in_json {
                output::say(&format!("{}\n", json!({ "facts": facts })));
            } else {
                for fact in &facts {
                    output::say(&format!("{}\n", printable(fact)));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(found, other)),
    }
}

/// Arguments of `stayput rollback`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A restart with the command, the environment, the working directory, the ports, the user and the limits from before their last change. The
configuration file still says the new ones: the next reload applies it again.

Exit status: 0 if the new generation has the connections, 1 if it does not or there is nothing to go back to, 2 if there is no such service."
)]
pub(crate) struct RollbackArgs {
    /// Which service [default: the only one]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Do not wait for the outcome
    #[arg(long)]
    no_wait: bool,
    /// Print how it went as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `stayput rollback`.
pub(crate) fn rollback(args: &RollbackArgs) -> Result<ExitCode, Error> {
    let found = instances::choose(args.instance.as_deref(), "rollback --instance")?;
    let request = Request::Rollback { service: args.service.clone(), wait: !args.no_wait };
    restart::each(&found, &request, args.json, |services| services.iter().flat_map(|one| [one.name.as_str(), ": going back\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_people_write_them() {
        for (text, wanted) in [("5%", 50), ("5", 50), ("0.5%", 5), ("99.9%", 999), ("10 %", 100), ("1.0", 10)] {
            assert_eq!(permille(text).unwrap(), wanted, "{text}");
        }
        for wrong in ["", "%", "0", "0.0%", "100%", "-1%", "5.55%", "1e1", ".5", "5.", "five"] {
            assert!(permille(wrong).is_err(), "{wrong}");
        }
    }
}
