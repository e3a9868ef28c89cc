//! The dashboard as a service of the instance: what [`stayput_model::dashboard`] needs to know of this machine.

use stayput_model::config::InstanceConfig;
use stayput_model::dashboard::{self, Present};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Adds the dashboard to the services of a configuration that wants one; `control` is the instance's control socket.
pub fn add_dashboard(config: &mut InstanceConfig, control: &Path) {
    add(config, control, None);
}

/// As [`add_dashboard`], where one may run already.
pub(crate) fn add(config: &mut InstanceConfig, control: &Path, present: Option<Present<'_>>) {
    dashboard::install(config, control.as_os_str().as_bytes(), has_ipv6(), present);
}

/// Whether there is a `::1`. Port 0: no real port is taken even for a moment.
fn has_ipv6() -> bool {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).is_ok()
}
