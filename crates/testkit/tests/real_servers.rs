//! Each real server runs bare, answers the load client, and says who it is. What fails here is the set-up, not stayput.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::load::Plan;
use stayput_testkit::port::Port;
use stayput_testkit::process;
use stayput_testkit::server::Server;
use stayput_testkit::wait;

#[test]
fn every_real_server_answers_the_load_client() {
    for server in Server::ALL {
        let (port, scratch) = (Port::free(), tempfile::tempdir().unwrap());
        let words = server.command(port.number(), scratch.path());
        let mark = format!("bare-{}-{}", std::process::id(), port.number());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env("STAYPUT_TESTKIT", &mark)
            // gunicorn keeps a control socket in its user's home.
            .env("HOME", scratch.path())
            .env("STAYPUT_GENERATION", "g7")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let first = wait::until(server.name(), Duration::from_secs(30), || {
            let report = Plan::port(port.number()).clients(1).duration(Duration::from_millis(1)).run().unwrap();
            if report.counts.failed() == 0 { Ok(report) } else { Err(format!("{report:?}")) }
        });
        let report = Plan::port(port.number()).clients(2).duration(Duration::from_millis(300)).run();
        let slow = Plan::port(port.number()).clients(1).path("/slow?ms=50").duration(Duration::from_millis(10)).run();
        process::signal(child.id(), Signal::TERM);
        let ended = wait::until_true("its end", Duration::from_secs(15), || child.try_wait().unwrap().is_some());
        for left in process::marked(&mark) {
            process::signal(left.pid, Signal::KILL);
        }
        first.unwrap();
        ended.unwrap();
        let (report, slow) = (report.unwrap(), slow.unwrap());
        report.assert_nothing_lost();
        slow.assert_nothing_lost();
        if server != Server::Nginx {
            assert!(report.answerers.iter().all(|who| who.generation == "g7"), "{report:#?}");
            assert!(slow.latency_us.p50 >= 50_000, "{}: {slow:#?}", server.name());
        }
        println!("{}: {} answers in 300 ms", server.name(), report.counts.ok);
    }
}
