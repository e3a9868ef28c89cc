//! `stayput dashboard`: the web page of an instance, and the address that opens it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use stayput_dashboard::{Audit, Certificate, DashboardError, Options, Tokens};

use super::instances;
use crate::error::{Error, Kind};
use crate::output;

/// The control socket of an instance, for who starts one by other means than `stayput up`.
const CONTROL: &str = "STAYPUT_CONTROL";

/// Arguments of `stayput dashboard`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --link it serves until it is stopped. `stayput up` starts it by itself.\n\
    Exit status: 0; 1 if it could not be done; 2 for bad input.")]
pub(crate) struct Args {
    /// Name of the instance [default: $STAYPUT_CONTROL, else the only one]
    name: Option<String>,
    /// The control socket of the instance that starts it. An argument: what stands in the environment goes to whatever that starts as well
    #[arg(long, value_name = "PATH", hide = true, conflicts_with = "name")]
    control: Option<PathBuf>,
    /// Where to listen, as ADDRESS:PORT, ADDRESS or PORT; several are possible; without it port 5000 of 127.0.0.1 and of ::1
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Vec<Vec<SocketAddr>>,
    /// Let other machines reach it: needed for any address but loopback; everyone needs the token then
    #[arg(long)]
    remote: bool,
    /// Refuse every action
    #[arg(long)]
    read_only: bool,
    /// Ask for the token also from programs of your own user on this machine
    #[arg(long)]
    always_token: bool,
    /// A name by which it may be called, beside its addresses and localhost; several are possible
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Where a reverse proxy mounts it
    #[arg(long, value_name = "PATH", default_value = "/")]
    base_path: String,
    /// Speak TLS with this certificate, and those that lead to a known one, in a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key in a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print the address that opens the page, with the token that may act, and end
    #[arg(long, conflicts_with_all = ["listen", "remote", "read_only", "always_token", "allow_host", "tls_cert"])]
    link: bool,
    /// With --link: the token that may only look
    #[arg(long, requires = "link")]
    view: bool,
    /// With --link: first replace both tokens; who came in by the old ones is out
    #[arg(long, requires = "link")]
    new_token: bool,
}

/// `ADDRESS:PORT`; an address alone means port 5000, a port alone both loopback addresses.
fn address(text: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(vec![SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))]);
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, 5000)]);
    }
    text.parse().map(|address| vec![address]).map_err(|_| "it looks like 127.0.0.1:5000, [::1]:5000, 127.0.0.1 or 5000".to_owned())
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let control = control(args)?;
    if args.link {
        return link(args, &control);
    }
    let base = match args.base_path.trim_matches('/') {
        "" => "/".to_owned(),
        path => format!("/{path}/"),
    };
    let mut options = Options {
        remote: args.remote,
        read_only: args.read_only,
        same_user: !args.always_token,
        allow_hosts: args.allow_host.clone(),
        base,
        tls: args.tls_cert.clone().zip(args.tls_key.clone()).map(|(chain, key)| Certificate { chain, key }),
        ..Options::new(control)
    };
    if !args.listen.is_empty() {
        options.listen = args.listen.concat();
    }
    // Executed as /proc/self/exe it would be called `exe` wherever processes are listed.
    let _ = rustix::thread::set_name(c"stayput");
    // Into the log of the service that it is: who did what, and where it listens.
    let audit = Audit::new(|line| {
        output::say(&format!("{line}\n"));
    });
    stayput_dashboard::run(options, audit).map_err(|error| failed(&error))?;
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &DashboardError) -> Error {
    let kind = if error.is_bad_input() { Kind::BadInput } else { Kind::Failed };
    let told = Error::new(kind, error.to_string());
    match error {
        DashboardError::Remote(_) => told.hint("if they are meant to, add --remote: everyone needs the token then"),
        DashboardError::Bind(address, _) => told.hint(format!("stayput why {}", address.port())),
        _ => told,
    }
}

/// The control socket that is meant.
fn control(args: &Args) -> Result<PathBuf, Error> {
    if let Some(path) = &args.control {
        return Ok(path.clone());
    }
    if args.name.is_none()
        && let Some(path) = std::env::var_os(CONTROL).map(PathBuf::from)
    {
        return if path.is_absolute() { Ok(path) } else { Err(Error::new(Kind::BadInput, format!("{CONTROL} is no absolute path"))) };
    }
    Ok(instances::choose(args.name.as_deref(), "dashboard")?.control_socket)
}

fn link(args: &Args, control: &std::path::Path) -> Result<ExitCode, Error> {
    let path = Tokens::path(control);
    let told = |error: stayput_dashboard::TokenError| Error::new(Kind::Failed, error.to_string());
    let Some(mut tokens) = Tokens::read(&path).map_err(told)? else {
        return Err(Error::new(Kind::Failed, "this instance has no dashboard").hint("stayput dashboard"));
    };
    if args.new_token {
        tokens = Tokens { urls: tokens.urls, ..Tokens::draw().map_err(told)? };
        tokens.write(&path).map_err(told)?;
    }
    let token = if args.view { &tokens.view } else { &tokens.operate };
    match tokens.urls.first() {
        Some(url) => {
            output::say(&format!("{url}#token={token}\n"));
        }
        None => return Err(Error::new(Kind::Failed, "the dashboard has not said yet where it is")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address("5001").unwrap().len(), 2);
        assert_eq!(address("127.0.0.1").unwrap(), ["127.0.0.1:5000".parse().unwrap()]);
        assert_eq!(address("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(address("::1").unwrap(), ["[::1]:5000".parse().unwrap()]);
        for wrong in ["", "host:80", "127.0.0.1:", "70000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
