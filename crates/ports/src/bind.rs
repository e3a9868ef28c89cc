//! The bind rule: which sockets stop a bind(), as a pure function.
//!
//! For **each** socket on the port whose address and device overlap the new one's, TCP's bind() gives EADDRINUSE unless
//!
//! - both have SO_REUSEADDR and the old one does not listen, or
//! - both have SO_REUSEPORT and the old one is in TIME_WAIT or belongs to the same user.
//!
//! The options count per socket: an accepted connection has a copy of the listener's, made at accept; TIME_WAIT keeps them.
//! So what the *old* server set decides as much as what the new one sets. UDP is the same with two differences: there is no
//! listening, and SO_REUSEADDR asks for no same user. (net/ipv4/inet_connection_sock.c `inet_bind_conflict`, net/ipv4/udp.c
//! `inet_rcv_saddr_equal` and its callers; tested cell by cell against a real kernel in `tests/matrix.rs`.)
//!
//! Options that nobody could read are `None`, and the answer may then be [`Clash::Depends`].

use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::Serialize;

/// Which port space: TCP and UDP never stand in each other's way; MPTCP lives in TCP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP and MPTCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `TCP` or `UDP`, for sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// The one thing about an old socket's state that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// LISTEN.
    Listen,
    /// TIME_WAIT, and the orphan of FIN_WAIT2 that the kernel keeps in the same form.
    TimeWait,
    /// Everything else that is bound: bound only, connected, closing.
    Other,
}

/// An existing socket, as far as the rule is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its port space.
    pub transport: Transport,
    /// Its local address.
    pub address: IpAddr,
    /// IPV6_V6ONLY; `None` is taken as "may be dual".
    pub v6only: Option<bool>,
    /// Interface index of SO_BINDTODEVICE.
    pub device: Option<NonZeroU32>,
    /// Its state.
    pub occupancy: Occupancy,
    /// SO_REUSEADDR, if known.
    pub reuseaddr: Option<bool>,
    /// SO_REUSEPORT, if known.
    pub reuseport: Option<bool>,
    /// Its owner, if known.
    pub uid: Option<u32>,
}

/// A server that wants to bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Port space.
    pub transport: Transport,
    /// Address.
    pub address: IpAddr,
    /// SO_REUSEADDR is set before bind().
    pub reuseaddr: bool,
    /// SO_REUSEPORT is set before bind().
    pub reuseport: bool,
    /// IPV6_V6ONLY is set before bind().
    pub v6only: bool,
    /// Its user.
    pub uid: u32,
}

impl Server {
    /// A TCP server of `uid` on `address` with SO_REUSEADDR: what almost every server is.
    pub fn usual(address: IpAddr, uid: u32) -> Self {
        Self { transport: Transport::Tcp, address, reuseaddr: true, reuseport: false, v6only: false, uid }
    }

    /// The same without SO_REUSEADDR: `socketserver.TCPServer`, Perl's IO::Socket::INET, hand-written C.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.reuseaddr = false;
        self
    }
}

/// Whether one old socket stops a new bind().
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// It does not.
    No,
    /// It does: EADDRINUSE.
    Yes,
    /// That depends on an option of the old socket that could not be read.
    Depends,
}

/// The rule, for one old socket.
///
/// ```
/// use stayput_ports::bind::{Bound, Clash, Occupancy, Server, Transport, clash};
/// let any = "0.0.0.0".parse().unwrap();
/// let time_wait = Bound {
///     transport: Transport::Tcp,
///     address: "127.0.0.1".parse().unwrap(),
///     v6only: None,
///     device: None,
///     occupancy: Occupancy::TimeWait,
///     reuseaddr: Some(false),
///     reuseport: Some(false),
///     uid: None,
/// };
/// // The old server lacked SO_REUSEADDR: setting it in the new one does not help.
/// assert_eq!(clash(&Server::usual(any, 0), &time_wait), Clash::Yes);
/// assert_eq!(clash(&Server::usual(any, 0), &Bound { reuseaddr: Some(true), ..time_wait }), Clash::No);
/// ```
pub fn clash(new: &Server, old: &Bound) -> Clash {
    if new.transport != old.transport || !overlaps(new, old) {
        return Clash::No;
    }
    let same_user = old.uid.map(|uid| uid == new.uid);
    let by_address = match (old.transport, old.occupancy) {
        (Transport::Tcp, Occupancy::Listen) => Some(false),
        _ => and(Some(new.reuseaddr), old.reuseaddr),
    };
    let user_allowed = match (old.transport, old.occupancy) {
        (Transport::Tcp, Occupancy::TimeWait) => Some(true),
        _ => same_user,
    };
    let by_port = and(and(Some(new.reuseport), old.reuseport), user_allowed);
    match (by_address, by_port) {
        (Some(true), _) | (_, Some(true)) => Clash::No,
        (Some(false), Some(false)) => Clash::Yes,
        _ => Clash::Depends,
    }
}

/// Three-valued "and": what is false is false, whatever is not known.
fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Whether the two could receive the same packet: addresses (`inet_rcv_saddr_equal`) and devices.
pub fn overlaps(new: &Server, old: &Bound) -> bool {
    // bind() of a device-bound server is not modelled: a new server has no device, which overlaps all.
    let (new_ip, old_ip) = (unmapped(new.address), unmapped(old.address));
    match (new_ip, old_ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.is_unspecified() || b.is_unspecified() || a == b,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.is_unspecified() || b.is_unspecified() || a == b,
        (IpAddr::V6(a), IpAddr::V4(_)) => a.is_unspecified() && !new.v6only,
        (IpAddr::V4(_), IpAddr::V6(b)) => b.is_unspecified() && old.v6only != Some(true),
    }
}

/// `::ffff:127.0.0.1` acts as 127.0.0.1.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn old(occupancy: Occupancy, reuseaddr: bool, reuseport: bool) -> Bound {
        Bound {
            transport: Transport::Tcp,
            address: "0.0.0.0".parse().unwrap(),
            v6only: None,
            device: None,
            occupancy,
            reuseaddr: Some(reuseaddr),
            reuseport: Some(reuseport),
            uid: Some(7),
        }
    }

    fn row(old: &Bound) -> String {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(reuseaddr, reuseport)| {
                let new = Server { reuseaddr, reuseport, ..Server::usual("0.0.0.0".parse().unwrap(), 7) };
                match clash(&new, old) {
                    Clash::No => 'o',
                    Clash::Yes => 'x',
                    Clash::Depends => '?',
                }
            })
            .iter()
            .collect()
    }

    /// New server: none, RA, RP, RA+RP.
    #[test]
    fn the_measured_matrix() {
        use Occupancy::{Listen, Other, TimeWait};
        for (occupancy, reuseaddr, reuseport, expected) in [
            (Listen, false, false, "xxxx"),
            (Listen, true, false, "xxxx"),
            (Listen, false, true, "xxoo"),
            (Listen, true, true, "xxoo"),
            (Other, false, false, "xxxx"),
            (Other, true, false, "xoxo"),
            (Other, false, true, "xxoo"),
            (Other, true, true, "xooo"),
            (TimeWait, false, false, "xxxx"),
            (TimeWait, true, false, "xoxo"),
            (TimeWait, false, true, "xxoo"),
            (TimeWait, true, true, "xooo"),
        ] {
            assert_eq!(row(&old(occupancy, reuseaddr, reuseport)), expected, "{occupancy:?} {reuseaddr} {reuseport}");
        }
    }

    #[test]
    fn another_user_may_not_share_a_listener_but_may_follow_a_time_wait() {
        let stranger = |occupancy| Bound { uid: Some(8), ..old(occupancy, false, true) };
        assert_eq!(row(&stranger(Occupancy::Listen)), "xxxx");
        assert_eq!(row(&stranger(Occupancy::Other)), "xxxx");
        assert_eq!(row(&stranger(Occupancy::TimeWait)), "xxoo");
    }

    #[test]
    fn addresses_overlap_as_measured() {
        // Rows: old socket; columns: new server.
        let addresses = [("0.0.0.0", false), ("127.0.0.1", false), ("127.0.0.2", false), ("::", false), ("::", true), ("::1", false)];
        let expected = ["xxxxoo", "xxoxoo", "xoxxoo", "xxxxxx", "oooxxx", "oooxxx"];
        for ((address, v6only), expected) in addresses.iter().zip(expected) {
            let old = Bound { address: address.parse().unwrap(), v6only: Some(*v6only), ..old(Occupancy::Listen, true, false) };
            let row: String = addresses
                .iter()
                .map(|(address, v6only)| {
                    let new = Server { v6only: *v6only, ..Server::usual(address.parse().unwrap(), 7) };
                    if clash(&new, &old) == Clash::Yes { 'x' } else { 'o' }
                })
                .collect();
            assert_eq!(row, expected, "{address} v6only={v6only}");
        }
    }

    proptest! {
        /// Learning an unknown option never contradicts what was said before.
        #[test]
        fn knowing_more_only_refines(
            listen in 0..3, ra: bool, rp: bool, old_ra: bool, old_rp: bool, hide_ra: bool, hide_rp: bool, hide_uid: bool, uid in 6_u32..9,
            udp: bool,
        ) {
            let transport = if udp { Transport::Udp } else { Transport::Tcp };
            let occupancy = [Occupancy::Listen, Occupancy::TimeWait, Occupancy::Other][usize::try_from(listen).unwrap()];
            let full = Bound { transport, uid: Some(uid), ..old(occupancy, old_ra, old_rp) };
            let mut partial = full.clone();
            if hide_ra { partial.reuseaddr = None; }
            if hide_rp { partial.reuseport = None; }
            if hide_uid { partial.uid = None; }
            let new = Server { transport, reuseaddr: ra, reuseport: rp, ..Server::usual("0.0.0.0".parse().unwrap(), 7) };
            let (known, guessed) = (clash(&new, &full), clash(&new, &partial));
            prop_assert_ne!(known, Clash::Depends);
            prop_assert!(guessed == known || guessed == Clash::Depends);
        }
    }
}
