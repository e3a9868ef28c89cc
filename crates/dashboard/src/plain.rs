//! `/plain`: the whole state as text for curl, and as a page without scripts for a browser that has none.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::http::header::{self, HeaderMap};
use stayput_wire::{EventRecord, InstanceStatus, Level, ServiceStatus};

use crate::api::{self, App};
use crate::reply::{self, Refused};

pub(crate) async fn plain(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Refused> {
    let (status, at_ms) = api::fresh(&app).await?;
    let wants_html = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/html"));
    let title = format!("{} on {}, {}", status.name, app.host, crate::time::utc(at_ms));
    let rows: Vec<[String; 6]> = status.services.iter().map(row).collect();
    let summary = summary(&status);
    let events: Vec<String> = app.hub.recent(EVENTS).iter().rev().map(event).collect();
    Ok(if wants_html {
        reply::typed("text/html; charset=utf-8", html(&app.base, &title, &summary, &rows, &events))
    } else {
        reply::typed(reply::TEXT, text(&title, &summary, &rows, &events))
    })
}

/// Events that are shown, the newest first.
const EVENTS: usize = 12;

fn event(event: &EventRecord) -> String {
    let mark = if event.level == Level::Trouble { "! " } else { "" };
    harmless(&format!("{}  {}  {mark}{}", crate::time::utc(event.at_ms), event.service.as_deref().unwrap_or("instance"), event.text))
}

const HEADS: [&str; 6] = ["SERVICE", "STATE", "GEN", "PORTS", "CONNS", "FACT"];

/// A word of the wire's JSON.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(|word| word.replace('-', " "))).unwrap_or_default()
}

fn row(service: &ServiceStatus) -> [String; 6] {
    let generations: Vec<String> = service.generations.iter().rev().map(|generation| generation.id.to_string()).collect();
    let held = service.held.iter().map(|listener| (listener, "held, nobody accepts"));
    let selected = service.generations.iter().flat_map(|generation| &generation.listeners).filter(|listener| listener.selected);
    let mut ports: Vec<String> = held
        .chain(selected.map(|listener| (listener, if listener.held { "held" } else { "not held" })))
        .map(|(listener, how)| format!("{} ({how})", api_address(&listener.address, listener.port)))
        .collect();
    ports.dedup();
    [
        service.name.clone(),
        word(&service.state),
        generations.join("→"),
        ports.join(", "),
        format!("{} new, {} old, {} waiting", service.connections.new, service.connections.old, service.connections.queued),
        service.detail.clone(),
    ]
    .map(|cell| if cell.is_empty() { "none".to_owned() } else { harmless(&cell) })
}

/// `address:port`, IPv6 in brackets.
pub(crate) fn api_address(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Without anything that steers a terminal.
fn harmless(text: &str) -> String {
    crate::ansi::pieces(text).into_iter().map(|piece| piece.0).collect()
}

fn summary(status: &InstanceStatus) -> String {
    let words: Vec<String> = status.services.iter().map(|service| word(&service.state)).collect();
    let counted: Vec<String> =
        api::tally(words.iter().map(String::as_str)).into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    if counted.is_empty() { "no service".to_owned() } else { counted.join(", ") }
}

fn text(title: &str, summary: &str, rows: &[[String; 6]], events: &[String]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).chain([HEADS[column].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |cells: [&str; 6]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut all = format!("{}\n{summary}\n\n{}", harmless(title), line(HEADS));
    for row in rows {
        all.push_str(&line([&row[0], &row[1], &row[2], &row[3], &row[4], &row[5]]));
    }
    if !events.is_empty() {
        all.push_str("\nLAST EVENTS\n");
        for event in events {
            all.extend([event.as_str(), "\n"]);
        }
    }
    all
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, character| {
        match character {
            '&' => all.push_str("&amp;"),
            '<' => all.push_str("&lt;"),
            '>' => all.push_str("&gt;"),
            '"' => all.push_str("&quot;"),
            '\'' => all.push_str("&#39;"),
            character => all.push(character),
        }
        all
    })
}

fn html(base: &str, title: &str, summary: &str, rows: &[[String; 6]], events: &[String]) -> String {
    let heads = HEADS.map(|head| format!("<th scope=\"col\">{head}</th>")).concat();
    let line = |row: &[String; 6]| {
        let rest: Vec<String> = row[1..].iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        format!("<tr><th scope=\"row\">{}</th>{}</tr>\n", escaped(&row[0]), rest.concat())
    };
    let body = rows.iter().map(line).collect::<Vec<_>>().concat();
    let events = events.iter().map(|event| format!("<li>{}</li>\n", escaped(event))).collect::<Vec<_>>().concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>{title}</title><link rel=\"stylesheet\" href=\"{base}app.css\"></head>\n\
         <body class=\"plain\"><main><h1>{title}</h1>\n<p>{summary}. Loaded anew every 5 seconds; <a href=\"{base}\">the live page</a> needs scripts.</p>\n\
         <table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table>\n\
         <h2>Last events</h2>\n<ul>\n{events}</ul></main></body></html>\n",
        title = escaped(title),
        summary = escaped(summary),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_markup() {
        let hostile = "<img src=x onerror=alert(1)>'\"&".to_owned();
        let rows = [[(); 6].map(|()| hostile.clone())];
        let page = html("/", &hostile, &hostile, &rows, std::slice::from_ref(&hostile));
        assert!(!page.contains("<img") && page.contains("&lt;img"), "{page}");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["web", "running", "4", "none", "1", "x"].map(str::to_owned)];
        let page = text("t", "s", &rows, &["2026 web ok".to_owned()]);
        assert!(page.ends_with("\nLAST EVENTS\n2026 web ok\n"), "{page}");
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[3].find("STATE"), lines[4].find("running"));
        assert_eq!(harmless("\u{1b}]0;x\u{7}ok"), "ok");
    }
}
