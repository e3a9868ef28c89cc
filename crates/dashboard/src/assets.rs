//! Made by `web/build.mjs`; do not edit. What is embedded, with the digest that the page's files are asked again by.

use crate::page::Asset;

macro_rules! asset {
    ($path:literal, $kind:literal, $tag:literal) => {
        Asset {
            path: $path,
            kind: $kind,
            tag: concat!("\"", $tag, "\""),
            plain: include_bytes!(concat!("../assets/", $path)),
            brotli: include_bytes!(concat!("../assets/", $path, ".br")),
        }
    };
}

pub(crate) const ASSETS: &[Asset] = &[
    asset!("app.css", "text/css; charset=utf-8", "9ac9d6ce588bd23a"),
    asset!("app.js", "text/javascript; charset=utf-8", "17dd82bf36bb65aa"),
    asset!("icon.svg", "image/svg+xml", "1e138113a15f42c7"),
    asset!("index.html", "text/html; charset=utf-8", "33b7b58935746ba9"),
    asset!("licences.txt", "text/plain; charset=utf-8", "787d0f2d3dd97180"),
];
