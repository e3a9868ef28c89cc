//! Logs when nothing runs: they are found where the configuration put them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn says(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = env.cli(arguments, PATIENCE);
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

both_users! {
fn a_directory_of_its_own_is_found_again(env) {
    let file = env.file(
        "stayput.toml",
        "name = 'shop'\ndashboard = false\nlogs = { directory = 'kept here' }\n[service.job]\nshell = 'echo it was here; exec sleep 1000'\n",
    );
    let mut front = env.command(["up"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait::until_true("the line", PATIENCE, || says(env, &["logs"]).1.contains("it was here")).unwrap();
    assert_eq!(says(env, &["down"]).0, Some(0));
    assert!(front.wait().unwrap().success());
    assert!(env.path("scratch/kept here").is_dir());

    for arguments in [&["logs", "--raw"][..], &["logs", "--raw", "--instance", "shop"], &["logs", "--raw", "job"]] {
        let (code, out, err) = says(env, arguments);
        assert_eq!((code, out.as_str()), (Some(0), "it was here\n"), "{arguments:?}: {err}");
    }
    // From elsewhere nothing is known of it, unless the file is named.
    let elsewhere = |arguments: &[&str]| {
        let output = env.command(arguments).current_dir("/").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = elsewhere(&["logs", "--raw"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let (code, out, err) = elsewhere(&["logs", "--raw", "--file", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(0), "it was here\n"), "{err}");
    let broken = env.file("broken.toml", "name = 3\n");
    let (code, _, err) = elsewhere(&["logs", "--file", broken.to_str().unwrap()]);
    assert_eq!((code, err.contains("name = 3")), (Some(2), true), "{err}");
    env.assert_nothing_left(PATIENCE);
}
}
