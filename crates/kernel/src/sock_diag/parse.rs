//! `struct inet_diag_msg` and its attributes, in both directions (linux/inet_diag.h). Total on arbitrary bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU32;
use std::time::Duration;

use super::{Family, Protocol, Socket, State, TcpInfo, Timer, family_number};
use crate::netlink::{Attributes, u32_at, u64_at};

/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

// `INET_DIAG_*` attributes of replies.
const INFO: u16 = 2;
const SHUTDOWN: u16 = 8;
const PROTOCOL: u16 = 10;
const SKV6ONLY: u16 = 11;
const MARK: u16 = 15;
const ULP_INFO: u16 = 19;
const CGROUP_ID: u16 = 21;
/// `INET_ULP_INFO_NAME` inside `INET_DIAG_ULP_INFO`.
const ULP_NAME: u16 = 1;

/// Reads one reply or event. `None` if it is too short or of a family other than IPv4 and IPv6.
pub fn parse_inet(bytes: &[u8]) -> Option<Socket> {
    let head: &[u8; MESSAGE] = bytes.first_chunk()?;
    let family = match head[0] {
        2 => Family::V4,
        10 => Family::V6,
        _ => return None,
    };
    let word = |offset| u32_at(head, offset).unwrap_or(0);
    let port = |offset: usize| u16::from_be_bytes([head[offset], head[offset + 1]]);
    let interface = NonZeroU32::new(word(40));
    let mut socket = Socket {
        family,
        protocol: Protocol::Tcp,
        state: state(head[1]),
        local: address(family, head.get(8..24)?, port(4), interface)?,
        remote: address(family, head.get(24..40)?, port(6), interface)?,
        inode: word(68),
        uid: word(64),
        rqueue: word(56),
        wqueue: word(60),
        timer: timer(head[2]).map(|timer| (timer, Duration::from_millis(word(52).into()))),
        interface,
        cookie: u64::from(word(44)) | u64::from(word(48)) << 32,
        cgroup_id: None,
        mark: None,
        v6only: None,
        shutdown: None,
        mptcp: None,
        tcp_info: None,
    };
    for (kind, value) in Attributes::new(bytes.get(MESSAGE..).unwrap_or_default()) {
        attribute(&mut socket, kind, value);
    }
    Some(socket)
}

fn attribute(socket: &mut Socket, kind: u16, value: &[u8]) {
    match kind {
        INFO => {
            socket.tcp_info = tcp_info(value);
            socket.mptcp = socket.mptcp.or(Some(false));
        }
        SHUTDOWN => socket.shutdown = value.first().copied(),
        SKV6ONLY => socket.v6only = value.first().map(|flag| *flag != 0),
        MARK => socket.mark = u32_at(value, 0),
        CGROUP_ID => socket.cgroup_id = u64_at(value, 0),
        PROTOCOL => match value.first() {
            Some(17) => socket.protocol = Protocol::Udp,
            Some(6) => socket.protocol = Protocol::Tcp,
            _ => {}
        },
        ULP_INFO => {
            let mptcp = Attributes::new(value).any(|(kind, name)| kind == ULP_NAME && name.starts_with(b"mptcp"));
            socket.mptcp = Some(mptcp);
        }
        _ => {}
    }
}

fn address(family: Family, bytes: &[u8], port: u16, interface: Option<NonZeroU32>) -> Option<SocketAddr> {
    Some(match family {
        Family::V4 => SocketAddrV4::new(Ipv4Addr::from(*bytes.first_chunk::<4>()?), port).into(),
        Family::V6 => {
            let ip = Ipv6Addr::from(*bytes.first_chunk::<16>()?);
            let scope = if ip.is_unicast_link_local() { interface.map_or(0, NonZeroU32::get) } else { 0 };
            SocketAddrV6::new(ip, port, 0, scope).into()
        }
    })
}

pub(super) fn state(number: u8) -> State {
    match number {
        1 => State::Established,
        2 => State::SynSent,
        3 => State::SynRecv,
        4 => State::FinWait1,
        5 => State::FinWait2,
        6 => State::TimeWait,
        // 13 is TCP_BOUND_INACTIVE, should a kernel ever answer with it.
        7 | 13 => State::Close,
        8 => State::CloseWait,
        9 => State::LastAck,
        10 => State::Listen,
        11 => State::Closing,
        12 => State::NewSynRecv,
        other => State::Other(other),
    }
}

pub(super) fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynRecv => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Close => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
        State::NewSynRecv => 12,
        State::Other(number) => number,
    }
}

fn timer(number: u8) -> Option<Timer> {
    match number {
        0 => None,
        1 => Some(Timer::Retransmit),
        2 => Some(Timer::KeepAlive),
        3 => Some(Timer::TimeWait),
        4 => Some(Timer::Probe),
        other => Some(Timer::Other(other)),
    }
}

/// `struct tcp_info`, which grows from version to version: what is beyond the end is `None`.
fn tcp_info(bytes: &[u8]) -> Option<TcpInfo> {
    Some(TcpInfo {
        unacked: u32_at(bytes, 24)?,
        last_data_sent_ms: u32_at(bytes, 44)?,
        last_data_recv_ms: u32_at(bytes, 52)?,
        last_ack_recv_ms: u32_at(bytes, 56)?,
        rtt_us: u32_at(bytes, 68)?,
        total_retrans: u32_at(bytes, 100)?,
        bytes_acked: u64_at(bytes, 120),
        bytes_received: u64_at(bytes, 128),
        notsent_bytes: u32_at(bytes, 144),
    })
}

/// `struct inet_diag_req_v2` that names exactly `socket`.
pub(crate) fn encode_exact(socket: &Socket) -> Vec<u8> {
    let mut out = Vec::with_capacity(super::REQUEST);
    let protocol = u8::try_from(socket.protocol.number()).unwrap_or(6);
    out.extend_from_slice(&[family_number(socket.family), protocol, 0, 0]);
    out.extend_from_slice(&(1_u32 << u32::from(state_number(socket.state)).min(31)).to_ne_bytes());
    out.extend_from_slice(&socket.local.port().to_be_bytes());
    out.extend_from_slice(&socket.remote.port().to_be_bytes());
    for address in [socket.local.ip(), socket.remote.ip()] {
        let start = out.len();
        match address {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
        out.resize(start + 16, 0);
    }
    out.extend_from_slice(&socket.interface.map_or(0, NonZeroU32::get).to_ne_bytes());
    out.extend_from_slice(&(socket.cookie as u32).to_ne_bytes());
    out.extend_from_slice(&((socket.cookie >> 32) as u32).to_ne_bytes());
    out
}
