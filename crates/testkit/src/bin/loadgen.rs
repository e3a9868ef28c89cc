//! `loadgen`: offers load to a port of loopback and prints what became of every request, as JSON.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and scripts")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stayput_testkit::load::{Arrival, Plan};

/// Offers load to a port of loopback and prints what became of every request, as JSON. Exit status 1: some were lost.
#[derive(Parser)]
struct Arguments {
    /// Where: ADDR:PORT, loopback only
    target: SocketAddr,
    /// Open loop: requests a second
    #[arg(long, conflicts_with = "clients")]
    rate: Option<f64>,
    /// Closed loop: clients with one request in flight each
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Deadline of a request, in seconds
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Use connections again instead of a fresh one per request
    #[arg(long)]
    keep_alive: bool,
    /// Request path
    #[arg(long, default_value = "/")]
    path: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut plan = Plan::new(arguments.target).path(&arguments.path);
    plan.arrival = match arguments.rate {
        Some(rate) => Arrival::Rate(rate),
        None => Arrival::Clients(arguments.clients),
    };
    plan.keep_alive = arguments.keep_alive;
    plan.duration = Duration::from_secs_f64(arguments.seconds.clamp(0.0, 3600.0));
    plan.timeout = Duration::from_secs_f64(arguments.timeout.clamp(0.001, 600.0));
    match plan.run() {
        Ok(report) => {
            println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            ExitCode::from(u8::from(report.counts.failed() > 0))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
