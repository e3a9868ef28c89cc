//! The description of the API. It is written by hand and tested: against the list of routes here, and against real answers in
//! `tests/openapi.rs`.

/// The OpenAPI 3.1 document.
pub const DOCUMENT: &str = include_str!("../openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_the_routes_and_no_others() {
        let document: serde_json::Value = serde_json::from_str(super::DOCUMENT).unwrap();
        let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let there: BTreeSet<&str> = crate::api::paths().collect();
        assert_eq!(described, there);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
