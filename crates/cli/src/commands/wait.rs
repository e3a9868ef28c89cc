//! `stayput wait PORT`: return when a port is free, closed, listening, accepting or answering.
//!
//! Exit code: 0 it is, 1 the time ran out, 2 bad input, 3 not enough rights.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use stayput_ports::bind::Server;
use stayput_ports::explain::seconds;
use stayput_ports::wait::{self, Until};

use super::why;
use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput wait`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 it is so, 1 the time ran out, 2 bad input, 3 not enough rights.")]
pub(crate) struct Args {
    /// The port
    port: String,
    #[command(flatten)]
    until: UntilArgs,
    /// Whose bind shall work, for --free: `ADDR[,reuseaddr][,reuseport][,v6only][,udp][,uid=N]`
    #[arg(long = "as", value_name = "SERVER")]
    server: Option<String>,
    /// Give up after this time: 500ms, 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,
    /// Say nothing
    #[arg(long, short)]
    quiet: bool,
}

/// What to wait for; without any, --free.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct UntilArgs {
    /// A server with SO_REUSEADDR can bind it (the default)
    #[arg(long)]
    free: bool,
    /// Nobody listens on it
    #[arg(long)]
    closed: bool,
    /// Somebody listens on it
    #[arg(long)]
    listening: bool,
    /// A connection to it is accepted by a process
    #[arg(long)]
    accepting: bool,
    /// GET PATH is answered with a status below 400
    #[arg(long, value_name = "PATH")]
    http: Option<String>,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let ports = why::parse_ports(std::slice::from_ref(&args.port))?;
    let [port] = ports[..] else {
        return Err(Error::new(Kind::BadInput, format!("`{}` is several ports: wait takes one", args.port)));
    };
    let (until, wish) = until(args)?;
    let start = Instant::now();
    // A deadline beyond the clock's end is none.
    let deadline = args.timeout.and_then(|timeout| start.checked_add(timeout));
    let mut told = false;
    let about = |report: &stayput_ports::Report| {
        if !args.quiet {
            told = true;
            output::complain(&format!("waiting for port {port} to {wish}. {}\n", report.summary));
        }
    };
    let done = wait::wait(port, &until, deadline, about).map_err(|error| failed(&error))?;
    if !args.quiet {
        let took = seconds(start.elapsed());
        let line = if done {
            format!("port {port} is {}, after {took}\n", is(&until))
        } else {
            format!("port {port}: gave up after {took}, it did not {wish}\n")
        };
        if done {
            output::say(&line)
        } else {
            {
                output::complain(&line);
                true
            }
        };
    }
    Ok(ExitCode::from(u8::from(!done)))
}

fn until(args: &Args) -> Result<(Until, &'static str), Error> {
    let asked = &args.until;
    if args.server.is_some() && (asked.closed || asked.listening || asked.accepting || asked.http.is_some()) {
        return Err(Error::new(Kind::BadInput, "--as goes with --free only"));
    }
    if asked.closed {
        return Ok((Until::Closed, "close"));
    }
    if asked.listening {
        return Ok((Until::Listening, "listen"));
    }
    if asked.accepting {
        return Ok((Until::Accepting, "accept"));
    }
    if let Some(path) = &asked.http {
        if !path.starts_with('/') || path.chars().any(|character| character.is_control() || character == ' ') {
            return Err(Error::new(Kind::BadInput, "the path of --http starts with / and has neither blanks nor control characters"));
        }
        return Ok((Until::Http(path.clone()), "answer"));
    }
    let usual = Server::usual([0, 0, 0, 0].into(), rustix::process::geteuid().as_raw());
    let server = why::servers(args.server.as_deref())?.into_iter().next().unwrap_or(usual);
    Ok((Until::Free(server), "be free"))
}

fn is(until: &Until) -> &'static str {
    match until {
        Until::Free(_) => "free",
        Until::Closed => "closed",
        Until::Listening => "listening",
        Until::Accepting => "accepting",
        Until::Http(_) => "answering",
    }
}

/// An error of waiting for people.
pub(crate) fn failed(error: &wait::Error) -> Error {
    match error {
        wait::Error::Hopeless { .. } => Error::new(Kind::Failed, error.to_string()).hint("`stayput why PORT` tells more"),
        wait::Error::Netlink(_) => Error::new(Kind::NotPermitted, "cannot wait").because(error),
    }
}

/// `500ms`, `30s`, `5m`, `1h`, or a number of seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time looks like 500ms, 30s, 5m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a time looks like 500ms, 30s, 5m or 1h".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "-1s", "5 s", "1d", "1e999s", "..s"] {
            parse_time(bad).unwrap_err();
        }
    }
}
