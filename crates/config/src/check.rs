//! What can only be seen when all services are known: which are wanted, what they come after, and whose port is whose.

use crate::decode::suggest;
use crate::load::{Loader, Merged};
use crate::resolve::Resolved;
use crate::value::covers;
use stayput_model::config::{After, Kind, ServiceConfig, When};
use stayput_model::text::printable;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The services that are wanted, with their order. `block` is what the instance says about output. A service that is missing in `resolved` has errors
/// that were noted.
pub(crate) fn check(resolved: Vec<Resolved>, block: bool, merged: &[Merged], loader: &mut Loader<'_>) -> Option<Vec<ServiceConfig>> {
    let (before, all) = (loader.problems.len(), resolved.len() == merged.len());
    let names: BTreeSet<&str> = merged.iter().map(|service| service.name.as_str()).collect();
    let kinds: BTreeMap<String, Kind> = resolved.iter().map(|service| (service.config.name.clone(), service.config.kind.clone())).collect();
    let mut services: Vec<ServiceConfig> = resolved
        .into_iter()
        .map(|service| {
            let mut config = service.config;
            config.log.block = service.block.unwrap_or(block);
            config
        })
        .collect();
    for service in &mut services {
        let Some(merged) = merged.iter().find(|merged| merged.name == service.name) else { continue };
        after(service, merged, &names, &kinds, all, loader);
    }
    circles(&services, merged, loader);
    let services = select(services, &names, loader);
    disabled(&services, merged, loader);
    ports(&services, merged, loader);
    (all && loader.problems.len() == before).then_some(services)
}

fn after(
    service: &mut ServiceConfig,
    merged: &Merged,
    names: &BTreeSet<&str>,
    kinds: &BTreeMap<String, Kind>,
    all: bool,
    loader: &mut Loader<'_>,
) {
    for (name, when) in merged.file.after.iter().flat_map(|after| &after.value.0) {
        if !names.contains(name.value.as_str()) {
            if all {
                let found = loader.problems.add(name.at, "there is no such service");
                match suggest(&name.value, names.iter().copied().filter(|other| *other != service.name)) {
                    Some(near) => found.hint(format!("did you mean {near}?")),
                    None => found.hint("after names services of this file"),
                };
            }
            continue;
        }
        let Some(kind) = kinds.get(&name.value) else { continue };
        let default = if matches!(kind, Kind::Task { .. }) { When::Completed } else { When::Ready };
        let said = when.as_ref().map_or(default, |when| when.value.0);
        let wrong = match (kind, said) {
            (Kind::Task { schedule: Some(_) }, _) => Some("it runs by its schedule: nothing can wait for it"),
            (Kind::Task { .. }, When::Ready) => Some("a task is never ready: write completed"),
            (Kind::Service, When::Completed) => Some("a service is never completed: write ready"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            loader.problems.add(when.as_ref().map_or(name.at, |when| when.at), wrong);
        }
        if !service.after.iter().any(|other| other.service == name.value) {
            service.after.push(After { service: name.value.clone(), when: said });
        }
    }
}

/// Takes away what waits for nothing that is left, until nothing changes: what stays is in a circle or waits for one.
fn circles(services: &[ServiceConfig], merged: &[Merged], loader: &mut Loader<'_>) {
    let index: BTreeMap<&str, &ServiceConfig> = services.iter().map(|service| (service.name.as_str(), service)).collect();
    let mut state: BTreeMap<&str, bool> = BTreeMap::new();
    for start in services {
        // Depth first, without recursion: a chain can be as long as there are services.
        let mut path: Vec<(&str, usize)> = Vec::new();
        if !state.contains_key(start.name.as_str()) {
            state.insert(&start.name, false);
            path.push((&start.name, 0));
        }
        while let Some((name, next)) = path.last_mut() {
            let Some(after) = index.get(*name).and_then(|service| service.after.get(*next)) else {
                state.insert(name, true);
                path.pop();
                continue;
            };
            *next += 1;
            let to = after.service.as_str();
            match state.get(to) {
                Some(true) => {}
                None => {
                    state.insert(to, false);
                    path.push((to, 0));
                }
                Some(false) => {
                    let from = path.iter().position(|(name, _)| *name == to).unwrap_or_default();
                    let mut names: Vec<&str> = path[from..].iter().map(|(name, _)| *name).take(10).collect();
                    names.push(to);
                    let last = path.last().map_or(to, |(name, _)| *name);
                    let place = merged.iter().find(|merged| merged.name == last).and_then(|merged| merged.file.after.as_ref());
                    let what = format!("these services wait for each other: {}", names.join(" after "));
                    loader.problems.add(place.map(|after| after.at), what).hint("take one of them out");
                }
            }
        }
    }
}

/// Those that are asked for, and what they come after. Who is asked for by name is not disabled.
fn select(mut services: Vec<ServiceConfig>, names: &BTreeSet<&str>, loader: &mut Loader<'_>) -> Vec<ServiceConfig> {
    if loader.request.only.is_empty() {
        return services;
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for pattern in &loader.request.only {
        let glob = globset::Glob::new(pattern).map(|glob| glob.compile_matcher());
        let found: Vec<&str> = match &glob {
            Ok(glob) => names.iter().copied().filter(|name| glob.is_match(name)).collect(),
            Err(_) => Vec::new(),
        };
        if found.is_empty() {
            let near = suggest(pattern, names.iter().copied());
            let hint = near.map_or_else(
                || format!("services: {}", names.iter().copied().take(20).collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean {near}?"),
            );
            loader.problems.add(None, format!("there is no service {}", printable(pattern))).hint(hint);
        }
        wanted.extend(found.into_iter().map(str::to_owned));
    }
    for service in services.iter_mut().filter(|service| wanted.contains(&service.name)) {
        service.disabled = false;
    }
    let index: BTreeMap<&str, &ServiceConfig> = services.iter().map(|service| (service.name.as_str(), service)).collect();
    let mut open: Vec<String> = wanted.iter().cloned().collect();
    while let Some(name) = open.pop() {
        for after in index.get(name.as_str()).into_iter().flat_map(|service| &service.after) {
            if wanted.insert(after.service.clone()) {
                open.push(after.service.clone());
            }
        }
    }
    services.retain(|service| wanted.contains(&service.name));
    services
}

/// What comes after a disabled service would wait for ever.
fn disabled(services: &[ServiceConfig], merged: &[Merged], loader: &mut Loader<'_>) {
    let off: BTreeSet<&str> = services.iter().filter(|service| service.disabled).map(|service| service.name.as_str()).collect();
    for service in services.iter().filter(|service| !service.disabled) {
        for after in service.after.iter().filter(|after| off.contains(after.service.as_str())) {
            let place = merged.iter().find(|merged| merged.name == service.name).and_then(|merged| merged.file.after.as_ref());
            let what = format!("{} is disabled, so {} would never start", after.service, service.name);
            loader.problems.add(place.map(|after| after.at), what).hint("disable both, or neither");
        }
    }
}

/// Two services cannot hold one address. Disabled ones may want what others have.
fn ports(services: &[ServiceConfig], merged: &[Merged], loader: &mut Loader<'_>) {
    let mut taken: BTreeMap<u16, Vec<(&str, SocketAddr)>> = BTreeMap::new();
    for service in services.iter().filter(|service| !service.disabled) {
        for address in &service.ports {
            let same = taken.entry(address.port()).or_default();
            let other = same.iter().find(|(name, other)| *name != service.name && (covers(other, address) || covers(address, other)));
            if let Some((name, other)) = other {
                let place = |name: &str| merged.iter().find(|merged| merged.name == name).and_then(|merged| merged.file.port.as_ref());
                let what = if other == address {
                    format!("{address} is already the port of {name}")
                } else {
                    format!("{address} and {other}, the port of {name}, cover each other")
                };
                let other_place = place(name).map(|port| port.at);
                let found = loader.problems.add(place(&service.name).map(|port| port.at), what);
                found.hint("give each service its own port");
                if let Some(at) = other_place {
                    found.related(at, format!("the port of {name}"));
                }
            }
            same.push((&service.name, *address));
        }
    }
}
