//! The dashboard as a service of its instance: its command, its policy, and which ports it may have.
//!
//! It is a service like any other, but for two things: a pattern does not mean it ([`ServiceConfig::own`]), and it has no claim to its port.
//! A service of the configuration that names or binds the port gets it, and the dashboard goes to the next one.

use crate::config::{Dashboard, InstanceConfig, Readiness, ServiceConfig};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Its name, unless a service of the configuration has it.
pub const NAME: &str = "dashboard";
/// Its name then.
const OTHER_NAME: &str = "stayput-dashboard";
/// The program that it is: that of the keeper, which executes it. A path would be another program after an update of the file, and none
/// after its removal; this one always speaks the daemon's protocol.
const PROGRAM: &[u8] = b"/proc/self/exe";
/// Before its addresses on the command line; they come last.
const LISTEN: &[u8] = b"--listen";
/// How far it goes from the port that it was to have.
const FARTHEST: u16 = 200;

/// Where a dashboard that runs is, so that a reload does not move it without need.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// What it was asked to be.
    pub asked: &'a Dashboard,
    /// What it is.
    pub service: &'a ServiceConfig,
}

/// Adds the service to a configuration that wants a dashboard. `control` is the path of the instance's control socket; `ipv6`: this machine
/// has the address `::1`.
pub fn install(config: &mut InstanceConfig, control: &[u8], ipv6: bool, present: Option<Present<'_>>) {
    let Some(dashboard) = &config.dashboard else { return };
    let mut listen = dashboard.listen.clone();
    if !dashboard.declared && !ipv6 {
        listen.retain(SocketAddr::is_ipv4);
    }
    let wanted = Wanted::of(config);
    let stays = present.filter(|present| present.asked.listen == dashboard.listen && present.asked.declared == dashboard.declared);
    let ports = match stays.map(|present| &present.service.ports) {
        Some(ports) if !ports.iter().any(|port| wanted.has(port)) => ports.clone(),
        _ => beside(&listen, |address| wanted.has(address)).unwrap_or(listen),
    };
    let mut argv = vec![PROGRAM.to_vec(), b"dashboard".to_vec(), b"--control".to_vec(), control.to_vec()];
    if dashboard.read_only {
        argv.push(b"--read-only".to_vec());
    }
    let mut service = ServiceConfig {
        own: true,
        readiness: Readiness::Http { path: "/healthz".to_owned(), host: None },
        // What it has open are streams, which a page resumes at the next generation.
        drain: Duration::from_secs(1),
        soak: Duration::from_secs(1),
        grace: Duration::from_secs(2),
        ..ServiceConfig::new(name(config), argv)
    };
    listen_on(&mut service, ports);
    config.services.push(service);
}

/// Its name beside the services of the configuration.
fn name(config: &InstanceConfig) -> String {
    let is_free = |name: &String| config.services.iter().all(|service| service.name != *name);
    let names = [NAME, OTHER_NAME].into_iter().map(str::to_owned);
    let mut names = names.chain((2_u32..).map(|number| format!("{OTHER_NAME}-{number}")));
    names.find(is_free).unwrap_or_else(|| OTHER_NAME.to_owned())
}

/// Its addresses are these from its next generation on.
pub(crate) fn listen_on(service: &mut ServiceConfig, ports: Vec<SocketAddr>) {
    if let Some(first) = service.argv.iter().position(|word| word == LISTEN) {
        service.argv.truncate(first);
    }
    service.argv.extend(ports.iter().flat_map(|port| [LISTEN.to_vec(), port.to_string().into_bytes()]));
    service.ports = ports;
}

/// These addresses, all moved by the fewest ports up so that none of them is taken.
pub(crate) fn beside(listen: &[SocketAddr], is_taken: impl Fn(&SocketAddr) -> bool) -> Option<Vec<SocketAddr>> {
    let moved = |by: u16| listen.iter().map(|at| Some(SocketAddr::new(at.ip(), at.port().checked_add(by)?))).collect::<Option<Vec<_>>>();
    (0..=FARTHEST).map_while(moved).find(|ports| !ports.iter().any(&is_taken))
}

/// Whether a listener on one of them is in the way of the other. An address on all of IPv6 may be one on all of IPv4 as well.
pub(crate) fn clash(one: &SocketAddr, other: &SocketAddr) -> bool {
    let covers = |wide: &SocketAddr, narrow: &SocketAddr| match wide.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    one.port() == other.port() && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

/// What the services of a configuration want for themselves.
struct Wanted {
    declared: Vec<SocketAddr>,
    /// A service that is told its port by `PORT`, as those of a Procfile are, will bind it.
    told: Vec<u16>,
}

impl Wanted {
    fn of(config: &InstanceConfig) -> Self {
        let theirs = || config.services.iter().filter(|service| !service.disabled && !service.own);
        let port = |env: &'_ [Vec<u8>]| {
            let last = env.iter().rev().find_map(|entry| entry.strip_prefix(b"PORT=").map(<[u8]>::to_vec));
            last.map(|value| std::str::from_utf8(&value).ok().and_then(|value| value.trim().parse::<u16>().ok()))
        };
        let base = port(&config.env).flatten();
        Self {
            declared: theirs().flat_map(|service| service.ports.iter().copied()).collect(),
            told: theirs().filter_map(|service| port(&service.env).unwrap_or(base)).collect(),
        }
    }

    fn has(&self, address: &SocketAddr) -> bool {
        self.told.contains(&address.port()) || self.declared.iter().any(|declared| clash(declared, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mode, ReportStyle};

    fn listen() -> Vec<SocketAddr> {
        ["127.0.0.1:5000", "[::1]:5000"].map(|address| address.parse().unwrap()).to_vec()
    }

    fn config(services: Vec<ServiceConfig>) -> InstanceConfig {
        let dashboard = Some(Dashboard { listen: listen(), declared: false, read_only: false });
        InstanceConfig { dashboard, services, ..InstanceConfig::new("shop", Mode::Up, ReportStyle::Plain) }
    }

    fn service(name: &str, change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
        let mut service = ServiceConfig::new(name, vec![b"server".to_vec()]);
        change(&mut service);
        service
    }

    /// Name and command line of the dashboard beside these services.
    fn beside_these(services: Vec<ServiceConfig>) -> String {
        let mut config = config(services);
        install(&mut config, b"/run/c", true, None);
        let own = config.services.last().unwrap();
        assert!(own.own);
        format!("{}: {}", own.name, String::from_utf8(own.argv[2..].join(&b' ')).unwrap())
    }

    #[test]
    fn a_service_that_wants_the_port_has_it() {
        let on = |port: u16| format!("--control /run/c --listen 127.0.0.1:{port} --listen [::1]:{port}");
        assert_eq!(beside_these(vec![]), format!("dashboard: {}", on(5000)));
        for wide in ["0.0.0.0:5000", "[::]:5000", "127.0.0.1:5000", "[::1]:5000"] {
            let web = service("web", |web| web.ports = vec![wide.parse().unwrap()]);
            assert_eq!(beside_these(vec![web]), format!("dashboard: {}", on(5001)), "{wide}");
        }
        let other = service("web", |web| web.ports = vec!["192.0.2.1:5000".parse().unwrap()]);
        assert_eq!(beside_these(vec![other]), format!("dashboard: {}", on(5000)));
        // As a Procfile tells them.
        let web = service("web", |web| web.env = vec![b"PORT=5000".to_vec()]);
        let more = service("dashboard", |more| more.ports = vec!["127.0.0.1:5001".parse().unwrap()]);
        assert_eq!(beside_these(vec![web, more]), format!("stayput-dashboard: {}", on(5002)));
        let off = service("web", |web| (web.ports, web.disabled) = (listen(), true));
        assert_eq!(beside_these(vec![off]), format!("dashboard: {}", on(5000)));
    }

    #[test]
    fn a_reload_moves_it_only_if_it_must() {
        let mut first = config(vec![]);
        install(&mut first, b"/c", true, None);
        let mut service = first.services[0].clone();
        listen_on(&mut service, vec!["127.0.0.1:5003".parse().unwrap()]);
        let asked = first.dashboard.clone().unwrap();
        let present = Present { asked: &asked, service: &service };
        let ports = |mut config: InstanceConfig, present| {
            install(&mut config, b"/c", true, Some(present));
            config.services.pop().unwrap().ports[0].port()
        };
        assert_eq!(ports(config(vec![]), present), 5003);
        let wants = |port: u16| self::service("web", |web| web.ports = vec![SocketAddr::from(([127, 0, 0, 1], port))]);
        assert_eq!(ports(config(vec![wants(5003)]), present), 5000);
        let mut elsewhere = config(vec![]);
        elsewhere.dashboard = Some(Dashboard { listen: vec!["127.0.0.1:7000".parse().unwrap()], declared: true, read_only: false });
        assert_eq!(ports(elsewhere, present), 7000);
    }

    #[test]
    fn without_ipv6_it_is_on_ipv4_alone() {
        let mut config = config(vec![]);
        install(&mut config, b"/c", false, None);
        assert_eq!(config.services[0].ports, listen()[..1]);
        assert_eq!(beside(&["127.0.0.1:65535".parse().unwrap()], |_| true), None);
    }
}
