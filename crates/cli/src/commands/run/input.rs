//! What people type after `stayput run`, made into values. Pure: nothing here asks the system.

use crate::error::{Error, Kind};
use rustix::process::Signal;
use stayput_model::config::Readiness;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const LONGEST: Duration = Duration::from_hours(366 * 24);

/// `--port [ADDR:]PORT`, each once. A bare port means every IPv4 address.
pub(super) fn ports(texts: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let mut ports: Vec<SocketAddr> = Vec::new();
    for text in texts {
        let address = port(text)?;
        if let Some(earlier) = ports.iter().find(|earlier| covers(earlier, &address) || covers(&address, earlier)) {
            let what = if *earlier == address {
                format!("--port {text}: {address} is given twice")
            } else {
                format!("--port {text}: {address} and {earlier} cover each other")
            };
            return Err(Error::new(Kind::BadInput, what).hint("give each port once"));
        }
        ports.push(address);
    }
    Ok(ports)
}

fn port(text: &str) -> Result<SocketAddr, Error> {
    let wrong = |why: &str, hint: &str| Err(Error::new(Kind::BadInput, format!("--port {text:?}: {why}")).hint(hint));
    let (host, number) = match text.rsplit_once(':') {
        None => (None, text),
        Some((host, number)) => (Some(host), number),
    };
    if number.parse::<Ipv4Addr>().is_ok() {
        return wrong("this is an address without a port", &format!("write --port {text}:PORT"));
    }
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("the port is not a number", "write it like --port 8000, --port 127.0.0.1:8000 or --port [::1]:8000");
    }
    let number = match number.parse::<u16>() {
        Ok(0) => return wrong("port 0 means \"any port\": nothing can be held for it", "give a number from 1 to 65535"),
        Ok(number) => number,
        Err(_) => return wrong("there is no such port", "give a number from 1 to 65535"),
    };
    let Some(host) = host else {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), number));
    };
    let address =
        if host.starts_with('[') { text.parse().ok() } else { host.parse::<Ipv4Addr>().ok().map(|ip| SocketAddr::new(ip.into(), number)) };
    match address {
        Some(address) => Ok(address),
        None if host.parse::<IpAddr>().is_ok() => wrong("an IPv6 address needs brackets", &format!("write --port [{host}]:{number}")),
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => {
            wrong("an IPv6 address needs brackets and a port", &format!("write --port [{text}]:PORT"))
        }
        None if host == "localhost" => wrong("names are not looked up", &format!("write --port 127.0.0.1:{number}")),
        None => wrong(&format!("{host:?} is not an IP address"), "write it like --port 127.0.0.1:8000 or --port [::1]:8000"),
    }
}

/// Whether a listener on `wide` leaves no room for one on `narrow`.
fn covers(wide: &SocketAddr, narrow: &SocketAddr) -> bool {
    wide == narrow || (wide.port() == narrow.port() && wide.is_ipv4() == narrow.is_ipv4() && wide.ip().is_unspecified())
}

/// A duration such as `30s`, `500ms` or `1m30s`.
pub(in crate::commands) fn duration(option: &str, text: &str) -> Result<Duration, Error> {
    let wrong = |why: &str| {
        let hint = match text.parse::<u32>() {
            Ok(number) => format!("{number} of what? write {number}s for seconds, {number}ms for milliseconds"),
            Err(_) => "write it like 30s, 500ms, 2m, 1h or 1m30s".to_owned(),
        };
        Error::new(Kind::BadInput, format!("{option} {text:?}: {why}")).hint(hint)
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|character: char| character.is_ascii_digit()).map_or(rest.len(), |at| at + digits);
        let number: u64 = rest[..digits].parse().map_err(|_| wrong("not a duration"))?;
        let milliseconds = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return Err(wrong("not a duration")),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis);
        sum = part.and_then(|part| sum.checked_add(part)).filter(|sum| *sum <= LONGEST).ok_or_else(|| wrong("longer than a year"))?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong("not a duration")) } else { Ok(sum) }
}

/// `--ready accept|http:/path|notify|log:REGEX`.
pub(super) fn readiness(text: &str) -> Result<Readiness, Error> {
    let forms = "write --ready accept, --ready http:/health, --ready notify or --ready log:REGEX";
    let wrong = |why: String| Error::new(Kind::BadInput, format!("--ready {text:?}: {why}"));
    if let Some(pattern) = text.strip_prefix("log:") {
        if pattern.is_empty() {
            return Err(wrong("an empty expression matches every line".to_owned()).hint("write --ready 'log:listening on'"));
        }
        return match regex_lite::Regex::new(pattern) {
            Ok(_) => Ok(Readiness::Log { pattern: pattern.to_owned() }),
            Err(error) => Err(wrong("not a regular expression".to_owned())
                .because(&error)
                .hint("the syntax is that of https://docs.rs/regex-lite; a literal ( [ { . * + ? needs a backslash")),
        };
    }
    if let Some(target) = text.strip_prefix("http:") {
        let (host, path) = match target.strip_prefix("//") {
            None => (None, target),
            Some(rest) => {
                let slash = rest.find('/').unwrap_or(rest.len());
                (Some(rest[..slash].to_owned()).filter(|host| !host.is_empty()), &rest[slash..])
            }
        };
        let path = if path.is_empty() && host.is_some() { "/" } else { path };
        if !path.starts_with('/') {
            return Err(wrong("the path does not begin with a slash".to_owned()).hint("write --ready http:/health"));
        }
        let sendable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !sendable(path) || !host.as_deref().is_none_or(sendable) {
            return Err(
                wrong("a space or a character that is not ASCII cannot be sent".to_owned()).hint("percent-encode it: %20 is a space")
            );
        }
        return Ok(Readiness::Http { path: path.to_owned(), host });
    }
    match text {
        "accept" => Ok(Readiness::Accept),
        "notify" => Ok(Readiness::Notify),
        _ => Err(wrong("there is no such check".to_owned()).hint(forms)),
    }
}

const SIGNALS: [(&str, Signal); 11] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("PWR", Signal::POWER),
    ("KILL", Signal::KILL),
];

/// `--stop-signal`: a name with or without `SIG`, or the number of one of these.
pub(super) fn signal(text: &str) -> Result<i32, Error> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = text.parse::<i32>().ok();
    let known = SIGNALS.iter().find(|(known, signal)| *known == name || Some(signal.as_raw()) == number);
    known.map(|(_, signal)| signal.as_raw()).ok_or_else(|| {
        let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        Error::new(Kind::BadInput, format!("--stop-signal {text:?}: there is no such stop signal"))
            .hint(format!("use one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        format!("{:?}", result.unwrap_err())
    }

    #[test]
    fn ports_as_people_write_them() {
        let given = ["8000", "127.0.0.1:5000", "[::1]:5000", "[::]:6000", "65535"].map(str::to_owned);
        let held: Vec<_> = ports(&given).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(held, ["0.0.0.0:8000", "127.0.0.1:5000", "[::1]:5000", "[::]:6000", "0.0.0.0:65535"]);
    }

    #[test]
    fn ports_that_make_no_sense() {
        for (text, part) in [
            ("0", "any port"),
            ("70000", "no such port"),
            ("99999999999999999999", "no such port"),
            ("http", "not a number"),
            ("", "not a number"),
            ("-1", "not a number"),
            ("+80", "not a number"),
            ("127.0.0.1", "without a port"),
            ("127.0.0.1:", "not a number"),
            (":8000", "not an IP address"),
            ("::1:5000", "brackets"),
            ("::1", "brackets"),
            ("localhost:5000", "--port 127.0.0.1:5000"),
            ("256.0.0.1:80", "not an IP address"),
            ("[::1]", "not a number"),
            ("[::1:80", "not an IP address"),
            ("8000/tcp", "not a number"),
        ] {
            let error = shown(ports(&[text.to_owned()]));
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_is_given_once() {
        let both = |one: &str, other: &str| ports(&[one.to_owned(), other.to_owned()]);
        assert!(shown(both("5000", "0.0.0.0:5000")).contains("twice"));
        assert!(shown(both("5000", "127.0.0.1:5000")).contains("cover"));
        assert!(shown(both("[::1]:5000", "[::]:5000")).contains("cover"));
        assert!(both("127.0.0.1:5000", "127.0.0.2:5000").is_ok());
        assert!(both("127.0.0.1:5000", "[::1]:5000").is_ok());
    }

    #[test]
    fn durations() {
        let at = |text| duration("--drain", text);
        for (text, milliseconds) in
            [("0", 0), ("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(at(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in
            ["", "5 bananas", "s", "30", "-1s", "1.5s", "1s2", "10 s", "\u{661}s", "99999999999999999999s", "9999999999999999s", "400d"]
        {
            assert!(at(text).is_err(), "{text:?}");
        }
        assert!(shown(at("30")).contains("30s for seconds"));
    }

    #[test]
    fn readiness_checks() {
        assert_eq!(readiness("accept").unwrap(), Readiness::Accept);
        assert_eq!(readiness("notify").unwrap(), Readiness::Notify);
        assert_eq!(readiness("http:/a?b=c").unwrap(), Readiness::Http { path: "/a?b=c".to_owned(), host: None });
        assert_eq!(
            readiness("http://shop.example").unwrap(),
            Readiness::Http { path: "/".to_owned(), host: Some("shop.example".to_owned()) }
        );
        assert_eq!(readiness("log:^up$").unwrap(), Readiness::Log { pattern: "^up$".to_owned() });
        for text in ["", "Accept", "http", "http:", "http:health", "http:/a b", "http:/a\r\nHost: x", "log:", "log:(", "tcp"] {
            assert!(readiness(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn stop_signals() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(text).unwrap(), 15, "{text}");
        }
        for text in ["", "SIG", "NOPE", "0", "-9", "STOP", "SEGV", "64"] {
            assert!(signal(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in any::<String>()) {
            let _ = ports(std::slice::from_ref(&text));
            let _ = duration("--drain", &text);
            let _ = readiness(&text);
            let _ = signal(&text);
        }
    }
}
