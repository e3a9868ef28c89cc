//! Made by `web/build.mjs`; do not edit. What is embedded, with the digest that the page's files are asked again by.

use crate::page::Asset;

pub(crate) const ASSETS: &[Asset] = &[
    Asset {
        path: "app.css",
        kind: "text/css; charset=utf-8",
        tag: "\"b9620b86d14c864b\"",
        plain: include_bytes!("../assets/app.css"),
        brotli: include_bytes!("../assets/app.css.br"),
    },
    Asset {
        path: "app.js",
        kind: "text/javascript; charset=utf-8",
        tag: "\"ada5a425862acb19\"",
        plain: include_bytes!("../assets/app.js"),
        brotli: include_bytes!("../assets/app.js.br"),
    },
    Asset {
        path: "icon.svg",
        kind: "image/svg+xml",
        tag: "\"1e138113a15f42c7\"",
        plain: include_bytes!("../assets/icon.svg"),
        brotli: include_bytes!("../assets/icon.svg.br"),
    },
    Asset {
        path: "index.html",
        kind: "text/html; charset=utf-8",
        tag: "\"33b7b58935746ba9\"",
        plain: include_bytes!("../assets/index.html"),
        brotli: include_bytes!("../assets/index.html.br"),
    },
    Asset {
        path: "licences.txt",
        kind: "text/plain; charset=utf-8",
        tag: "\"787d0f2d3dd97180\"",
        plain: include_bytes!("../assets/licences.txt"),
        brotli: include_bytes!("../assets/licences.txt.br"),
    },
];
