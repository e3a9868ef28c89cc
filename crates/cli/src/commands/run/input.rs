//! What people type after `stayput run`, made into values by the parsers that read `stayput.toml`: what may stand there may stand here, and is refused in
//! the same words. Pure: nothing here asks the system.

use crate::error::{Error, Kind};
use stayput_config::value::{self, Wrong, covers};
use stayput_model::config::Readiness;
use std::net::SocketAddr;
use std::time::Duration;

/// What was typed behind an option, or why it is no such value.
pub(super) fn typed<T>(option: &str, text: &str, parsed: Result<T, Wrong>) -> Result<T, Error> {
    parsed.map_err(|Wrong { message, hint }| {
        let error = Error::new(Kind::BadInput, format!("{option} {text:?}: {message}"));
        hint.into_iter().fold(error, Error::hint)
    })
}

/// `--port [ADDR:]PORT`, each once. A bare port means every IPv4 address.
pub(super) fn ports(texts: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let mut ports: Vec<SocketAddr> = Vec::new();
    for text in texts {
        let address = typed("--port", text, value::port(text))?;
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

/// A duration such as `30s`, `500ms` or `1m30s`.
pub(in crate::commands) fn duration(option: &str, text: &str) -> Result<Duration, Error> {
    typed(option, text, value::duration(text))
}

/// `--ready accept|http:/path|notify|log:REGEX`.
pub(super) fn readiness(text: &str) -> Result<Readiness, Error> {
    typed("--ready", text, value::readiness(text))
}

/// `--stop-signal`: a name with or without `SIG`, or the number of one of these.
pub(super) fn signal(text: &str) -> Result<i32, Error> {
    typed("--stop-signal", text, value::signal(text))
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
            ("localhost:5000", "write 127.0.0.1:5000"),
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
