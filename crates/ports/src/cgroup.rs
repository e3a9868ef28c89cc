//! From a cgroup to what people call it: a systemd unit, a container.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stayput_kernel::procfs::{Pid, Proc};

use crate::facts::Manager;

/// Deeper or larger trees than this are not searched for an id.
const MOST_DIRECTORIES: usize = 20_000;

/// Where the cgroup v2 hierarchy is mounted.
pub fn mount_point(proc: &Proc) -> Option<PathBuf> {
    let bytes = proc.read_path("self/mountinfo").ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The path (from the mount point) of the cgroup whose id, the inode of its directory, is `id`. `/` for the root.
pub fn path_of(mount: &Path, id: u64) -> Option<String> {
    let mut stack = vec![mount.to_owned()];
    let mut seen = 0;
    while let Some(directory) = stack.pop() {
        seen += 1;
        if seen > MOST_DIRECTORIES {
            return None;
        }
        let Ok(metadata) = fs::symlink_metadata(&directory) else { continue };
        if metadata.ino() == id {
            let path = directory.strip_prefix(mount).ok()?;
            return Some(format!("/{}", path.display()));
        }
        // A directory has two links and one per child: leaves need no listing.
        if metadata.nlink() <= 2 {
            continue;
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
        }
    }
    None
}

/// The processes in a cgroup; empty for the root, which would name everybody.
pub fn members(mount: &Path, path: &str) -> Vec<Pid> {
    if path == "/" {
        return Vec::new();
    }
    let file = mount.join(path.trim_start_matches('/')).join("cgroup.procs");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Who manages the processes of a cgroup, by its path. `None` for login sessions, desktop scopes and the root.
pub fn manager(path: &str) -> Option<Manager> {
    container(path).or_else(|| unit(path))
}

fn container(path: &str) -> Option<Manager> {
    // The innermost part that is a container's counts.
    path.rsplit('/').find_map(|part| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        for (prefix, runtime) in
            [("docker-", "docker"), ("libpod-", "podman"), ("cri-containerd-", "containerd"), ("crio-", "cri-o"), ("lxc.payload.", "lxc")]
        {
            if let Some(id) = name.strip_prefix(prefix)
                && (runtime == "lxc" || is_id(id))
            {
                return Some(Manager::Container { runtime, id: short(id) });
            }
        }
        if is_id(name) {
            let runtime = if path.contains("/docker/") {
                "docker"
            } else if path.contains("/libpod") {
                "podman"
            } else {
                "containerd"
            };
            return Some(Manager::Container { runtime, id: short(name) });
        }
        None
    })
}

/// 64 hex digits.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn short(id: &str) -> String {
    if is_id(id) { id.chars().take(12).collect() } else { id.to_owned() }
}

fn unit(path: &str) -> Option<Manager> {
    let mut user = false;
    let mut found = None;
    for part in path.split('/') {
        if part.starts_with("user@") && part.ends_with(".service") {
            // The user's own systemd: what is inside belongs to `systemctl --user`.
            user = true;
            found = None;
        } else if part.ends_with(".service") {
            found = Some(part);
        }
    }
    let unit = found?;
    Some(Manager::Systemd { unit: unit.to_owned(), user })
}

/// Names of `.socket` units whose files name the port (`ListenStream=` or `ListenDatagram=`).
pub fn socket_units(port: u16) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut units = Vec::new();
    for directory in
        ["/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/lib/systemd/system", "/lib/systemd/system"]
    {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Earlier directories override later ones.
            if !name.ends_with(".socket") || !seen.insert(name.clone()) {
                continue;
            }
            if fs::read_to_string(entry.path()).is_ok_and(|text| listens_on(&text, port)) {
                units.push(name);
            }
        }
    }
    units.sort();
    units
}

fn listens_on(unit: &str, port: u16) -> bool {
    let port = port.to_string();
    unit.lines().filter_map(|line| line.split_once('=')).any(|(key, value)| {
        let value = value.trim();
        matches!(key.trim(), "ListenStream" | "ListenDatagram")
            && (value == port || value.rsplit_once(':').is_some_and(|(_, last)| last == port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_names() {
        let id = "a1".repeat(32);
        let docker = |id: &str| Some(Manager::Container { runtime: "docker", id: id.to_owned() });
        assert_eq!(manager(&format!("/system.slice/docker-{id}.scope")), docker("a1a1a1a1a1a1"));
        assert_eq!(manager(&format!("/docker/{id}")), docker("a1a1a1a1a1a1"));
        let service = |unit: &str, user| Some(Manager::Systemd { unit: unit.to_owned(), user });
        assert_eq!(manager("/system.slice/nginx.service"), service("nginx.service", false));
        assert_eq!(manager("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service"), service("web.service", true));
        for none in ["/", "/user.slice/user-1000.slice/session-3.scope", "/user.slice/user-1000.slice/user@1000.service/init.scope"] {
            assert_eq!(manager(none), None, "{none}");
        }
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope");
        assert_eq!(manager(&pod), Some(Manager::Container { runtime: "containerd", id: "a1a1a1a1a1a1".to_owned() }));
    }

    #[test]
    fn socket_units_name_ports_and_addresses() {
        assert!(listens_on("[Socket]\nListenStream=0.0.0.0:5000\n", 5000));
        assert!(listens_on("ListenStream = 5000", 5000));
        assert!(!listens_on("ListenStream=15000\nListenStream=/run/5000", 5000));
    }
}
