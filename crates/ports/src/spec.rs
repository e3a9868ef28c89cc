//! What people type: port lists and server descriptions. Pure, total, with errors that say what is wrong.

use std::net::IpAddr;

use crate::bind::{Server, Transport};

/// A text that makes no sense, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpec {
    /// The part that is wrong.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl std::fmt::Display for BadSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` {}", stayput_model::text::printable(&self.text), self.reason)
    }
}

impl std::error::Error for BadSpec {}

fn bad(text: &str, reason: &'static str) -> BadSpec {
    BadSpec { text: text.to_owned(), reason }
}

/// One port: 1 to 65535.
///
/// # Errors
/// Not a number, or out of range.
pub fn parse_port(text: &str) -> Result<u16, BadSpec> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad(text, "is not a port: a number from 1 to 65535 is"));
    }
    match text.parse::<u16>() {
        Ok(0) => Err(bad(text, "is no port: it asks the kernel to choose one")),
        Ok(port) => Ok(port),
        Err(_) => Err(bad(text, "is too large for a port: 65535 is the last one")),
    }
}

/// Ports and ranges, separated by commas: `80,8000-8010`. Sorted, without duplicates.
///
/// # Errors
/// A part that is no port, or a range that runs backwards.
pub fn parse_ports(text: &str) -> Result<Vec<u16>, BadSpec> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        if let Some((low, high)) = part.split_once('-') {
            let (low, high) = (parse_port(low.trim())?, parse_port(high.trim())?);
            if low > high {
                return Err(bad(part, "runs backwards: the smaller port comes first"));
            }
            ports.extend(low..=high);
        } else {
            // `:5000` is what people copy from a log.
            ports.push(parse_port(part.strip_prefix(':').unwrap_or(part))?);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// A server: `ADDR[,reuseaddr][,reuseport][,v6only][,udp][,uid=N]`. `*` stands for 0.0.0.0; IPv6 may have brackets.
///
/// # Errors
/// No address, or an option that does not exist.
///
/// ```
/// let server = stayput_ports::spec::parse_server("[::1],reuseaddr,uid=33", 0).unwrap();
/// assert!(server.reuseaddr && server.uid == 33 && server.address.is_loopback());
/// ```
pub fn parse_server(text: &str, uid: u32) -> Result<Server, BadSpec> {
    let mut parts = text.split(',').map(str::trim);
    let address = parts.next().unwrap_or_default();
    let mut server = Server::usual(parse_address(address)?, uid).plain();
    for part in parts {
        match part {
            "reuseaddr" => server.reuseaddr = true,
            "reuseport" => server.reuseport = true,
            "v6only" if server.address.is_ipv6() => server.v6only = true,
            "v6only" => return Err(bad(part, "goes with an IPv6 address only")),
            "udp" => server.transport = Transport::Udp,
            "tcp" => server.transport = Transport::Tcp,
            _ => match part.strip_prefix("uid=").map(str::parse) {
                Some(Ok(uid)) => server.uid = uid,
                Some(Err(_)) => return Err(bad(part, "is not a user id: uid= wants a number")),
                None => return Err(bad(part, "is no option of a server: reuseaddr, reuseport, v6only, udp, uid=N are")),
            },
        }
    }
    Ok(server)
}

fn parse_address(text: &str) -> Result<IpAddr, BadSpec> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare {
        "*" => Ok(IpAddr::from([0, 0, 0, 0])),
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => bare.parse().map_err(|_| bad(text, "is not an IP address, such as 0.0.0.0 or ::1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_and_ranges() {
        assert_eq!(parse_ports("80").unwrap(), [80]);
        assert_eq!(parse_ports(":5000, 80-82,81").unwrap(), [80, 81, 82, 5000]);
        for (text, reason) in [
            ("abc", "is not a port"),
            ("", "is not a port"),
            ("0", "is no port"),
            ("65536", "is too large"),
            ("99999999999999999999", "is too large"),
            ("80-70", "runs backwards"),
            ("-80", "is not a port"),
            ("+80", "is not a port"),
            ("80-", "is not a port"),
            ("80,,81", "is not a port"),
        ] {
            assert!(parse_ports(text).unwrap_err().reason.starts_with(reason), "{text}");
        }
    }

    #[test]
    fn servers() {
        let server = parse_server("0.0.0.0", 5).unwrap();
        assert!(!server.reuseaddr && server.uid == 5 && server.transport == Transport::Tcp);
        let server = parse_server("::,reuseport,v6only,udp", 5).unwrap();
        assert!(server.reuseport && server.v6only && server.transport == Transport::Udp);
        for text in ["", "5000", "0.0.0.0,v6only", "::,reuse", "::,uid=root"] {
            parse_server(text, 0).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn parsers_are_total(text in any::<String>()) {
            let _ = parse_server(&text, 0);
            if let Err(error) = parse_ports(&text) {
                prop_assert!(!error.to_string().chars().any(char::is_control));
            }
        }
    }
}
