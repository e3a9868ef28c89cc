//! A load client that cannot see losses is worthless: each class of failure is produced on purpose and must be counted, exactly once.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stayput_testkit::load::{Counts, Outcome, Plan, Report};

/// Reads one request; gives its `n`, or None when the client is gone.
fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut first = String::new();
    if stream.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    let n = first.split_once("n=")?.1.split([' ', '&']).next()?;
    Some(n.to_owned())
}

fn answer(stream: &mut BufReader<TcpStream>, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
}

fn good(stream: &mut BufReader<TcpStream>, n: &str) {
    answer(stream, &format!(r#"{{"pid":7,"generation":"3","n":"{n}"}}"#));
}

/// A server that treats its connections, counted from 0, as `treat` says. Returns its address and how many it accepted.
fn server(treat: impl Fn(u64, BufReader<TcpStream>) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let accepted = Arc::new(AtomicU64::new(0));
    let (of_thread, treat) = (Arc::clone(&accepted), Arc::new(treat));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let index = of_thread.fetch_add(1, Ordering::SeqCst);
            let treat = Arc::clone(&treat);
            std::thread::spawn(move || treat(index, BufReader::new(stream)));
        }
    });
    (address, accepted)
}

fn short(target: SocketAddr) -> Plan {
    Plan::new(target).clients(2).duration(Duration::from_millis(200)).timeout(Duration::from_millis(300))
}

/// Everything failed, and in this way alone.
fn assert_only(report: &Report, outcome: Outcome, count: impl Fn(&Counts) -> u64) {
    let of_kind = count(&report.counts);
    assert!(of_kind > 0, "{report:#?}");
    assert_eq!(report.counts.total(), of_kind, "{report:#?}");
    assert!(report.failures.iter().all(|failure| failure.outcome == outcome), "{report:#?}");
}

#[test]
fn good_answers_are_counted_with_who_gave_them() {
    let (address, accepted) = server(|_, mut stream| {
        let n = request(&mut stream).unwrap();
        good(&mut stream, &n);
    });
    let report = short(address).run().unwrap();
    report.assert_nothing_lost();
    assert_eq!(report.counts.ok, accepted.load(Ordering::SeqCst));
    assert_eq!(report.opened, report.counts.ok);
    assert_eq!(report.answerers.len(), 1);
    let who = &report.answerers[0];
    assert_eq!((who.generation.as_str(), who.pid, who.ok), ("3", 7, report.counts.ok));
    assert!(report.latency_us.p50 > 0 && report.latency_us.p50 <= report.latency_us.max);
}

#[test]
fn a_closed_port_is_refused() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_only(&short(address).run().unwrap(), Outcome::Refused, |counts| counts.refused);
}

#[test]
fn a_reset_before_the_answer_is_seen() {
    let (address, _) = server(|_, mut stream| {
        request(&mut stream);
        rustix::net::sockopt::set_socket_linger(stream.get_ref(), Some(Duration::ZERO)).unwrap();
    });
    assert_only(&short(address).run().unwrap(), Outcome::ResetBeforeFirstByte, |counts| counts.reset_before_first_byte);
}

#[test]
fn a_reset_of_what_waits_in_the_queue_is_seen() {
    // Never accepted: closing the listener resets what it had queued.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let load = short(listener.local_addr().unwrap()).clients(5).timeout(Duration::from_secs(5)).start().unwrap();
    while rustix::event::poll(&mut [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)], None).unwrap() == 0 {}
    while load.elapsed() < Duration::from_millis(100) {
        std::thread::yield_now();
    }
    drop(listener);
    let counts = load.stop().unwrap().counts;
    assert_eq!(counts.reset_before_first_byte, 5, "{counts:?}");
    assert_eq!(counts.ok, 0);
}

#[test]
fn a_close_without_a_byte_is_seen() {
    let (address, _) = server(|_, mut stream| drop(request(&mut stream)));
    assert_only(&short(address).run().unwrap(), Outcome::ResetBeforeFirstByte, |counts| counts.reset_before_first_byte);
}

#[test]
fn half_an_answer_is_a_loss() {
    let (address, _) = server(|_, mut stream| {
        request(&mut stream);
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"pid\"");
    });
    assert_only(&short(address).run().unwrap(), Outcome::ResetAfterFirstByte, |counts| counts.reset_after_first_byte);
}

#[test]
fn silence_is_a_time_out() {
    let (address, _) = server(|_, mut stream| {
        request(&mut stream);
        // Until the client has had enough.
        request(&mut stream);
    });
    assert_only(&short(address).run().unwrap(), Outcome::TimedOut, |counts| counts.timed_out);
}

#[test]
fn a_listener_that_nobody_accepts_from_is_a_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = short(listener.local_addr().unwrap()).run().unwrap();
    assert_only(&report, Outcome::TimedOut, |counts| counts.timed_out);
}

#[test]
fn the_answer_to_another_request_is_wrong() {
    let (address, _) = server(|_, mut stream| {
        request(&mut stream);
        good(&mut stream, "999999");
    });
    assert_only(&short(address).run().unwrap(), Outcome::WrongBody, |counts| counts.wrong_body);
}

#[test]
fn another_status_is_wrong() {
    let (address, _) = server(|_, mut stream| {
        request(&mut stream);
        let _ = stream.get_mut().write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    });
    assert_only(&short(address).run().unwrap(), Outcome::WrongBody, |counts| counts.wrong_body);
}

#[test]
fn an_unreachable_address_is_told_apart_from_a_refusal() {
    // Broadcast of 127.0.0.0/8: TCP has no route to it.
    let report = short(SocketAddr::from(([127, 255, 255, 255], 9))).run().unwrap();
    assert_only(&report, Outcome::ConnectOther, |counts| counts.connect_other);
}

#[test]
fn one_loss_in_ten_is_counted_to_the_last() {
    let (address, accepted) = server(|index, mut stream| {
        let n = request(&mut stream).unwrap();
        if index % 10 != 9 {
            good(&mut stream, &n);
        }
    });
    let report = short(address).rate(400.0).duration(Duration::from_millis(500)).run().unwrap();
    let accepted = accepted.load(Ordering::SeqCst);
    assert_eq!(report.counts.total(), accepted, "{report:#?}");
    assert_eq!(report.counts.reset_before_first_byte, accepted / 10, "{report:#?}");
    assert_eq!(report.counts.ok, accepted - accepted / 10, "{report:#?}");
}

#[test]
fn the_keep_alive_race_is_kept_apart() {
    let (address, accepted) = server(|_, mut stream| {
        let n = request(&mut stream).unwrap();
        good(&mut stream, &n);
        request(&mut stream);
    });
    let report = short(address).keep_alive().run().unwrap();
    let counts = report.counts;
    assert!(counts.ok > 0 && counts.keep_alive_race > 0, "{report:#?}");
    assert_eq!(counts.ok + counts.keep_alive_race, counts.total(), "{report:#?}");
    // Each connection carried one good request; the last ones of the two clients may not have been tried again.
    assert!(counts.ok - counts.keep_alive_race <= 2, "{report:#?}");
    assert_eq!(report.opened, accepted.load(Ordering::SeqCst));
}

#[test]
fn an_idle_connection_that_the_server_closes_is_no_loss() {
    let (address, _) = server(|_, mut stream| {
        let n = request(&mut stream).unwrap();
        good(&mut stream, &n);
    });
    let report = short(address).keep_alive().think(Duration::from_millis(20)).run().unwrap();
    report.assert_nothing_lost();
    assert!(report.idle_closed > 0, "{report:#?}");
}

#[test]
fn keep_alive_uses_its_connections_again() {
    let (address, accepted) = server(|_, mut stream| {
        while let Some(n) = request(&mut stream) {
            good(&mut stream, &n);
        }
    });
    let report = short(address).keep_alive().run().unwrap();
    report.assert_nothing_lost();
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    assert!(report.counts.ok > 10, "{report:#?}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_sees_the_stall() {
    let (address, _) = server(|index, mut stream| {
        let n = request(&mut stream).unwrap();
        if index == 20 {
            std::thread::sleep(Duration::from_millis(150));
        }
        good(&mut stream, &n);
    });
    let report = short(address).rate(100.0).duration(Duration::from_secs(1)).run().unwrap();
    report.assert_nothing_lost();
    assert!((99..=101).contains(&report.counts.total()), "{report:#?}");
    assert!(report.latency_us.max >= 150_000, "{report:#?}");
}

#[test]
fn load_is_for_loopback_only() {
    let error = Plan::new(SocketAddr::from(([192, 0, 2, 1], 80))).run().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
