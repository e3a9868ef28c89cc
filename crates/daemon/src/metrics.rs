//! The counters and gauges in the Prometheus text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). What was not measured has no sample: a zero would be a statement.

use crate::reactor::Reactor;
use crate::tally::{HANDOVER_BOUNDS, Tally};
use stayput_wire::{InstanceStatus, Measured, ServiceStatus, State};
use std::fmt::Write as _;

impl Reactor {
    /// All of them, as of now.
    pub(crate) fn metrics(&mut self) -> String {
        let status = self.status();
        let logged = self.logged_bytes();
        self.tallies.settle(&self.world.services);
        let mut text = String::new();
        instance(&mut text, &status);
        let each = |name: &str, kind: &str, help: &str, text: &mut String, value: &dyn Fn(&ServiceStatus) -> Option<String>| {
            let _ = write!(text, "# HELP stayput_{name} {help}\n# TYPE stayput_{name} {kind}\n");
            for service in &status.services {
                if let Some(value) = value(service) {
                    let _ = writeln!(text, "stayput_{name}{{service=\"{}\"}} {value}", service.name);
                }
            }
        };
        let number = |count: Measured| match count {
            Measured::Count(count) => Some(count.to_string()),
            Measured::NotMeasured => None,
        };
        let text = &mut text;
        each("running", "gauge", "1 if it serves and no fact speaks against it", text, &|service| {
            let serves = matches!(service.state, State::Running | State::Soaking | State::Restarting | State::Working);
            Some(u8::from(serves).to_string())
        });
        each("restarts_total", "counter", "generations started after the first", text, &|service| Some(service.restarts.to_string()));
        each("crashes_total", "counter", "times that it ended by itself while it served", text, &|service| {
            Some(service.crashes.to_string())
        });
        each("connections", "gauge", "open connections of the serving generation", text, &|service| number(service.connections.new));
        each("connections_draining", "gauge", "open connections of older generations", text, &|service| number(service.connections.old));
        each("queued_connections", "gauge", "connections that wait to be accepted", text, &|service| number(service.connections.queued));
        each("memory_bytes", "gauge", "memory of its processes", text, &|service| number(service.memory));
        each("processes", "gauge", "its processes", text, &|service| number(service.processes));
        each("cpu_ratio", "gauge", "processors in use since the look before", text, &|service| match service.cpu_permille {
            Measured::Count(permille) => Some(thousandths(permille)),
            Measured::NotMeasured => None,
        });
        each("held_ports", "gauge", "listening sockets that are held", text, &|service| {
            let of_generations: usize = service.generations.iter().map(|generation| generation.listeners.len()).sum();
            Some((of_generations + service.held.len()).to_string())
        });
        each("logged_bytes_total", "counter", "bytes of its output that were written to disk", text, &|service| {
            Some(logged.get(&service.name)?.0.to_string())
        });
        each("dropped_log_bytes_total", "counter", "bytes of its output that could not be written and are missing", text, &|service| {
            Some(logged.get(&service.name)?.1.to_string())
        });
        each("uptime_seconds", "gauge", "how long a generation has served", text, &|service| service.uptime_ms.map(thousandths));
        let tally = |service: &ServiceStatus| self.tallies.of(&service.name);
        let mut sum = |name: &str, help: &str, value: &dyn Fn(&Tally) -> u64| {
            each(name, "counter", help, text, &|service| tally(service).map(|tally| value(tally).to_string()));
        };
        sum("failed_starts_total", "starts that failed", &|tally| tally.failed_starts);
        sum("restarts_switched_total", "restarts that switched for good", &|tally| tally.switched);
        sum("restarts_rolled_back_total", "restarts that were rolled back", &|tally| tally.rolled_back);
        sum("restarts_not_ready_total", "restarts whose new generation never became ready", &|tally| tally.not_ready);
        sum("drained_connections_total", "old connections that ended by themselves", &|tally| tally.totals.drained);
        sum("cut_connections_total", "old connections in use when they were closed", &|tally| tally.totals.cut);
        sum("idle_closed_connections_total", "idle old connections that were closed", &|tally| tally.totals.idle_closed);
        sum("lost_connections_total", "connections that a failed generation took with it", &|tally| tally.totals.lost);
        sum("listener_gaps_total", "restarts with a time without any listener", &|tally| tally.totals.listener_gaps);
        each("unserved_seconds_total", "counter", "time before switches in which nobody accepted", text, &|service| {
            tally(service).map(|tally| tally.totals.gap.as_secs_f64().to_string())
        });
        for service in &status.services {
            if let Some(tally) = self.tallies.of(&service.name) {
                handovers(text, &service.name, tally);
            }
        }
        std::mem::take(text)
    }
}

fn instance(text: &mut String, status: &InstanceStatus) {
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(text, "# HELP stayput_info which release runs\n# TYPE stayput_info gauge\nstayput_info{{version=\"{version}\"}} 1\n");
    let since = thousandths(status.daemon_ms);
    let _ = write!(
        text,
        "# HELP stayput_daemon_seconds how long this daemon runs: its counters begin with it\n# TYPE stayput_daemon_seconds gauge\nstayput_daemon_seconds {since}\n"
    );
    for (name, help, value) in [
        ("keeper_deaths_total", "times that a keeper was started again", status.keeper_deaths),
        ("daemon_deaths_total", "times that a daemon was started again", status.daemon_deaths),
    ] {
        let _ = write!(text, "# HELP stayput_{name} {help}\n# TYPE stayput_{name} counter\nstayput_{name} {value}\n");
    }
}

fn handovers(text: &mut String, service: &str, tally: &Tally) {
    const NAME: &str = "stayput_handover_seconds";
    if !text.contains(NAME) {
        let _ = write!(text, "# HELP {NAME} from the request for a restart to its switch\n# TYPE {NAME} histogram\n");
    }
    let mut count = 0;
    for (bound, counted) in HANDOVER_BOUNDS.iter().zip(tally.handovers) {
        count += counted;
        let _ = writeln!(text, "{NAME}_bucket{{service=\"{service}\",le=\"{}\"}} {count}", thousandths(*bound));
    }
    let all: u64 = tally.handovers.iter().sum();
    let _ = writeln!(text, "{NAME}_bucket{{service=\"{service}\",le=\"+Inf\"}} {all}");
    let _ = writeln!(text, "{NAME}_sum{{service=\"{service}\"}} {}", tally.handover_sum.as_secs_f64());
    let _ = writeln!(text, "{NAME}_count{{service=\"{service}\"}} {all}");
}

/// So many thousandths as a decimal number.
fn thousandths(count: u64) -> String {
    format!("{}.{:03}", count / 1000, count % 1000)
}
