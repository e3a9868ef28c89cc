//! Other network namespaces: containers and `ip netns`. A listener there stops nobody here, but it is what people look for
//! when "the port is taken" and nothing is seen.

use std::collections::{BTreeMap, HashSet};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stayput_kernel::procfs::{Pid, Proc};
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, States};

use std::os::fd::AsFd;

use crate::facts::ElsewhereListener;

/// More namespaces than this are not entered.
const MOST_NAMESPACES: usize = 512;

/// Listeners on any of `ports` in namespaces other than ours that a visible process lives in. Empty without root.
pub(crate) fn listeners(proc: &Proc, pids: &[Pid], ports: &HashSet<u16>) -> Vec<ElsewhereListener> {
    let (Ok(own), true) = (proc.own_net_namespace(), rustix::process::geteuid().is_root()) else { return Vec::new() };
    let mut namespaces: BTreeMap<u64, Pid> = BTreeMap::new();
    for &pid in pids {
        if let Ok(id) = proc.net_namespace(pid)
            && id != own
        {
            namespaces.entry(id).or_insert(pid);
        }
    }
    if namespaces.is_empty() {
        return Vec::new();
    }
    // setns(2) changes the calling thread alone; this one ends right after.
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let entries = namespaces.into_iter().take(MOST_NAMESPACES);
            entries.flat_map(|(id, pid)| inside(proc, id, pid, ports)).collect()
        });
        looking.join().unwrap_or_default()
    })
}

fn inside(proc: &Proc, id: u64, pid: Pid, ports: &HashSet<u16>) -> Vec<ElsewhereListener> {
    let (Some(lowest), Some(highest)) = (ports.iter().min(), ports.iter().max()) else { return Vec::new() };
    let entered =
        proc.open_net_namespace(pid).is_ok_and(|fd| move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)).is_ok());
    let (true, Ok(mut diag)) = (entered, SockDiag::open()) else { return Vec::new() };
    let mut found = Vec::new();
    for family in Family::ALL {
        let query = Query::new(family, Protocol::Tcp, States::LISTEN).ports(*lowest..=*highest);
        // The namespace may lack IPv6.
        let _ = diag.each(&query, |socket| {
            if ports.contains(&socket.local.port()) {
                found.push(ElsewhereListener { net_namespace: id, local: socket.local, pid: Some(pid), command: None });
            }
        });
    }
    found
}
