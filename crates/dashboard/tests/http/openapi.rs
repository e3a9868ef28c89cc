//! The API's description against the API: every answer is what the document says.

use crate::common::{Answer, serve};
use serde_json::{Value, json};
use stayput_dashboard::openapi::DOCUMENT;
use stayput_testkit::fake_control::Scene;

/// Checks an answer against what the document says for this operation and status.
fn check(document: &Value, path: &str, method: &str, answer: &Answer) {
    let operation = &document["paths"][path][method];
    let mut response = &operation["responses"][answer.status.to_string()];
    if let Some(name) = response["$ref"].as_str() {
        response = document.pointer(name.trim_start_matches('#')).unwrap();
    }
    assert!(response.is_object(), "{method} {path} answers {}, which the document does not know: {}", answer.status, answer.body);
    let kind = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    let content = &response["content"][kind];
    assert!(content.is_object(), "{method} {path} answers {} as {kind:?}", answer.status);
    if kind == "application/json" {
        let mut schema = content["schema"].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let body = answer.json();
        let wrong: Vec<String> =
            validator.iter_errors(&body).map(|error| format!("{} at {}", error, error.instance_path())).take(5).collect();
        assert!(wrong.is_empty(), "{method} {path} {}: {wrong:#?}", answer.status);
    }
}

#[test]
fn every_answer_is_as_described() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    for scene in [Scene::Ten, Scene::Empty, Scene::Hostile] {
        let served = serve(scene, |_| ());
        let name = served.look("/api/v1/services").json()["services"][0]["name"].as_str().unwrap_or("nobody").to_owned();
        let escaped: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
        for (path, item) in document["paths"].as_object().unwrap() {
            if item["get"].is_null() || path.ends_with("stream") {
                continue;
            }
            let asked = path.replace("{service}", &escaped).replace("{operation}", "1");
            check(&document, path, "get", &served.look(&asked));
            check(&document, path, "get", &served.get(&asked, &[("Host", "evil.example")]));
            if !["/healthz", "/readyz", "/api/v1/openapi.json"].contains(&path.as_str()) {
                check(&document, path, "get", &served.get(&asked, &[("Authorization", "Bearer no")]));
            }
        }
        for (path, query) in [
            ("/api/v1/events", "?limit=3"),
            ("/api/v1/events", "?since=nonsense"),
            ("/api/v1/events", "?since=5eed-1&service=web"),
            ("/api/v1/logs", "?lines=2&stream=stderr"),
            ("/api/v1/logs", "?lines=two"),
            ("/api/v1/history", "?range=day&points=7"),
            ("/api/v1/history", "?range=year"),
            ("/api/v1/services/{service}", ""),
        ] {
            check(&document, path, "get", &served.look(&format!("{}{query}", path.replace("{service}", "nobody-of-this-name"))));
        }
    }
}

#[test]
fn actions_are_as_described() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let served = serve(Scene::Ten, |_| ());
    let act = "/api/v1/services/{service}/{action}";
    for (asked, body) in [
        ("web/restart", "{}"),
        ("web/restart", r#"{"canary":{"permille":50,"for_ms":null}}"#),
        ("web/decide", r#"{"switch":false}"#),
        ("web/decide", "{}"),
        ("web/stop", "{}"),
        ("web/signal", r#"{"signal":"HUP"}"#),
        ("web/signal", "{}"),
        ("web/fly", "{}"),
    ] {
        check(&document, act, "post", &served.act(&format!("/api/v1/services/{asked}"), body));
    }
    check(&document, act, "post", &served.post("/api/v1/services/web/stop", &[], "{}"));
    let long = json!({ "address": "x".repeat(20_000) }).to_string();
    for (path, body) in [
        ("/api/v1/reload", "{}"),
        ("/api/v1/reload", "[]"),
        ("/api/v1/ports/hold", r#"{"address":"5001"}"#),
        ("/api/v1/ports/release", r#"{"address":"5001","service":"web"}"#),
        ("/api/v1/ports/release", &long),
    ] {
        check(&document, path, "post", &served.act(path, body));
    }
    let id = served.act("/api/v1/reload", "{}").json()["id"].as_str().unwrap().to_owned();
    check(&document, "/api/v1/operations/{operation}", "get", &served.look(&format!("/api/v1/operations/{id}")));
}
