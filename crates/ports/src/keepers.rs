//! stayput's own processes among the holders of a port: guards and keepers hold duplicates of what their services listen on,
//! and a listener of their own. Knows them by their environment and name; decides nothing about a bind.

use crate::facts::{Holder, Manager, PortSocket, Process, Role, StayputService};

/// One of stayput's own processes, not a service of it.
pub(crate) fn is_keeper(process: &Process) -> bool {
    matches!(&process.manager, Some(Manager::Stayput(service)) if service.generation.is_empty())
}

/// stayput's own processes hold duplicates of their services' listeners: they are no holders to be stopped, whoever the
/// service is. Its name is found where the service itself has the same socket. Takes each process with its sockets, by any
/// number that names one.
pub(crate) fn adopt(holders: &mut [(Vec<usize>, &mut Process)]) {
    let services: Vec<(Vec<usize>, StayputService)> = holders
        .iter()
        .filter_map(|(sockets, process)| match &process.manager {
            Some(Manager::Stayput(service)) => Some((sockets.clone(), service.clone())),
            _ => None,
        })
        .collect();
    for (own, process) in holders.iter_mut().filter(|(_, process)| process.manager.is_none() && process.name == "stayput") {
        let shared = services.iter().find(|(sockets, _)| sockets.iter().any(|socket| own.contains(socket)));
        let nameless = StayputService { service: String::new(), instance: String::new(), generation: String::new() };
        let mut service = shared.map_or(nameless, |(_, service)| service.clone());
        // The duplicate is of no generation.
        service.generation.clear();
        process.manager = Some(Manager::Stayput(service));
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
