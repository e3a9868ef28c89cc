//! Configurations that people write: each broken one with all its errors, each good one with what becomes of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use stayput_config::{Memory, Report, Request, load_from};
use stayput_model::config::{InstanceConfig, ReportStyle};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const HERE: &str = "/srv/app";

fn request(file: &str) -> Request {
    Request {
        path: Some(PathBuf::from(file)),
        start_dir: HERE.into(),
        profile: None,
        only: Vec::new(),
        environment: [&b"HOME=/home/ada"[..], b"SECRET=hunter2"].map(<[u8]>::to_vec).to_vec(),
        uid: 0,
        report: ReportStyle::Plain,
    }
}

/// The files below `directory` of the tests, as if they lay in [`HERE`].
fn files(directory: &str) -> Memory {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut files = Memory::default()
        .with("/etc/passwd", "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
        .with("/etc/group", "root:x:0:\nadm:x:4:syslog\nwww-data:x:33:\nssl:x:90:www-data\n");
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files = files.with(Path::new(HERE).join(path.strip_prefix(&root).unwrap()), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn names(directory: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = entries
        .filter(|path| path.extension().is_some_and(|kind| kind == "toml") || path.ends_with("Procfile"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn load(files: &Memory, request: &Request) -> Result<InstanceConfig, Report> {
    load_from(request, files)
}

#[test]
fn broken_ones() {
    let files = files("broken");
    let names = names("broken");
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let report = load(&files, &request(&name)).unwrap_err();
        let text = report.to_string();
        assert!(!text.contains("hunter2"), "{name} shows a secret:\n{text}");
        insta::assert_snapshot!(name.trim_end_matches(".toml"), text);
    }
}

/// What the model gets, one line per field that is not the default; bytes as text.
fn shown(config: &InstanceConfig) -> String {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let mut out = format!(
        "{} {:?} {:?}\n{:?}\n",
        config.name,
        config.mode,
        config.dashboard,
        config.logs.as_ref().map(|logs| (text(&logs.directory), logs))
    );
    for service in &config.services {
        let bare = stayput_model::ServiceConfig::new(service.name.clone(), Vec::new());
        let plain = InstanceConfig { services: vec![bare], ..InstanceConfig::new(&config.name, config.mode, config.report) };
        let own = InstanceConfig { services: vec![service.clone()], ..InstanceConfig::new(&config.name, config.mode, config.report) };
        writeln!(out, "\n[{}] {:?}", service.name, service.origin.unwrap()).unwrap();
        for entry in &service.env {
            writeln!(out, "  env {}", text(entry)).unwrap();
        }
        for change in stayput_config::diff(&plain, &own) {
            let stayput_config::plan::What::Changed(fields) = change.what else { continue };
            for field in fields.iter().filter(|field| !field.field.starts_with("env.")) {
                writeln!(out, "  {} = {}", field.field, field.after).unwrap();
            }
        }
    }
    out
}

#[test]
fn good_ones() {
    let files = files("good");
    for name in names("good") {
        let config = load(&files, &request(&name)).unwrap_or_else(|report| panic!("{name}:\n{report}"));
        insta::assert_snapshot!(format!("good-{}", name.trim_end_matches(".toml")), shown(&config));
    }
    let dev = Request { profile: Some("dev".to_owned()), only: vec!["w*".to_owned(), "nightly".to_owned()], ..request("everything.toml") };
    insta::assert_snapshot!("good-everything-dev", shown(&load(&files, &dev).unwrap()));
    let wrong = Request { profile: Some("dve".to_owned()), only: vec!["wbe".to_owned()], ..request("everything.toml") };
    insta::assert_snapshot!("request", load(&files, &wrong).unwrap_err().to_string());
}
