//! What can be known to fail before anything is started, of all services at once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use stayput_model::config::{InstanceConfig, Kind as ServiceKind, ServiceConfig};
use stayput_model::text::{printable, printable_bytes};

use crate::commands::run::preflight;
use crate::error::{Error, Kind};

/// Refuses a configuration of which a service could not start, and says so of each.
pub(super) fn all(config: &InstanceConfig) -> Result<(), Error> {
    let problems: Vec<(&ServiceConfig, Error)> = config
        .services
        .iter()
        .filter(|service| !service.disabled)
        .flat_map(|service| one(service, config).into_iter().map(move |error| (service, error)))
        .collect();
    let mut names: Vec<&str> = problems.iter().map(|(service, _)| service.name.as_str()).collect();
    names.dedup();
    let file = config.source.as_ref().map(|source| printable_bytes(&source.path)).unwrap_or_default();
    for (service, error) in &problems {
        let line = service.origin.map(|origin| format!(" ({}:{})", file_name(&file), origin.line)).unwrap_or_default();
        // The last word is that of all of them.
        let _ = error.of(&format!("{}{line}: ", service.name)).report();
    }
    match names.as_slice() {
        [] => Ok(()),
        [only] => Err(Error::new(Kind::BadInput, format!("nothing was started: {only} cannot start"))),
        several => Err(Error::new(Kind::BadInput, format!("nothing was started: {} services cannot start", several.len()))),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn one(service: &ServiceConfig, config: &InstanceConfig) -> Vec<Error> {
    let environment = service.environment(&config.env);
    let mut problems = Vec::new();
    let cwd = PathBuf::from(OsString::from_vec(service.cwd.clone()));
    // What a task before it makes is not there yet.
    if !after_a_task(service, config) {
        let path = environment.iter().find_map(|entry| entry.strip_prefix(b"PATH=").map(|path| OsString::from_vec(path.to_vec())));
        let program = OsString::from_vec(service.argv.first().cloned().unwrap_or_default());
        let checked = directory(&cwd).and_then(|()| preflight::command_in(&program, &cwd, path));
        problems.extend(checked.err());
    }
    problems.extend(preflight::size(&service.argv, &environment).err());
    problems.extend(service.ports.iter().filter_map(|port| preflight::port(port, "port ").err()));
    problems
}

fn directory(cwd: &std::path::Path) -> Result<(), Error> {
    let wrong = |why: String| {
        let shown = printable(&cwd.display().to_string()).into_owned();
        Error::new(Kind::BadInput, format!("its working directory {shown}: {why}")).hint("cwd is relative to the file that it stands in")
    };
    match std::fs::metadata(cwd) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(wrong("it is no directory".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Whether a task runs to its end before this service starts.
fn after_a_task(service: &ServiceConfig, config: &InstanceConfig) -> bool {
    let mut open: Vec<&str> = service.after.iter().map(|after| after.service.as_str()).collect();
    let mut seen: Vec<&str> = Vec::new();
    while let Some(name) = open.pop() {
        let Some(other) = config.services.iter().find(|other| other.name == name && !seen.contains(&name)) else { continue };
        if matches!(other.kind, ServiceKind::Task { .. }) {
            return true;
        }
        seen.push(&other.name);
        open.extend(other.after.iter().map(|after| after.service.as_str()));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use stayput_model::config::{After, Mode, ReportStyle, When};

    fn config(services: Vec<ServiceConfig>) -> InstanceConfig {
        let mut config = InstanceConfig { services, ..InstanceConfig::new("x", Mode::Up, ReportStyle::Plain) };
        config.env = vec![b"PATH=/usr/bin:/bin".to_vec()];
        config
    }

    fn service(name: &str, program: &str, change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
        let mut service = ServiceConfig::new(name, vec![program.as_bytes().to_vec()]);
        change(&mut service);
        service
    }

    fn told(service: ServiceConfig) -> String {
        let config = config(vec![service]);
        format!("{:?}", one(&config.services[0], &config))
    }

    #[test]
    fn everything_is_told_of_each() {
        assert_eq!(told(service("web", "sh", |_| ())), "[]");
        assert_eq!(told(service("web", "bin/sh", |_| ())), "[]", "relative to its working directory, which is /");
        for (program, change, part) in [
            ("no-such-program", (|_: &mut ServiceConfig| ()) as fn(&mut ServiceConfig), "no-such-program"),
            ("sh", |web| web.env = vec![b"PATH=/nowhere".to_vec()], "/nowhere"),
            ("sh", |web| web.cwd = b"/no/such/place".to_vec(), "/no/such/place"),
            ("sh", |web| web.cwd = b"/etc/passwd".to_vec(), "no directory"),
            ("sh", |web| web.argv.push(vec![b'x'; 2 << 20]), "bytes"),
            ("sh", |web| web.ports = vec!["192.0.2.1:80".parse().unwrap()], "192.0.2.1:80"),
        ] {
            let text = told(service("web", program, change));
            assert!(text.contains(part), "{part}: {text}");
        }
        let both = told(service("web", "no-such-program", |web| web.ports = vec!["192.0.2.1:80".parse().unwrap()]));
        assert!(both.contains("no-such-program") && both.contains("192.0.2.1"), "{both}");
    }

    #[test]
    fn what_a_task_makes_first_is_not_missed() {
        let after = |name: &str| vec![After { service: name.to_owned(), when: When::Completed }];
        let mut build = service("build", "sh", |_| ());
        build.kind = ServiceKind::Task { schedule: None };
        let app = service("app", "./target/app", |app| app.after = after("build"));
        let web = service("web", "./target/web", |web| web.after = after("app"));
        assert!(all(&config(vec![build.clone(), app, web])).is_ok());
        assert!(all(&config(vec![build, service("app", "./target/app", |_| ())])).is_err());
    }
}
