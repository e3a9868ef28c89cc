//! Flask-SocketIO itself, where Python and it are installed: what it sets on its listening socket, and how long its restart takes. Nothing is
//! installed for it.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_ports::facts::Role;

use crate::process::{LOOK, Running};
use crate::result::Flask;
use crate::scenario::{Shared, answers};
use crate::{Cancel, Error};

const PROGRAM: &str = "
import sys
import flask, flask_socketio
app = flask.Flask('web')
socketio = flask_socketio.SocketIO(app, async_mode='threading')
@app.route('/')
def index():
    return 'ok'
socketio.run(app, host='127.0.0.1', port=int(sys.argv[1]), allow_unsafe_werkzeug=True)
";
const VERSION: &str = "import importlib.metadata, flask_socketio; print(importlib.metadata.version('flask-socketio'))";

/// Looks at it on a port of its own.
pub(crate) fn flask(shared: &Shared<'_>, port: u16) -> Result<Flask, Error> {
    let mut flask = Flask { version: None, reuseaddr: None, reuseport: None, turnover_ms: None, absent: None };
    match version(shared.cancel)? {
        Ok(version) => flask.version = Some(version),
        Err(why) => {
            flask.absent = Some(why);
            return Ok(flask);
        }
    }
    match measured(shared, port, &mut flask) {
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            flask.absent = Some(error.to_string());
            Ok(flask)
        }
        Ok(()) => Ok(flask),
    }
}

/// Its version, or why there is none.
fn version(cancel: &Cancel) -> Result<Result<String, String>, Error> {
    let mut python = Command::new("python3");
    python.args(["-c", VERSION]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = python.spawn() else { return Ok(Err("there is no python3 here".to_owned())) };
    let waited = i32::try_from(child.id()).ok().and_then(|pid| stayput_kernel::process::pidfd(pid).ok());
    let waited = waited.map_or(Ok(true), |pidfd| cancel.until_readable(pidfd, Duration::from_secs(8)));
    if !matches!(waited, Ok(true)) {
        let _ = child.kill();
        let _ = child.wait();
        return waited.map(|_| Err("python3 took longer than 8 s to import flask_socketio".to_owned()));
    }
    let output = child.wait_with_output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(text.filter(|text| !text.is_empty()).ok_or_else(|| "python3 here has no flask_socketio (pip install flask-socketio)".to_owned()))
}

fn measured(shared: &Shared<'_>, port: u16, flask: &mut Flask) -> Result<(), Error> {
    let words: Vec<OsString> = ["python3", "-c", PROGRAM, &port.to_string()].map(OsString::from).to_vec();
    let log = shared.place.path("flask.log");
    let start = || Running::foreign(shared.place, &words, &[], &log);
    let mut old = start()?;
    until_it_answers(shared, &mut old, port)?;
    let server = stayput_ports::bind::Server::usual(IpAddr::V4(Ipv4Addr::LOCALHOST), rustix::process::geteuid().as_raw());
    let options = stayput_ports::Options { servers: vec![server], probe: false, elsewhere: false };
    let reports = stayput_ports::inspect(&[port], &options, |_| {}).map_err(|error| Error::Server(error.to_string()))?;
    let listener = reports.iter().flat_map(|report| &report.sockets).find(|socket| socket.role == Role::Listener);
    match listener.map(|listener| (listener.flags.value(), listener.flags.unreadable())) {
        Some((Some(flags), _)) => (flask.reuseaddr, flask.reuseport) = (Some(flags.reuseaddr), Some(flags.reuseport)),
        Some((None, Some(why))) => flask.absent = Some(format!("its socket options could not be read: {why}")),
        _ => flask.absent = Some("its listening socket was not found".to_owned()),
    }
    // Connections that stay open, as browsers keep them.
    let open: Vec<TcpStream> = (0..3).filter_map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()).collect();
    let ordered = Instant::now();
    old.signal(Signal::TERM);
    old.wait(Duration::from_secs(5), shared.cancel)?;
    let mut new = start()?;
    until_it_answers(shared, &mut new, port)?;
    flask.turnover_ms = Some(ordered.elapsed().as_millis() as u64);
    drop(open);
    Ok(())
}

fn until_it_answers(shared: &Shared<'_>, running: &mut Running, port: u16) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        if answers(port, None) {
            return Ok(());
        }
        if running.ended().is_some() || start.elapsed() > Duration::from_secs(8) {
            return Err(Error::Server("Flask-SocketIO did not start within 8 s".to_owned()));
        }
        shared.cancel.pause(LOOK)?;
    }
}
