//! Procfiles as foreman reads them: `name: command line` per line, each run by a shell; `.env` beside it; `PORT` from 5000 in steps of 100; `PS=name.1`.

use crate::expand::Variables;
use crate::file::File;
use crate::load::Loader;
use crate::source::Span;
use crate::{dotenv, resolve, value};
use stayput_model::config::{InstanceConfig, Origin, ServiceConfig};
use std::os::unix::ffi::OsStrExt as _;

/// Where `PORT` begins unless the environment or `.env` says it.
const FIRST_PORT: u16 = 5000;
/// From one line of the file to the next.
const PORT_STEP: u16 = 100;

/// The instance that the first source describes.
pub(crate) fn load(loader: &mut Loader<'_>) -> Option<InstanceConfig> {
    let dotenv = dotenv_of(loader);
    let mut variables = Variables::new(&loader.request.environment);
    variables.lay_over(&dotenv);
    let first = variables.get("PORT").and_then(|text| std::str::from_utf8(text).ok()?.parse::<u16>().ok()).filter(|port| *port > 0);
    let mut port = Some(first.unwrap_or(FIRST_PORT));
    let mut services: Vec<ServiceConfig> = Vec::new();
    for (name, name_at, command) in lines(loader) {
        if let Err(wrong) = value::name(&name) {
            loader.problems.wrong(name_at, wrong);
            continue;
        }
        if services.iter().any(|service| service.name == name) {
            loader.problems.add(name_at, "this name stands twice").hint("give each line its own name");
            continue;
        }
        let mut service = ServiceConfig::new(name.clone(), [b"/bin/sh".as_slice(), b"-c", command.as_bytes()].map(<[u8]>::to_vec).to_vec());
        service.env.clone_from(&dotenv);
        let Some(this) = port else {
            loader.problems.add(name_at, "no PORT is left for this line").hint("set PORT to a lower number");
            break;
        };
        service.env.push(format!("PORT={this}").into_bytes());
        service.env.push(format!("PS={name}.1").into_bytes());
        port = this.checked_add(PORT_STEP);
        service.cwd = loader.sources[0].directory().as_os_str().as_bytes().to_vec();
        let (line, column) = loader.sources[0].position(name_at.start);
        service.origin = Some(Origin { line, column });
        services.push(service);
    }
    if services.is_empty() && loader.problems.is_empty() {
        loader.problems.add(Span { file: 0, start: 0, end: 0 }, "there is no service in it").hint("one per line: web: python app.py");
    }
    if let Some(profile) = &loader.request.profile {
        let what = format!("a Procfile has no profiles, and {} was asked for", stayput_model::text::printable(profile));
        loader.problems.add(None, what).hint("write a stayput.toml");
    }
    let only = only(&mut services, loader);
    loader.problems.is_empty().then_some(())?;
    let services = if loader.request.only.is_empty() { services } else { only };
    Some(resolve::instance(&File::default(), services, true, loader))
}

fn only(services: &mut [ServiceConfig], loader: &mut Loader<'_>) -> Vec<ServiceConfig> {
    let mut wanted = Vec::new();
    for pattern in &loader.request.only {
        let glob = globset::Glob::new(pattern).map(|glob| glob.compile_matcher()).ok();
        let matches: Vec<_> = services.iter().filter(|service| glob.as_ref().is_some_and(|glob| glob.is_match(&service.name))).collect();
        if matches.is_empty() {
            let near = crate::decode::suggest(pattern, services.iter().map(|service| service.name.as_str()));
            let hint = near.map_or("its lines are name: command".to_owned(), |near| format!("did you mean {near}?"));
            loader.problems.add(None, format!("there is no service {}", stayput_model::text::printable(pattern))).hint(hint);
        }
        for service in matches {
            if !wanted.iter().any(|other: &ServiceConfig| other.name == service.name) {
                wanted.push(service.clone());
            }
        }
    }
    wanted
}

/// `.env` beside the Procfile, if there is one.
fn dotenv_of(loader: &mut Loader<'_>) -> Vec<Vec<u8>> {
    let path = loader.sources[0].directory().join(".env");
    if loader.files.facts(&path).is_err() {
        return Vec::new();
    }
    let wrong = |what: String| (what, "one NAME=value per line; values with blanks, # or several lines in quotes".to_owned());
    let parsed = loader.text(&path).and_then(|text| dotenv::parse(&text).map_err(|(line, why)| wrong(format!("line {line}: {why}"))));
    parsed.unwrap_or_else(|(message, hint)| {
        loader.problems.add(None, format!("{}: {message}", crate::source::shown(&path, &loader.request.start_dir))).hint(hint);
        Vec::new()
    })
}

/// Name, its place and command of each line that is one.
fn lines(loader: &mut Loader<'_>) -> Vec<(String, Span, String)> {
    let text = loader.sources[0].text.clone();
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let begin = start + line.len() - line.trim_start().len();
        start += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |length: usize| Span { file: 0, start: begin as u32, end: (begin + length) as u32 };
        match line.split_once(':') {
            Some((name, command)) if !command.trim().is_empty() => {
                if command.contains('\0') {
                    loader.problems.add(at(line.len()), "a NUL character").hint("no command can hold one");
                }
                found.push((name.trim_end().to_owned(), at(name.len()), command.trim().to_owned()));
            }
            Some((name, _)) => {
                loader.problems.add(at(name.len()), "there is no command after the colon").hint("name: command");
            }
            None => {
                loader.problems.add(at(line.len()), "this line is no name: command").hint("write it like web: python app.py");
            }
        }
    }
    found
}
