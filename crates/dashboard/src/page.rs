//! The page and its assets, embedded when this crate is compiled. `web/build.mjs` makes them and the table in `assets.rs`; a file that is
//! missing fails the build.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, Response, StatusCode, Uri};

use crate::api::App;
use crate::assets::ASSETS;
use crate::reply;

/// A file of the page.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Below the base, without a slash at the start.
    pub(crate) path: &'static str,
    /// `Content-Type`.
    pub(crate) kind: &'static str,
    /// Part of its SHA-256, as an entity tag with quotes.
    pub(crate) tag: &'static str,
    /// The bytes.
    pub(crate) plain: &'static [u8],
    /// The same with brotli; empty where that is not smaller.
    pub(crate) brotli: &'static [u8],
}

const INDEX: &str = "index.html";
/// In the page, where the base path goes.
const BASE: &str = "<base href=\"/\">";

/// What the page shows by its address: it is one document for all of them.
fn is_page(path: &str) -> bool {
    matches!(path, "" | "ports" | "events" | "logs" | "about") || path.strip_prefix("s/").is_some_and(|rest| !rest.is_empty())
}

/// Where nothing is: for requests beside the base path.
const NOWHERE: &str = "/.outside";

/// The address of a request without the base path, for the router. axum nests routers, but then the base path itself, with and without a
/// slash at its end, is not theirs.
pub(crate) fn below(uri: &Uri, base: &str) -> Uri {
    if base == "/" {
        return uri.clone();
    }
    let path = uri.path();
    let rest = if path == base.trim_end_matches('/') { Some("") } else { path.strip_prefix(base) };
    let path = rest.map_or(NOWHERE.to_owned(), |rest| format!("/{rest}"));
    let whole = uri.query().map_or(path.clone(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    // A part of what was an address is one.
    parts.path_and_query = whole.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(NOWHERE))
}

/// Whether a person may be led here by a link: to the page itself, in which there is no data.
pub(crate) fn opens(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && path.strip_prefix('/').is_some_and(is_page)
}

/// The page, one of its files, or nothing.
pub(crate) async fn page(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain_error(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n");
    }
    let path = request.uri().path().strip_prefix('/').unwrap_or_default();
    let wanted = if is_page(path) { INDEX } else { path };
    match ASSETS.iter().find(|asset| asset.path == wanted) {
        Some(asset) if asset.path == INDEX => index(asset, &app.base),
        Some(asset) => file(asset, request.headers()),
        None => plain_error(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

fn plain_error(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = reply::typed(reply::TEXT, text);
    *response.status_mut() = status;
    response
}

fn index(asset: &Asset, base: &str) -> Response<Body> {
    // The base is checked when it is read: a path of plain characters.
    let document = String::from_utf8_lossy(asset.plain).replace(BASE, &format!("<base href=\"{base}\">"));
    let mut response = reply::typed(asset.kind, document);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn file(asset: &Asset, headers: &HeaderMap) -> Response<Body> {
    let accepts = |name: &str| {
        let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.split(';').next().is_some_and(|coding| coding.trim() == name))
    };
    let brotli = !asset.brotli.is_empty() && accepts("br");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(asset.tag));
    let mut response = match (known, brotli) {
        (true, _) => {
            let mut response = reply::typed(asset.kind, Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        (false, true) => reply::typed(asset.kind, asset.brotli),
        (false, false) => reply::typed(asset.kind, asset.plain),
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static(asset.tag));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if brotli && !known {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
    }
    // Asked again each time, answered by 304: a new release of stayput is a new page at once, and there are few files.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_there_and_names_files_that_are_there() {
        let index = ASSETS.iter().find(|asset| asset.path == INDEX).expect("no page");
        let text = std::str::from_utf8(index.plain).unwrap();
        assert!(text.contains(BASE));
        let mut named = 0;
        for attribute in ["src=\"", "href=\""] {
            for part in text.split(attribute).skip(1) {
                let path = part.split('"').next().unwrap();
                if path != "/" && !path.starts_with("plain") {
                    assert!(ASSETS.iter().any(|asset| asset.path == path && !asset.plain.is_empty()), "{path}");
                    named += 1;
                }
            }
        }
        assert!(named >= 3, "{named}");
        assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script>"), "nothing inline");
    }

    #[test]
    fn pages_and_what_is_none() {
        for path in ["/", "/s/web", "/s/web/logs", "/ports", "/about"] {
            assert!(opens(&Method::GET, path), "{path}");
        }
        for path in ["/api/v1/status", "/metrics", "/plain", "/app.js", "/s/", "//ports"] {
            assert!(!opens(&Method::GET, path), "{path}");
        }
        assert!(!opens(&Method::POST, "/"));
    }

    #[test]
    fn the_base_path_is_taken_away_and_nothing_else() {
        let at = |text: &str| below(&text.parse().unwrap(), "/ops/").to_string();
        assert_eq!(at("/ops/"), "/");
        assert_eq!(at("/ops"), "/");
        assert_eq!(at("/ops/s/web?tab=1&x=%2F"), "/s/web?tab=1&x=%2F");
        for other in ["/", "/opsx", "/api/v1/me", "/x/ops/"] {
            assert_eq!(at(other), NOWHERE, "{other}");
        }
        assert_eq!(below(&"/a?b".parse().unwrap(), "/").to_string(), "/a?b");
    }
}
