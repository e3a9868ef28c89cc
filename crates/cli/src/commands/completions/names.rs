//! What a shell may offer where a name is wanted: the services and instances that there are now. The scripts of `stayput completions` ask for it at each Tab.
//! It prints names, one a line, and nothing else: a person is typing, so whatever cannot be found out is not offered.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, Command};
use stayput_config::Request as ConfigRequest;
use stayput_model::config::ReportStyle;
use stayput_wire::runtime::Found;
use stayput_wire::{Client, Reply, Request};

use crate::commands::instances;
use crate::output;

pub(crate) const NAME: &str = "__complete";
/// Nobody waits longer for a Tab.
const PATIENCE: Duration = Duration::from_secs(1);

/// Arguments of `stayput __complete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The words after `stayput`, behind `--`; the last is being typed
    words: Vec<String>,
}

/// What may stand somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// A running instance.
    Instance,
    /// A service of one.
    Service,
    /// An instance first, then services of it; or services alone.
    Either,
    /// A service of the configuration, which need not run.
    Configured,
}

/// What an argument of this command takes, if it is a name that we know.
pub(super) fn offer(command: &Command, argument: &Arg) -> Option<Offer> {
    let value = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    match (value, argument.get_id().as_str(), argument.is_positional()) {
        ("NAME", "names", true) => Some(Offer::Either),
        ("NAME", "instance", _) | ("NAME", "name", true) => Some(Offer::Instance),
        ("SERVICE" | "SERVICES", ..) if command.get_name() == "up" => Some(Offer::Configured),
        ("SERVICE" | "SERVICES", ..) => Some(Offer::Service),
        _ => None,
    }
}

/// Prints them.
pub(crate) fn run(args: &Args, whole: &Command) -> ExitCode {
    let mut names = place(&args.words, whole).map(|place| place.names()).unwrap_or_default();
    names.sort();
    names.dedup();
    names.push(String::new());
    output::say(&names.join("\n"));
    ExitCode::SUCCESS
}

/// Where the word stands that is being typed.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    offer: Offer,
    /// `--instance`.
    instance: Option<&'a str>,
    /// `--file`.
    file: Option<&'a str>,
    /// The names before it.
    typed: Vec<&'a str>,
}

/// `None`: there is nothing to offer. The words are read as the program would read them.
fn place<'a>(words: &'a [String], whole: &Command) -> Option<Place<'a>> {
    let (current, before) = words.split_last()?;
    let (command, before) = before.split_first()?;
    let command = whole.get_subcommands().find(|sub| sub.get_name() == command && !sub.is_hide_set())?;
    let (mut instance, mut file, mut typed) = (None, None, Vec::new());
    let (mut open, mut names_only): (Option<&Arg>, bool) = (None, false);
    let mut note = |option: &Arg, value: &'a str| match option.get_id().as_str() {
        "instance" => instance = Some(value),
        "file" => file = Some(value),
        _ => {}
    };
    for word in before {
        if let Some(option) = open.take() {
            note(option, word);
        } else if !names_only && word == "--" {
            names_only = true;
        } else if !names_only && word.len() > 1 && word.starts_with('-') {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let option = option(command, name).filter(|option| option.get_action().takes_values());
            match (option, value) {
                (Some(option), Some(value)) => note(option, value),
                (option, _) => open = option,
            }
        } else {
            typed.push(word.as_str());
        }
    }
    let argument = match open {
        Some(option) => option,
        None if !names_only && current.starts_with('-') => return None,
        None => positional(command, typed.len())?,
    };
    Some(Place { offer: offer(command, argument)?, instance, file, typed })
}

fn option<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let long = name.strip_prefix("--");
    // Of several short ones in a word the last one takes the value.
    let short = long.is_none().then(|| name.chars().last()).flatten();
    command
        .get_opts()
        .find(|option| option.get_long().is_some_and(|name| Some(name) == long) || short.is_some() && option.get_short() == short)
}

/// The argument that takes the word after so many.
fn positional(command: &Command, before: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    let takes_the_rest = |argument: &&&Arg| argument.get_num_args().is_some_and(|count| count.max_values() > 1);
    all.get(before).or_else(|| all.last().filter(takes_the_rest)).copied()
}

impl Place<'_> {
    fn names(&self) -> Vec<String> {
        let running = instances::all().unwrap_or_default();
        let mut names = match self.offer {
            Offer::Instance => running.iter().map(|found| found.name.clone()).collect(),
            Offer::Configured => self.configured(),
            Offer::Either if self.typed.is_empty() && self.instance.is_none() => {
                let instances = running.iter().map(|found| found.name.clone());
                instances.chain(self.services(&running)).collect()
            }
            Offer::Service | Offer::Either => self.services(&running),
        };
        names.retain(|name| !self.typed.contains(&name.as_str()));
        names
    }

    /// Of the instance that is meant, if it is clear which is.
    fn services(&self, running: &[Found]) -> Vec<String> {
        let named = self.instance.or_else(|| self.typed.first().copied().filter(|_| self.offer == Offer::Either));
        let found = match named.and_then(|name| running.iter().find(|found| found.name == name)) {
            Some(found) => Some(found),
            None if self.instance.is_none() && running.len() == 1 => running.first(),
            None => None,
        };
        let ask = |found: &Found| match Client::connect(&found.control_socket, PATIENCE).ok()?.request(
            &Request::Status {},
            Some(PATIENCE),
            &mut |_| (),
        ) {
            Ok(Reply::Status(status)) => Some(status.services.into_iter().map(|service| service.name).collect()),
            Ok(_) | Err(_) => None,
        };
        found.and_then(ask).unwrap_or_default()
    }

    fn configured(&self) -> Vec<String> {
        let Ok(mut request) = ConfigRequest::of_process(ReportStyle::Plain) else { return Vec::new() };
        request.path = self.file.map(Into::into);
        let config = stayput_config::load(&request);
        config.map(|config| config.services.into_iter().map(|service| service.name).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn offered(line: &str) -> Option<Offer> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        place(&words, &crate::Cli::command()).map(|place| place.offer)
    }

    #[test]
    fn names_are_offered_where_the_program_takes_them() {
        for (line, offer) in [
            ("restart ", Some(Offer::Either)),
            ("restart web ap", Some(Offer::Either)),
            ("restart --instance ", Some(Offer::Instance)),
            ("restart --instance shop w", Some(Offer::Either)),
            ("restart --canary 5% ", Some(Offer::Either)),
            ("restart --canary ", None),
            ("restart -", None),
            ("restart -- -", Some(Offer::Either)),
            ("down ", Some(Offer::Instance)),
            ("down shop ", None),
            ("signal ", None),
            ("signal HUP ", Some(Offer::Service)),
            ("signal HUP web ", Some(Offer::Service)),
            ("logs -n ", None),
            ("logs -fn ", None),
            ("logs -n 5 ", Some(Offer::Service)),
            ("up -f other.toml ", Some(Offer::Configured)),
            ("run --name ", None),
            ("hold 8000 ", Some(Offer::Service)),
            ("why ", None),
            ("resta", None),
            ("__daemon ", None),
            ("nonsense ", None),
        ] {
            assert_eq!(offered(line), offer, "{line:?}");
        }
    }

    #[test]
    fn what_was_typed_before_counts() {
        let words = ["restart", "--instance=shop", "web", "--no-wait", ""].map(str::to_owned);
        let found = place(&words, &crate::Cli::command()).unwrap();
        assert_eq!((found.instance, found.typed), (Some("shop"), vec!["web"]));
        let words = ["up", "--file", "a.toml", "-d", ""].map(str::to_owned);
        assert_eq!(place(&words, &crate::Cli::command()).unwrap().file, Some("a.toml"));
    }
}
