//! stayput's own processes among the holders of a port: guards and keepers hold duplicates of what their services listen on,
//! and a listener of their own. Knows them by their environment and name; decides nothing about a bind.

use crate::facts::{Holder, Manager, PortSocket, Process, Role, StayputService};

/// One of stayput's own processes, not a service of it.
pub(crate) fn is_keeper(process: &Process) -> bool {
    matches!(&process.manager, Some(Manager::Stayput(service)) if service.generation.is_empty())
}

/// stayput's own processes hold duplicates of their services' listeners: they are no holders to be stopped, whoever the
/// service is, and whatever unit of systemd they run in. Its name is found where the service itself has the same socket. The same is true of a
/// service manager that keeps such a duplicate in its descriptor store. Takes each process with its sockets, by any number that names one.
pub(crate) fn adopt(holders: &mut [(Vec<usize>, &mut Process)]) {
    adopt_where(holders, |process, shared| {
        let ours = process.name == "stayput" && matches!(process.manager, None | Some(Manager::Systemd { .. }));
        ours.then(|| shared.cloned().unwrap_or_default())
    });
    // After ours: while a service is down they alone say that it is one.
    adopt_where(holders, |process, shared| {
        let stores = process.name == "systemd" && matches!(process.manager, None | Some(Manager::SystemdSocket { .. }));
        shared.filter(|_| stores).cloned()
    });
}

/// Makes those stayput's for which `is` gives a service; it gets the one that has a socket of the process, if there is one.
fn adopt_where(holders: &mut [(Vec<usize>, &mut Process)], is: impl Fn(&Process, Option<&StayputService>) -> Option<StayputService>) {
    let services: Vec<(Vec<usize>, StayputService)> = holders
        .iter()
        .filter_map(|(sockets, process)| match &process.manager {
            Some(Manager::Stayput(service)) => Some((sockets.clone(), service.clone())),
            _ => None,
        })
        .collect();
    for (own, process) in holders.iter_mut() {
        let shared = services.iter().find(|(sockets, _)| sockets.iter().any(|socket| own.contains(socket)));
        if let Some(mut service) = is(process, shared.map(|(_, service)| service)) {
            // The duplicate is of no generation.
            service.generation.clear();
            process.manager = Some(Manager::Stayput(service));
        }
    }
}

/// The listener that keeps a port in stayput's hands and takes no connection: nobody else has it, and its queue has no room.
/// A service's listener that is held while the service is down has room.
pub(crate) fn is_anchor(socket: &PortSocket, holders: &[Holder]) -> bool {
    let Some(pids) = socket.pids.value() else { return false };
    let keeper = |pid: &i32| holders.iter().any(|holder| holder.process.pid == *pid && is_keeper(&holder.process));
    socket.role == Role::Listener
        && !pids.is_empty()
        && pids.iter().all(keeper)
        && socket.accept_queue.is_some_and(|queue| queue.limit == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;

    fn process(pid: i32, name: &str, manager: Option<Manager>) -> Process {
        let absent = || Fact::<String>::Absent { source: "test" };
        Process {
            pid,
            name: name.to_owned(),
            command: name.to_owned(),
            uid: None,
            user: None,
            state: None,
            started: None,
            start_ticks: None,
            cwd: absent(),
            parents: Vec::new(),
            net_namespace: Fact::Absent { source: "test" },
            manager,
            stray: None,
            abandoned: None,
        }
    }

    fn service(generation: &str) -> Manager {
        Manager::Stayput(StayputService { service: "web".into(), instance: "shop".into(), generation: generation.into() })
    }

    fn adopted(mut processes: Vec<(Vec<usize>, Process)>) -> Vec<Option<Manager>> {
        adopt(&mut processes.iter_mut().map(|(sockets, process)| (sockets.clone(), process)).collect::<Vec<_>>());
        processes.into_iter().map(|(_, process)| process.manager).collect()
    }

    #[test]
    fn duplicates_are_the_services_whoever_keeps_them() {
        let unit = || Some(Manager::Systemd { unit: "stayput.service".into(), user: false });
        let store = || Some(Manager::SystemdSocket { units: Vec::new() });
        let web = || (vec![7], process(30, "python3", Some(service("3"))));
        let nameless = Some(Manager::Stayput(StayputService::default()));
        assert_eq!(
            adopted(vec![(vec![7, 9], process(1, "systemd", store())), (vec![7, 8], process(20, "stayput", unit())), web()]),
            [Some(service("")), Some(service("")), Some(service("3"))]
        );
        // While the service is down there is nobody to have a name from.
        let down = vec![(vec![7], process(1, "systemd", store())), (vec![7], process(20, "stayput", unit()))];
        assert_eq!(adopted(down), [nameless.clone(), nameless]);
        // What has none of ours is not ours: a socket unit, a service of systemd.
        let others = vec![(vec![1], process(1, "systemd", store())), (vec![7], process(40, "nginx", unit())), web()];
        assert_eq!(adopted(others), [store(), unit(), Some(service("3"))]);
    }
}
