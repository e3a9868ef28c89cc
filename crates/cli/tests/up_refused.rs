//! What `up` refuses before anything is started: all that is wrong at once, exit status 2, and what runs is not touched.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use stayput_testkit::both_users;
use stayput_testkit::env::TestEnv;

const PATIENCE: Duration = Duration::from_secs(30);

/// Its exit code and what it said.
fn stayput(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = env.cli(arguments, PATIENCE);
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

both_users! {
fn every_service_that_could_not_start_is_named_at_once(env) {
    env.file(
        "stayput.toml",
        "\
[service.fine]
command = 'sleep 1000'
[service.missing]
command = 'pyhton3 app.py'
[service.elsewhere]
command = 'sleep 1'
cwd = 'no/such/place'
port = '192.0.2.1:8000'
[service.text]
command = './stayput.toml'
[service.off]
command = 'no-such-program'
disabled = true
",
    );
    for arguments in [&["up"][..], &["up", "-d"]] {
        let (code, out, err) = stayput(env, arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        for part in [
            "missing (stayput.toml:3): there is no command \"pyhton3\"",
            "elsewhere (stayput.toml:5): its working directory",
            "elsewhere (stayput.toml:5): port 192.0.2.1:8000: this address cannot be bound here",
            "text (stayput.toml:9): ./stayput.toml: it is not executable",
            "nothing was started: 3 services cannot start",
        ] {
            assert!(err.contains(part), "{part} is missing in\n{err}");
        }
        assert!(!err.contains("fine") && !err.contains("off ("), "{err}");
    }
    assert!(stayput(env, &["status"]).2.contains("no instance of stayput is running"));
    // Only those that are asked for have to be able to.
    let (code, out, err) = stayput(env, &["up", "-d", "missing"]);
    assert_eq!((code, out.as_str(), err.contains("elsewhere")), (Some(2), "", false), "{err}");
    env.assert_nothing_left(PATIENCE);
}

fn a_second_up_is_refused_without_harm_and_says_what_runs(env) {
    let web = env.port();
    let file = env.file("stayput.toml", &format!("name = 'shop'\n[service.web]\ncommand = 'python3 -m http.server --bind 127.0.0.1 {web}'\n"));
    assert_eq!(stayput(env, &["up", "-d"]).0, Some(0));
    let before = env.status().unwrap()["services"][0]["generations"].clone();
    for arguments in [&["up"][..], &["up", "-d"]] {
        let (code, out, err) = stayput(env, arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains("\"shop\" is running already: its guard is pid"), "{err}");
        assert!(err.contains("it runs web of the same file; what changed in it is applied by: stayput reload shop"), "{err}");
        assert!(!err.contains("--name"), "up has no such option: {err}");
    }
    let other = env.file("other.toml", "name = 'shop'\n[service.job]\ncommand = 'sleep 1000'\n");
    let (code, _, err) = stayput(env, &["up", "-f", other.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(&format!("it runs web of {}; name = ", file.display())), "{err}");
    let after = env.status().unwrap()["services"][0]["generations"].clone();
    assert_eq!((&before[0]["id"], &before[0]["pid"]), (&after[0]["id"], &after[0]["pid"]));
    assert_eq!(stayput(env, &["down"]).0, Some(0));
    env.assert_nothing_left(PATIENCE);
}
}
