//! `stayput logs`: what services wrote, from the daemon that keeps it, or from the files if nothing runs.

mod time;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use stayput_kernel::local_time::LocalTime;
use stayput_logs::{DirectoryError, Grep, Query, Reader, Services, Store, Which, base64, directory};
use stayput_model::config::ReportStyle;
use stayput_model::text::printable;
use stayput_wire::pattern::{closest, is_glob, matches};
use stayput_wire::runtime::Found;
use stayput_wire::{Answer, Client, ClientError, LogLine, LogsQuery, Reply, Request, Stream};

use super::instances::{self, ANSWER_WITHIN};
use crate::error::{Error, Kind};
use crate::output;

/// Lines before the first new one when it is followed.
const FOLLOWED: u32 = 10;
const MS: u64 = 1_000_000;

/// Arguments of `stayput logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are shown, and read, in local time: 2026-11-23, 14:05, '2026-11-23 14:05:30', 2026-11-23T14:05:30Z, @1795442730, or as a time ago: 10m, 1h30m, 2d.
Exit status: 0; 1 if there are no logs or they cannot be read; 2 if the arguments make no sense.")]
pub(crate) struct Args {
    /// Services, by name or pattern ('web-*') [default: all]
    services: Vec<String>,
    /// Name of the instance [default: the only one]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// If nothing runs: the configuration whose logs are meant [default: found by walking up from here]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Only the last N lines of those that fit [default: 10 with --follow, else all]
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<u32>,
    /// Not before this time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<String>,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Of the generation before the present one
    #[arg(long, conflicts_with_all = ["generation", "follow"])]
    previous: bool,
    /// Only of this generation
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Only standard output
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only standard error
    #[arg(long)]
    stderr: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print the bytes as they were written, without time and name: a terminal acts upon what is in them
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let query = query(args)?;
    let running = instances::all()?;
    let found = match &args.instance {
        Some(name) => running.into_iter().find(|found| found.name == *name),
        None if running.len() > 1 => {
            let names: Vec<_> = running.iter().map(|found| found.name.as_str()).collect();
            return Err(Error::new(Kind::BadInput, format!("several instances are running: {}", names.join(", ")))
                .hint(format!("say which: stayput logs --instance {}", names[0])));
        }
        None => running.into_iter().next(),
    };
    let mut printer = Printer::new(args);
    match found {
        Some(found) => from_daemon(&found, query, &mut printer),
        None => from_files(args, query, &mut printer),
    }
}

fn query(args: &Args) -> Result<LogsQuery, Error> {
    let now = SystemTime::now();
    let at = |option: &str, text: &Option<String>| text.as_deref().map(|text| time::parse(option, text, now)).transpose();
    if let Some(pattern) = &args.grep {
        grep(pattern)?;
    }
    Ok(LogsQuery {
        services: args.services.clone(),
        follow: args.follow,
        lines: args.lines.or(args.follow.then_some(FOLLOWED).filter(|_| args.since.is_none())),
        since_ms: at("--since", &args.since)?,
        until_ms: at("--until", &args.until)?,
        grep: args.grep.clone(),
        generation: args.generation,
        previous: args.previous,
        stream: match (args.stdout, args.stderr) {
            (true, _) => Some(Stream::Stdout),
            (_, true) => Some(Stream::Stderr),
            (false, false) => None,
        },
    })
}

fn grep(pattern: &str) -> Result<Grep, Error> {
    Grep::new(pattern).map_err(|error| Error::new(Kind::BadInput, format!("--grep {pattern:?}: not a regular expression")).because(&error))
}

/// Asks the daemon; one that dies while it is followed has a successor, which is asked for the rest.
fn from_daemon(found: &Found, mut query: LogsQuery, printer: &mut Printer) -> Result<ExitCode, Error> {
    let mut lost: Option<Instant> = None;
    loop {
        let result = Client::connect(&found.control_socket, ANSWER_WITHIN).and_then(|mut client| {
            client.stream(&Request::Logs(query.clone()))?;
            loop {
                let answer = client.next(None)?;
                lost = None;
                match answer {
                    Answer::Reply(reply) => return Ok(Some(reply)),
                    other if printer.answer(&other) => {}
                    _ => return Ok(None),
                }
            }
        });
        match result {
            Ok(None | Some(Reply::End {})) => return Ok(ExitCode::SUCCESS),
            Ok(Some(Reply::Failed(failure))) => return Err(instances::refused(failure)),
            Ok(Some(other)) => return Err(instances::unexpected(found, other)),
            Err(error) => {
                let again = matches!(error, ClientError::Closed | ClientError::Codec(_) | ClientError::Io(_) | ClientError::Connect(..));
                let since = *lost.get_or_insert_with(Instant::now);
                if !query.follow || !again || since.elapsed() > ANSWER_WITHIN {
                    return Err(instances::unreachable(found, &error));
                }
                if !instances::goes_on(found, &error) {
                    return Ok(ExitCode::SUCCESS);
                }
                // What was printed is known by its place.
                if let Some(at) = printer.last_ms {
                    (query.since_ms, query.lines) = (Some(at), None);
                }
            }
        }
    }
}

/// Nothing runs: reads the files of the last run and those before.
fn from_files(args: &Args, query: LogsQuery, printer: &mut Printer) -> Result<ExitCode, Error> {
    let configured = configured(args)?.filter(|(name, _)| args.instance.as_ref().is_none_or(|wanted| wanted == name));
    let (name, path) = match configured {
        // One without logs is no reason not to look for those of others.
        Some((name, path)) if args.file.is_some() || args.instance.is_some() || path.is_dir() => (name, path),
        Some(_) | None => {
            let base = directory::base().ok_or_else(|| Error::new(Kind::Failed, "there is no home directory in which logs could be"))?;
            let name = match &args.instance {
                Some(name) => name.clone(),
                None => only_instance(&base)?,
            };
            let path = directory::of_instance(&name).unwrap_or(base);
            (name, path)
        }
    };
    let store = Store::open(&path).map_err(|error| match error {
        DirectoryError::Call(_, _, rustix::io::Errno::NOENT) => Error::new(Kind::Failed, format!("{name}: there are no logs"))
            .hint(format!("they would be in {}; `stayput run` keeps none", path.display())),
        error => Error::new(Kind::Failed, format!("{name}: its logs cannot be used")).because(&error),
    })?;
    if query.follow {
        return Err(Error::new(Kind::Failed, format!("{name} does not run: there is nothing to follow")).hint("leave out --follow"));
    }
    let kept = store.services().map_err(|error| Error::new(Kind::Failed, format!("{name}: its logs cannot be read")).because(&error))?;
    if let Some(unknown) = query.services.iter().find(|wanted| !is_glob(wanted) && !kept.contains(wanted)) {
        let error = Error::new(Kind::BadInput, format!("{name}: there are no logs of a service {unknown:?}"));
        return Err(match closest(unknown, &kept) {
            Some(closest) => error.hint(format!("did you mean {closest}?")),
            None => error.hint(format!("there are logs of: {}", kept.join(", "))),
        });
    }
    let mut reader = Reader::new(Arc::new(store), of_files(query)?)
        .map_err(|error| Error::new(Kind::Failed, format!("{name}: its logs cannot be read")).because(&error))?;
    let mut code = ExitCode::SUCCESS;
    loop {
        match reader.next_item() {
            Ok(None) => return Ok(code),
            Ok(Some(item)) => {
                if !printer.answer(&stayput_daemon::log_answer(item)) {
                    return Ok(code);
                }
            }
            Err(error) => {
                output::complain(&format!("warning: {error}\n"));
                code = ExitCode::FAILURE;
            }
        }
    }
}

fn of_files(query: LogsQuery) -> Result<Query, Error> {
    let patterns = query.services;
    let services = if patterns.is_empty() {
        Services::default()
    } else {
        Services::which(move |name| patterns.iter().any(|pattern| matches(pattern, name)))
    };
    Ok(Query {
        services,
        since: query.since_ms.map(|ms| ms.saturating_mul(MS)),
        until: query.until_ms.map(|ms| ms.saturating_mul(MS).saturating_add(MS - 1)),
        last: query.lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        grep: query.grep.as_deref().map(grep).transpose()?,
        generation: match (query.previous, query.generation) {
            (true, _) => Which::Previous,
            (false, Some(number)) => Which::Number(number),
            (false, None) => Which::All,
        },
        stream: query.stream.map(|stream| match stream {
            Stream::Stdout => stayput_logs::Stream::Stdout,
            Stream::Stderr => stayput_logs::Stream::Stderr,
        }),
        ..Query::default()
    })
}

/// The instance that the configuration here describes, and where it keeps its logs. One that cannot be read is a mistake only if it was named.
fn configured(args: &Args) -> Result<Option<(String, PathBuf)>, Error> {
    use std::os::unix::ffi::OsStringExt as _;
    let Ok(mut request) = stayput_config::Request::of_process(ReportStyle::Plain) else { return Ok(None) };
    request.path.clone_from(&args.file);
    match stayput_config::load(&request) {
        Ok(config) => {
            let directory = config.logs.map(|logs| PathBuf::from(std::ffi::OsString::from_vec(logs.directory)));
            Ok(directory.map(|directory| (config.name, directory)))
        }
        Err(report) if args.file.is_some() => {
            output::complain(&report.render(output::is_colourful()));
            Err(Error::new(Kind::BadInput, "it is not known where its logs are: the configuration has errors"))
        }
        Err(_) => Ok(None),
    }
}

/// The only instance that left logs.
fn only_instance(base: &Path) -> Result<String, Error> {
    let names = std::fs::read_dir(base).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| directory::of_instance(name).is_some_and(|path| path.is_dir())).collect();
    names.sort();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(instances::nothing_running().hint(format!("and none left logs in {}", base.display()))),
        [first, ..] => Err(Error::new(Kind::BadInput, format!("no instance runs, and several left logs: {}", names.join(", ")))
            .hint(format!("say which: stayput logs --instance {first}"))),
    }
}

/// Prints lines, each once.
struct Printer {
    json: bool,
    raw: bool,
    colours: bool,
    /// How far each stream of each generation is printed.
    printed: HashMap<String, u64>,
    last_ms: Option<u64>,
    today: Option<(i32, u8, u8)>,
}

impl Printer {
    fn new(args: &Args) -> Self {
        let today = LocalTime::at(SystemTime::now()).map(|now| (now.year, now.month, now.day));
        let colours = output::is_colourful();
        Self { json: args.json, raw: args.raw, colours, printed: HashMap::new(), last_ms: None, today }
    }

    /// Prints it; false: nobody reads it any more.
    fn answer(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::Log(line) if self.is_new(line) => {
                self.last_ms = self.last_ms.max(Some(line.at_ms));
                self.line(line)
            }
            Answer::LogGap { service, dropped_bytes, why } => self.gap(service, *dropped_bytes, why),
            _ => true,
        }
    }

    /// Whether it was not printed before the daemon that sent it died.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some((track, position)) = line.position.rsplit_once('-') else { return true };
        let Ok(position) = position.parse::<u64>() else { return true };
        let track = format!("{}/{track}", line.service);
        if self.printed.get(&track).is_some_and(|printed| position < *printed) {
            return false;
        }
        self.printed.insert(track, position + 1);
        true
    }

    fn line(&self, line: &LogLine) -> bool {
        if self.json {
            return output::say(&format!("{}\n", json!(line)));
        }
        if self.raw {
            let bytes = line.bytes.as_deref().and_then(base64::decode).unwrap_or_else(|| line.text.as_bytes().to_vec());
            let mut out = std::io::stdout().lock();
            let end: &[u8] = if line.truncated { b"" } else { b"\n" };
            return out.write_all(&bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush()).is_ok();
        }
        let text = stayput_daemon::show_line(&line.text, self.colours);
        output::say(&format!("[{}] [{}] {text}\n", self.time(line.at_ms), self.name(&line.service)))
    }

    fn gap(&self, service: &str, bytes: Option<u64>, why: &str) -> bool {
        if self.json {
            return output::say(&format!("{}\n", json!({ "service": service, "missing_bytes": bytes, "why": why })));
        }
        let bytes = bytes.map_or_else(|| "bytes".to_owned(), |bytes| format!("{bytes} bytes"));
        let text = format!("{}: {bytes} of output are missing: {}", printable(service), printable(why));
        if self.raw {
            output::complain(&format!("{text}\n"));
            return true;
        }
        output::say(&format!("! {text}\n"))
    }

    fn time(&self, ms: u64) -> String {
        let Some(at) = LocalTime::at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)) else { return ms.to_string() };
        let clock = format!("{:02}:{:02}:{:02}", at.hour, at.minute, at.second);
        let same_day = self.today == Some((at.year, at.month, at.day));
        if same_day { clock } else { format!("{}-{:02}-{:02} {clock}", at.year, at.month, at.day) }
    }

    fn name(&self, service: &str) -> String {
        if !self.colours {
            return printable(service).into_owned();
        }
        stayput_daemon::coloured(service)
    }
}
