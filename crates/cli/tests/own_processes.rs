//! P6 for stayput's own processes: a status names those of now, and an instance that lost some still restarts and stops.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

both_users! {
    fn a_killed_part_is_replaced_named_and_counted(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "0"], &env.misbehave("trivial", port));
        running.wait_answer(port);
        running.wait_ready();
        for (part, deaths) in [("keeper", "keeper_deaths"), ("daemon", "daemon_deaths")] {
            let before = running.part(part);
            process::signal(before, Signal::KILL);
            wait::until(&format!("another {part}"), PATIENCE, || {
                let instance = running.instance()?;
                let (now, count) = (instance[part]["pid"].as_u64(), instance[deaths].as_u64());
                if now == Some(u64::from(before)) || count != Some(1) { Err(instance.to_string()) } else { Ok(()) }
            })
            .unwrap();
            assert!(process::is_alive(running.part(part)), "{part}");
        }
        // The exit of the old generation reaches the new keeper by way of the guard.
        for _ in 0..2 {
            running.restart_well();
        }
        let output = env.cli(["stop", "web", "--json"], PATIENCE);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        running.wait_exit(PATIENCE);
    }
}
