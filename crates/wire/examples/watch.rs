//! A client of the control API: says what runs, and then follows what happens.
//!
//! ```sh
//! cargo run -p stayput-wire --example watch -- /run/user/1000/stayput/shop/control.sock
//! ```

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use stayput_wire::{Answer, Client, Cursor, Reply, Request};

/// What a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args_os().nth(1).ok_or("which control socket?")?;
    watch(Path::new(&socket), &mut std::io::stdout(), usize::MAX)
}

/// Writes a line per service, and then one per event, so many of them.
///
/// # Errors
/// The daemon does not answer, or `out` takes nothing.
pub fn watch(socket: &Path, out: &mut dyn Write, events: usize) -> Result<(), Box<dyn std::error::Error>> {
    // Connects, checks whose daemon it is, and says hello.
    let mut client = Client::connect(socket, PATIENCE)?;
    let Reply::Status(status) = client.request(&Request::Status {}, Some(PATIENCE), &mut |_| ())? else {
        return Err("it answered something else".into());
    };
    writeln!(out, "instance {} (guard {})", client.instance, client.guard)?;
    for service in &status.services {
        writeln!(out, "{}: {}", service.name, service.detail)?;
    }
    // From exactly there on: no event between the status and the stream is missed or seen twice.
    let since = status.cursor.or(Some(Cursor::NOW));
    client.stream(&Request::Events { since, follow: true, services: Vec::new() })?;
    let mut seen = 0;
    while seen < events {
        match client.next(None)? {
            Answer::Record(record) => {
                let about = record.service.as_deref().unwrap_or("-");
                writeln!(out, "{} {about} {}: {}", record.cursor, record.kind, record.text)?;
                seen += 1;
            }
            Answer::Gap { missed } => writeln!(out, "-- {missed:?} events are missing: this reader was too slow --")?,
            Answer::Reset {} => writeln!(out, "-- another daemon: its events begin here --")?,
            Answer::Reply(Reply::End {}) => break,
            other => return Err(format!("not a line of this stream: {other:?}").into()),
        }
    }
    Ok(())
}
