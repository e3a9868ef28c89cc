//! The outermost layer: who is spoken to at all. It looks at `Host`, `Origin` and `Sec-Fetch-Site` of every request, upgrades and
//! `/socket.io/` included, before any route sees it; and puts the headers on every answer that keep a browser strict.
//!
//! - A name that resolves to us is not ours: a page of a stranger can point its own name at 127.0.0.1 (DNS rebinding). So `Host` has to
//!   be an address that we are reached by, `localhost`, or a name that was allowed by hand. It is parsed as an address; a prefix proves
//!   nothing (`127.evil.example`).
//! - An `Origin`, where there is one, has to be this page's own, port included; `null` is nobody.
//! - There is no CORS header and no cookie anywhere: a cookie would go to every port of the host, so also to every supervised service.

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use std::net::IpAddr;

/// What a browser may do with our pages. No inline script or style, nothing from elsewhere, no frames, and no string ever becomes
/// markup: `trusted-types 'none'` forbids even the policies that could.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The header without which no data is given to who has no token. A page of another origin cannot set it without a preflight, and no
/// preflight is ever answered.
pub(crate) const OUR_HEADER: HeaderName = HeaderName::from_static("x-stayput");

const STRICT: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Hosts by which we may be called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    /// Names allowed by hand, lower-case, with the port if one was given.
    pub(crate) names: Vec<String>,
    /// We speak TLS ourselves.
    pub(crate) tls: bool,
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// None, several, or not one of ours.
    Host,
    /// Not this page's own.
    Origin,
    /// A browser says that another site asks, and this is no page to open.
    CrossSite,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "This name is not one that the dashboard answers to.\nOpen it by its address, as localhost, or allow the name: stayput dashboard --allow-host NAME\n"
            }
            Self::Origin => "Another site's page asked for this. The dashboard answers its own page only.\n",
            Self::CrossSite => "Another site led here. Open the address by hand.\n",
        }
    }
}

/// The authority of a request, split. Bracketed IPv6 addresses are parsed without their brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

fn split(authority: &str) -> Option<Authority<'_>> {
    if authority.is_empty() || authority.len() > 255 || authority.contains(['@', '/', '\\', ' ', '%', '?', '#']) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, after.strip_prefix(':').or_else(|| after.is_empty().then_some(""))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = match port {
        "" if authority.ends_with(':') => return None,
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    (!host.is_empty() && (authority.starts_with('[') || !host.contains(':'))).then_some(Authority { host, port })
}

impl Hosts {
    /// Whether `authority` is one of ours, for a connection that arrived at `local`.
    fn allows(&self, authority: &str, local: IpAddr) -> bool {
        let lower = authority.to_ascii_lowercase();
        let Some(parts) = split(&lower) else { return false };
        if let Ok(address) = parts.host.parse::<IpAddr>() {
            // An address literal cannot be rebound: it is right if it is the one that was connected to. Through a forwarded port the
            // browser says the loopback address of its own machine.
            let address = address.to_canonical();
            return address.is_loopback() || address == local.to_canonical() || self.named(&lower, parts.host);
        }
        parts.host == "localhost" || self.named(&lower, parts.host)
    }

    /// A name that was allowed with a port is meant with that port.
    fn named(&self, authority: &str, host: &str) -> bool {
        self.names.iter().any(|name| name == authority || name == host)
    }

    /// Whether `origin` is the page that we serve to who calls us `host`.
    fn own_origin(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let secure = match scheme {
            "http" => false,
            // A proxy that was allowed by name may speak TLS before us.
            "https" => true,
            _ => return false,
        };
        let lower = host.to_ascii_lowercase();
        let (Some(one), Some(other)) = (split(authority), split(&lower)) else { return false };
        if secure != self.tls && !(secure && self.named(&lower, other.host)) {
            return false;
        }
        let usual = if secure { 443 } else { 80 };
        one.host == other.host && one.port.unwrap_or(usual) == other.port.unwrap_or(usual)
    }

    /// Looks at a request that arrived at `local`. `opens` says that the path is one that a person may be led to by a link.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap, local: IpAddr, opens: bool) -> Result<(), Refusal> {
        let host = only(headers, &header::HOST).filter(|host| self.allows(host, local)).ok_or(Refusal::Host)?;
        // RFC 9112 3.2.2: an absolute target overrides Host; ours may not contradict it.
        if uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host)) {
            return Err(Refusal::Host);
        }
        if headers.contains_key(header::ORIGIN) && !only(headers, &header::ORIGIN).is_some_and(|origin| self.own_origin(origin, host)) {
            return Err(Refusal::Origin);
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        match site {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) if opens && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") => Ok(()),
            Some(_) => Err(Refusal::CrossSite),
        }
    }
}

/// The header's value if there is exactly one, and it is text.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

/// The answer to a request that goes no further.
pub(crate) fn refuse(refusal: Refusal) -> Response<Body> {
    let mut response = Response::new(Body::from(refusal.text()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    strict(response)
}

/// Puts the strict headers on an answer. Data is never kept in a cache; assets say for themselves how long they live.
pub(crate) fn strict<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (name, value) in STRICT {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a proxy says that it passed this request on: then its sender is not the peer of the connection.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    const SAID_BY_PROXIES: [&str; 6] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
    SAID_BY_PROXIES.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn hosts(names: &[&str]) -> Hosts {
        Hosts { names: names.iter().map(|&name| name.to_owned()).collect(), tls: false }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hosts_that_are_ours() {
        for host in ["127.0.0.1", "127.0.0.1:5000", "localhost", "LOCALHOST:8080", "[::1]:5000", "[::1]", "127.8.8.8:1"] {
            assert!(hosts(&[]).allows(host, HERE), "{host}");
        }
        assert!(hosts(&[]).allows("192.0.2.7:5000", "192.0.2.7".parse().unwrap()), "the address that was connected to");
        assert!(hosts(&["ops.example"]).allows("Ops.Example:443", HERE));
        assert!(hosts(&["ops.example:8443"]).allows("ops.example:8443", HERE));
    }

    #[test]
    fn hosts_that_are_not() {
        let wrong = [
            "",
            "evil.example",
            "127.evil.example",
            "127.0.0.1.evil.example:5000",
            "localhost.evil.example",
            "localhost.",
            "evil@127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:80:80",
            "127.0.0.1:+80",
            "[::1",
            "[::1]80",
            "::1",
            "0x7f000001",
            "2130706433",
            "127.1",
            "0.0.0.0:5000",
            "[::ffff:192.0.2.9]:5000",
            "192.0.2.7:5000",
            "xlocalhost",
            "127.0.0.1/..",
            "localhost%00",
        ];
        for host in wrong {
            assert!(!hosts(&["ops.example:8443"]).allows(host, HERE), "{host}");
        }
        assert!(!hosts(&["ops.example:8443"]).allows("ops.example", HERE));
        assert!(!hosts(&[]).allows("[::2]:1", IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }

    #[test]
    fn origins() {
        let ours = hosts(&["ops.example"]);
        assert!(ours.own_origin("http://127.0.0.1:5000", "127.0.0.1:5000"));
        assert!(ours.own_origin("http://localhost", "localhost:80"));
        assert!(ours.own_origin("https://ops.example", "ops.example"));
        let wrong = [
            ("null", "127.0.0.1:5000"),
            ("http://127.0.0.1:5001", "127.0.0.1:5000"),
            ("http://localhost:5000", "127.0.0.1:5000"),
            ("https://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://evil.example", "127.0.0.1:5000"),
            ("http://127.0.0.1:5000.evil.example", "127.0.0.1:5000"),
            ("file://", "127.0.0.1:5000"),
            ("https://ops.example:8443", "ops.example"),
            ("chrome-extension://abc", "127.0.0.1:5000"),
        ];
        for (origin, host) in wrong {
            assert!(!ours.own_origin(origin, host), "{origin} for {host}");
        }
    }

    #[test]
    fn a_request_as_a_whole() {
        let ours = hosts(&[]);
        let uri = Uri::from_static("/api/v1/status");
        let check = |pairs: &[_], opens| ours.check(&uri, &headers(pairs), HERE, opens);
        assert_eq!(check(&[("host", "localhost:5000")], false), Ok(()));
        assert_eq!(check(&[], false), Err(Refusal::Host));
        assert_eq!(check(&[("host", "localhost:5000"), ("origin", "null")], false), Err(Refusal::Origin));
        assert_eq!(check(&[("host", "localhost:5000"), ("sec-fetch-site", "same-site")], false), Err(Refusal::CrossSite));
        let link = [("host", "localhost:5000"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(check(&link, true), Ok(()), "a link to the page may be followed");
        assert_eq!(check(&link, false), Err(Refusal::CrossSite), "a link to data may not");
        let absolute = Uri::from_static("http://evil.example/api/v1/status");
        assert_eq!(ours.check(&absolute, &headers(&[("host", "localhost:5000")]), HERE, false), Err(Refusal::Host));
        let mut twice = headers(&[("host", "localhost:5000")]);
        twice.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(ours.check(&uri, &twice, HERE, false), Err(Refusal::Host));
    }
}
