//! Single values as people write them: times, sizes, addresses, signals, checks. Pure.
//!
//! No message repeats the value; see [`Wrong`].

use stayput_model::config::Readiness;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Longest time that can be written.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// Why a text is no such value. Who shows it knows the text, and whether it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong, lower-case, no full stop.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

/// A time such as `30s`, `500ms`, `1m30s` or `0`. Units: `ms`, `s`, `m`, `min`, `h`, `d`.
///
/// # Errors
/// [`Wrong`]: not of that form, or longer than a year.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(stayput_config::value::duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(stayput_config::value::duration("30").is_err());
/// ```
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = || match text.parse::<u32>() {
        Ok(number) => Wrong::new("a time without a unit", format!("write {number}s for seconds, {number}ms for milliseconds")),
        Err(_) => Wrong::new("not a time", "write it like 30s, 500ms, 2m, 1h or 1m30s"),
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|character: char| character.is_ascii_digit()).map_or(rest.len(), |at| at + digits);
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let milliseconds = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis);
        let longer = || Wrong::new("longer than a year", "a year is 366d");
        sum = part.and_then(|part| sum.checked_add(part)).filter(|sum| *sum <= LONGEST).ok_or_else(longer)?;
        rest = &rest[unit_end..];
    }
    Ok(sum)
}

/// A size in bytes such as `512M`: `K`, `M`, `G`, `T` are powers of 1024, with `iB` or without.
///
/// # Errors
/// [`Wrong`]: not of that form, or more than fits.
pub fn size(text: &str) -> Result<u64, Wrong> {
    let forms = "write it like 512M, 2G, 64K or a number of bytes";
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[digits..] {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        "KB" | "MB" | "GB" | "TB" | "kB" | "k" | "m" | "g" | "t" => {
            return Err(Wrong::new("1000 or 1024? this unit is read both ways", "write K, M, G or T: they are powers of 1024"));
        }
        _ => return Err(Wrong::new("not a size", forms)),
    };
    let number: u64 = text[..digits].parse().map_err(|_| Wrong::new("not a size", forms))?;
    let fits = number.checked_mul(1 << shift).filter(|bytes| *bytes < 1 << 60);
    fits.ok_or_else(|| Wrong::new("more bytes than any machine has", forms))
}

/// An address to listen on: `8000`, `127.0.0.1:8000` or `[::1]:8000`. A bare port means every IPv4 address.
///
/// # Errors
/// [`Wrong`]: not of that form, or port 0.
pub fn port(text: &str) -> Result<SocketAddr, Wrong> {
    let forms = "write it like 8000, 127.0.0.1:8000 or [::1]:8000";
    let (host, number) = match text.rsplit_once(':') {
        None => (None, text),
        Some((host, number)) => (Some(host), number),
    };
    if number.parse::<Ipv4Addr>().is_ok() {
        return Err(Wrong::new("this is an address without a port", "write ADDRESS:PORT, like 127.0.0.1:8000"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Wrong::new("an IPv6 address needs brackets and a port", "write it like [::1]:8000"));
    }
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new("the port is not a number", forms));
    }
    let Ok(number) = number.parse::<i64>() else { return Err(no_such_port()) };
    let number = port_number(number)?;
    let Some(host) = host else {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), number));
    };
    let address =
        if host.starts_with('[') { text.parse().ok() } else { host.parse::<Ipv4Addr>().ok().map(|ip| SocketAddr::new(ip.into(), number)) };
    address.ok_or_else(|| match host {
        _ if host.parse::<IpAddr>().is_ok() => Wrong::new("an IPv6 address needs brackets", "write it like [::1]:8000"),
        "localhost" => Wrong::new("names are not looked up", format!("write 127.0.0.1:{number} or [::1]:{number}")),
        _ => Wrong::new("the part before the port is not an IP address", forms),
    })
}

/// A port's number.
///
/// # Errors
/// [`Wrong`]: 0, or more than 65535.
pub fn port_number(number: i64) -> Result<u16, Wrong> {
    match u16::try_from(number) {
        Ok(0) => Err(Wrong::new("port 0 means \"any port\": nothing can be held for it", "give a number from 1 to 65535")),
        Ok(number) => Ok(number),
        Err(_) => Err(no_such_port()),
    }
}

fn no_such_port() -> Wrong {
    Wrong::new("there is no such port", "give a number from 1 to 65535")
}

/// Whether a listener on `wide` leaves no room for one on `narrow`.
pub fn covers(wide: &SocketAddr, narrow: &SocketAddr) -> bool {
    wide == narrow || (wide.port() == narrow.port() && wide.is_ipv4() == narrow.is_ipv4() && wide.ip().is_unspecified())
}

/// Signals that may ask a service to stop, with their numbers on Linux (signal(7); the same on all architectures that stayput runs on).
pub const SIGNALS: [(&str, i32); 11] = [
    ("TERM", 15),
    ("INT", 2),
    ("QUIT", 3),
    ("HUP", 1),
    ("USR1", 10),
    ("USR2", 12),
    ("WINCH", 28),
    ("ABRT", 6),
    ("ALRM", 14),
    ("PWR", 30),
    ("KILL", 9),
];

/// A stop signal: a name of [`SIGNALS`] with or without `SIG`, in any case, or the number of one.
///
/// # Errors
/// [`Wrong`]: none of these.
pub fn signal(text: &str) -> Result<i32, Wrong> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = text.parse::<i32>().ok();
    let found = SIGNALS.iter().find(|(known, of_it)| *known == name || Some(*of_it) == number);
    found.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        Wrong::new("not a signal that stops a service", format!("one of {}", names.join(", ")))
    })
}

/// A readiness check: `accept`, `notify`, `http:/path`, `http://host/path`, `log:REGEX`.
///
/// # Errors
/// [`Wrong`]: none of these, or what follows the colon is unfit.
pub fn readiness(text: &str) -> Result<Readiness, Wrong> {
    if let Some(pattern) = text.strip_prefix("log:") {
        return expression(pattern).map(|pattern| Readiness::Log { pattern });
    }
    if let Some(target) = text.strip_prefix("http:") {
        let (host, path) = match target.strip_prefix("//") {
            None => (None, target),
            Some(rest) => {
                let slash = rest.find('/').unwrap_or(rest.len());
                (Some(&rest[..slash]).filter(|host| !host.is_empty()), &rest[slash..])
            }
        };
        let path = if path.is_empty() && host.is_some() { "/" } else { path };
        let host = host.map(http_host).transpose()?;
        return Ok(Readiness::Http { path: http_path(path)?, host });
    }
    match text {
        "accept" => Ok(Readiness::Accept),
        "notify" => Ok(Readiness::Notify),
        _ => Err(Wrong::new("there is no such check", "one of accept, notify, http:/health or log:REGEX")),
    }
}

/// A path that can be asked for by HTTP.
///
/// # Errors
/// [`Wrong`]: no slash in front, or bytes that cannot be sent.
pub fn http_path(path: &str) -> Result<String, Wrong> {
    if !path.starts_with('/') {
        return Err(Wrong::new("the path does not begin with a slash", "write it like /health"));
    }
    sendable(path)
}

/// A `Host` header.
///
/// # Errors
/// [`Wrong`]: empty, or bytes that cannot be sent.
pub fn http_host(host: &str) -> Result<String, Wrong> {
    if host.is_empty() {
        return Err(Wrong::new("an empty host", "leave it out for the address asked"));
    }
    sendable(host)
}

fn sendable(text: &str) -> Result<String, Wrong> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new("a space or a character that is not ASCII cannot be sent", "percent-encode it: %20 is a space"))
    }
}

/// A regular expression that is looked for in lines of output.
///
/// # Errors
/// [`Wrong`]: empty, or not an expression.
pub fn expression(pattern: &str) -> Result<String, Wrong> {
    if pattern.is_empty() {
        return Err(Wrong::new("an empty expression matches every line", "write a part of the line, like \"listening on\""));
    }
    match regex_lite::Regex::new(pattern) {
        Ok(_) => Ok(pattern.to_owned()),
        Err(error) => Err(Wrong::new(
            format!("not a regular expression: {error}"),
            "the syntax is that of https://docs.rs/regex-lite; a literal ( [ { . * + ? needs a backslash",
        )),
    }
}

/// A cron expression of five fields, or a name such as `@daily`.
///
/// # Errors
/// [`Wrong`]: not such an expression, or one that never comes true.
pub fn cron(text: &str) -> Result<String, Wrong> {
    let forms = "five fields: minute hour day month weekday, like \"0 3 * * *\" (every night at three); or @hourly, @daily, @weekly";
    if text.len() > 200 {
        return Err(Wrong::new("a schedule of more than 200 characters", forms));
    }
    if text.split_whitespace().count() == 6 {
        return Err(Wrong::new("a schedule has five fields: seconds and years are not kept", forms));
    }
    match croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Disallowed).build().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(format!("not a schedule: {error}"), forms)),
    }
}

/// A file mode creation mask in octal: `022`.
///
/// # Errors
/// [`Wrong`]: not octal, or more than `0777`.
pub fn umask(text: &str) -> Result<u32, Wrong> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mask = if octal { u32::from_str_radix(digits, 8).ok() } else { None };
    mask.filter(|mask| *mask <= 0o777).ok_or_else(|| Wrong::new("not a mask", "write it in octal, like \"022\" or \"0077\""))
}

/// A share of one core in per cent: `50%`, `200%`.
///
/// # Errors
/// [`Wrong`]: not of that form, or 0, or more than 1024 cores.
pub fn percent(text: &str) -> Result<u32, Wrong> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
    number
        .filter(|percent| (1..=102_400).contains(percent))
        .ok_or_else(|| Wrong::new("not a share of a core", "write \"50%\" for half a core, \"200%\" for two"))
}

/// Longest name of a service or an instance in bytes.
const NAME_MAX: usize = 64;

/// Whether `name` may name a service: 1 to 64 of `A-Z a-z 0-9 _ . @ -`, not with a dot or a dash in front.
///
/// # Errors
/// [`Wrong`]: it may not.
pub fn name(name: &str) -> Result<(), Wrong> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    if !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with(['.', '-']) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Wrong::new("this cannot be a name", "a name has 1 to 64 of A-Z a-z 0-9 _ . @ - and does not start with a dot or a dash"))
}
