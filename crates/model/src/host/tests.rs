//! Hosts that we do not have, invented from what their documentation and others' reports say.

use super::*;

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const ENOPROTOOPT: i32 = 92;

fn fails<T>(call: &str, errno: i32) -> Tried<T> {
    Err(Failure { said: format!("{call}: error {errno}"), errno: Some(errno) })
}

/// A current kernel, as root, with nothing in the way.
fn well() -> Facts {
    Facts {
        system: "Linux 6.18 x86_64".to_owned(),
        uid: 0,
        clone: Ok(()),
        itself: Ok(()),
        trap: Ok(()),
        needs_no_new_privs: Some(false),
        unbroken: Ok(()),
        replaced: Ok(()),
        duplicate: Ok(()),
        read: Ok(()),
        stranger: Ok(()),
        see: Ok(()),
        signal: Ok(()),
        close_range: Ok(()),
        subreaper: Ok(()),
        steering: Ok(()),
        muting: Ok(()),
        migrating: Ok(false),
        mptcp: Mptcp::Present(Ok(())),
        held_queue: Ok(4096),
        refuses_on_overflow: false,
        listing: Ok(()),
        listed: Ok(()),
        release_event: Ok(()),
        uring_binds: Ok(true),
        cgroup: Ok(()),
        ptrace_scope: None,
        low_port: Ok(()),
        first_free_port: Some(1024),
        open_files: (1024, 524_288),
        systemd: true,
        container: None,
        wsl: None,
        gvisor: false,
    }
}

fn finding<'report>(report: &'report Report, id: &str) -> &'report Finding {
    report.findings.iter().find(|finding| finding.id == id).expect("a finding of this name")
}

/// The standings, one letter each: kept, weaker, gone.
fn standings(report: &Report) -> String {
    let letter = |promise: &Standings| match promise.standing {
        Standing::Kept => 'k',
        Standing::Weaker => 'w',
        Standing::Gone => 'g',
    };
    report.promises.iter().map(letter).collect()
}

#[test]
fn a_current_host_keeps_all() {
    let report = judge(&well());
    assert!(report.keeps_all());
    assert_eq!(report.verdict, "This host keeps all seven promises.");
    assert_eq!(finding(&report, "migrate").improve.as_deref(), Some("sysctl -w net.ipv4.tcp_migrate_req=1"));
}

#[test]
fn an_ordinary_user_under_yama_keeps_all() {
    let report = judge(&Facts {
        uid: 1000,
        ptrace_scope: Some(1),
        stranger: fails("pidfd_getfd", EPERM),
        needs_no_new_privs: Some(true),
        low_port: fails("bind", EACCES),
        cgroup: fails("mkdir", EACCES),
        ..well()
    });
    assert!(report.keeps_all(), "{report:?}");
    assert_eq!(finding(&report, "yama").level, Level::Ok);
    assert!(finding(&report, "yama").result.contains("ptrace_scope is 1"));
    assert_eq!(finding(&report, "no_new_privs").level, Level::Note);
    assert!(finding(&report, "low_port").result.contains("below 1024 cannot be bound by uid 1000"));
}

#[test]
fn yama_2_takes_the_ports_and_says_how_to_get_them_back() {
    for (scope, part) in [(2, "sysctl -w kernel.yama.ptrace_scope=1"), (3, "reboot")] {
        let denied = || fails("pidfd_getfd", EPERM);
        let facts = Facts { uid: 1000, ptrace_scope: Some(scope), duplicate: denied(), read: denied(), stranger: denied(), ..well() };
        let report = judge(&facts);
        assert_eq!(standings(&report), "ggggkkk");
        assert!(finding(&report, "duplicate").improve.as_ref().expect("a command").contains(part));
    }
}

#[test]
fn docker_without_ptrace_rights() {
    // Its default filter refuses pidfd_getfd without CAP_SYS_PTRACE, and lets seccomp and process_vm_readv pass.
    let report = judge(&Facts { container: Some("docker".to_owned()), duplicate: fails("pidfd_getfd", EPERM), ..well() });
    assert_eq!(standings(&report), "wwkkkkk");
    assert!(finding(&report, "duplicate").meaning.contains("holding: swap"));
    assert_eq!(finding(&report, "duplicate").improve.as_deref(), Some("docker run --cap-add SYS_PTRACE ..."));
    assert_eq!(report.promises[0].because, ["duplicate"]);
    assert_eq!(finding(&report, "trap").level, Level::Ok);
}

#[test]
fn gvisor_has_neither_trap_nor_steering() {
    let nothing = || fails("not tried", EINVAL);
    let report = judge(&Facts {
        gvisor: true,
        trap: fails("seccomp", EINVAL),
        needs_no_new_privs: None,
        unbroken: nothing(),
        replaced: nothing(),
        steering: fails("setsockopt(SO_ATTACH_REUSEPORT_CBPF)", ENOPROTOOPT),
        mptcp: Mptcp::Absent("EPROTONOSUPPORT".to_owned()),
        release_event: fails("netlink socket", EINVAL),
        ..well()
    });
    assert_eq!(standings(&report), "ggggkkk");
    assert!(finding(&report, "trap").improve.as_ref().expect("a way").contains("gVisor"));
    assert_eq!(finding(&report, "replace").level, Level::Note, "it follows from the trap");
    assert!(finding(&report, "place").result.contains("gVisor"));
}

#[test]
fn wsl_mirrored_has_a_listener_of_its_own() {
    let mirrored = judge(&Facts { wsl: Some(true), trap: fails("seccomp", EBUSY), ..well() });
    assert!(finding(&mirrored, "trap").improve.as_ref().expect("a way").contains("networkingMode=nat"));
    let nested = judge(&Facts { trap: fails("seccomp", EBUSY), ..well() });
    assert!(finding(&nested, "trap").improve.as_ref().expect("a way").contains("outside of the other stayput"));
    // WSL2 itself takes nothing away.
    assert!(judge(&Facts { wsl: Some(false), ..well() }).keeps_all());
}

#[test]
fn old_kernels() {
    // 5.15: no WAIT_KILLABLE_RECV.
    let report = judge(&Facts { unbroken: fails("seccomp(WAIT_KILLABLE_RECV)", EINVAL), uring_binds: Ok(false), ..well() });
    assert_eq!(report.verdict, "Here P2 is weaker; P1, P3, P4, P5, P6 and P7 remain.");
    // 5.8: no ADDFD, no close_range either.
    let report = judge(&Facts {
        unbroken: fails("seccomp(WAIT_KILLABLE_RECV)", EINVAL),
        replaced: fails("ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)", EINVAL),
        close_range: fails("close_range", ENOSYS),
        ..well()
    });
    assert_eq!(standings(&report), "wwkkkkk");
    assert_eq!(finding(&report, "close_range").level, Level::Note);
    assert_eq!(finding(&report, "replace").improve.as_deref(), Some("sysctl -w net.ipv4.tcp_migrate_req=1"), "what waits is moved then");
}

/// Without sock_diag connections are still found; without any list nothing can be said of them.
#[test]
fn sockets_are_listed_in_another_place_too() {
    let refused = || fails("netlink socket", EPERM);
    assert_eq!(standings(&judge(&Facts { listing: refused(), ..well() })), "kwkwkkk");
    assert_eq!(standings(&judge(&Facts { listing: refused(), listed: fails("read /proc/net/tcp", EACCES), ..well() })), "kwwwkkk");
}

#[test]
fn a_short_queue_is_a_note_and_a_refusing_one_is_not() {
    let short = judge(&Facts { held_queue: Ok(128), ..well() });
    assert!(short.keeps_all());
    assert_eq!(finding(&short, "queue").improve.as_deref(), Some("sysctl -w net.core.somaxconn=4096"));
    let refusing = judge(&Facts { held_queue: Ok(128), refuses_on_overflow: true, ..well() });
    assert_eq!(standings(&refusing), "wkkkkkk");
}

#[test]
fn no_child_at_all_leaves_the_looking() {
    let no = || fails("clone", EPERM);
    let report =
        judge(&Facts { clone: no(), trap: no(), duplicate: no(), read: no(), stranger: no(), see: no(), subreaper: no(), ..well() });
    assert_eq!(standings(&report), "gggggkk");
    // The one finding that matters is not drowned in those that follow from it.
    assert!(report.promises.iter().all(|promise| promise.because.iter().all(|id| *id == "clone")), "{report:?}");
    assert_eq!(finding(&report, "trap").level, Level::Note);
}

#[test]
fn an_ordinary_user_may_not_mute_on_some_kernels() {
    let report = judge(&Facts { uid: 1000, muting: fails("setsockopt(SO_ATTACH_FILTER)", EPERM), ..well() });
    assert_eq!(standings(&report), "kwwkkkk");
    assert!(finding(&report, "muting").improve.as_ref().expect("a way").contains("CAP_NET_ADMIN"));
}

/// Whatever fails, alone: it is said, and what it takes is explained.
#[test]
fn each_failure_alone_is_told_with_its_meaning() {
    let failing: [fn(&mut Facts); 16] = [
        |facts| facts.clone = fails("x", ENOSYS),
        |facts| facts.itself = fails("x", ENOSYS),
        |facts| facts.trap = fails("x", ENOSYS),
        |facts| facts.unbroken = fails("x", ENOSYS),
        |facts| facts.replaced = fails("x", ENOSYS),
        |facts| facts.duplicate = fails("x", ENOSYS),
        |facts| facts.read = fails("x", ENOSYS),
        |facts| facts.see = fails("x", ENOSYS),
        |facts| facts.subreaper = fails("x", ENOSYS),
        |facts| facts.signal = fails("x", ENOSYS),
        |facts| facts.steering = fails("x", ENOSYS),
        |facts| facts.muting = fails("x", ENOSYS),
        |facts| facts.mptcp = Mptcp::Present(fails("x", ENOSYS)),
        |facts| facts.listing = fails("x", ENOSYS),
        |facts| facts.release_event = fails("x", ENOSYS),
        |facts| facts.open_files = (20, 20),
    ];
    for fail in failing {
        let mut facts = well();
        fail(&mut facts);
        let report = judge(&facts);
        assert!(!report.keeps_all(), "{facts:?}");
        let taken: Vec<&Finding> = report.findings.iter().filter(|finding| !finding.promises.is_empty()).collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert!(taken[0].level > Level::Ok && !taken[0].meaning.is_empty(), "{taken:?}");
    }
}

#[test]
fn names_and_order_are_stable() {
    let report = judge(&well());
    let groups: Vec<Group> = report.findings.iter().map(|finding| finding.group).collect();
    assert!(groups.is_sorted());
    let mut ids: Vec<&str> = report.findings.iter().map(|finding| finding.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), report.findings.len());
    for finding in &report.findings {
        // One line of 80 columns, with a mark and a word before it.
        assert!(finding.tried.len() <= 66, "{}", finding.tried);
    }
}
