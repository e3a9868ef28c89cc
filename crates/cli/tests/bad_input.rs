//! Bad input to the real binary: exit code 2, a message that names what is wrong, a hint, and nothing changed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use stayput_wire::runtime::RuntimeDir;

/// A place where instances would be found, and nothing else.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn base(&self) -> PathBuf {
        self.path().join("stayput")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stayput"));
        command.args(arguments).env("XDG_RUNTIME_DIR", self.path()).env_remove("NO_COLOR");
        command
    }

    /// Exit code, standard output and standard error.
    fn stayput(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// The error text of a command line that is refused before anything is touched.
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, out, text) = self.stayput(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("error: "), "{arguments:?}: {text}");
        assert!(out.is_empty(), "{arguments:?} wrote to standard output: {out}");
        assert!(!text.contains('\u{1b}'), "{arguments:?}: control characters: {text:?}");
        assert!(!self.base().exists(), "{arguments:?} left a runtime directory behind");
        text
    }
}

#[test]
fn run_refuses_what_makes_no_sense() {
    let place = Place::new();
    for (arguments, part) in [
        (&["--prot", "8000", "--", "true"][..], "--prot"),
        (&[], "CMD"),
        (&["--"], "CMD"),
        (&["--", ""], "the command is empty"),
        (&["--", "no-such-command-here"], "looked in PATH"),
        (&["--", "/no/such/file"], "there is no such file"),
        (&["--", "/"], "directory"),
        (&["--", "/etc/passwd"], "not executable"),
        (&["--", "python3 -m http.server"], "separate words"),
        (&["--port", "0", "--", "true"], "any port"),
        (&["--port", "70000", "--", "true"], "1 to 65535"),
        (&["--port", "http", "--", "true"], "not a number"),
        (&["--port", "-5", "--", "true"], "not a number"),
        (&["--port", "", "--", "true"], "not a number"),
        (&["--port", "5000", "--port", "5000", "--", "true"], "twice"),
        (&["--port", "5000", "--port", "127.0.0.1:5000", "--", "true"], "cover each other"),
        (&["--port", "::1:5000", "--", "true"], "brackets"),
        (&["--port", "\u{1b}[31m:5000", "--", "true"], "not an IP address"),
        (&["--port", "localhost:5000", "--", "true"], "127.0.0.1:5000"),
        (&["--port", "192.0.2.1:5000", "--", "true"], "cannot be bound here"),
        (&["--ready", "soon", "--", "true"], "there is no such check"),
        (&["--ready", "log:(", "--", "true"], "not a regular expression"),
        (&["--ready", "http:health", "--", "true"], "slash"),
        (&["--ready-timeout", "0s", "--", "true"], "nothing is ready at once"),
        (&["--drain", "5 bananas", "--", "true"], "not a time"),
        (&["--grace", "10", "--", "true"], "10s for seconds"),
        (&["--soak", "-1s", "--", "true"], "not a time"),
        (&["--hold", "400d", "--", "true"], "longer than a year"),
        (&["--stop-signal", "NOPE", "--", "true"], "TERM"),
        (&["--restart", "sometimes", "--", "true"], "on-failure"),
        (&["--name", "", "--", "true"], "empty"),
        (&["--name", ".hidden", "--", "true"], "dot"),
        (&["--name", "../../etc", "--", "true"], "dot"),
        (&["--name", "a/b", "--", "true"], "allowed"),
        (&["--name", "a b", "--", "true"], "allowed"),
    ] {
        let text = place.refused(&[&["run"], arguments].concat());
        assert!(text.contains(part), "{arguments:?}: {part:?} is missing in: {text}");
        assert!(text.contains("hint: ") || text.contains("--help"), "{arguments:?}: no hint in: {text}");
    }
}

#[test]
fn the_hidden_command_refuses_to_be_typed() {
    Place::new().refused(&["__daemon"]);
}

#[test]
fn a_working_directory_that_is_gone_is_told() {
    let place = Place::new();
    let gone = place.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let script = "cd \"$1\" && rmdir \"$1\" && exec \"$2\" run -- true";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&gone)
        .arg(env!("CARGO_BIN_EXE_stayput"))
        .env("XDG_RUNTIME_DIR", place.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("working directory"), "{text}");
}

#[test]
fn a_name_that_runs_already_is_refused_with_its_guard() {
    let place = Place::new();
    let _running = RuntimeDir::create(&place.base(), "web").unwrap();
    let (code, _, text) = place.stayput(&["run", "--name", "web", "--", "true"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(&format!("guard is pid {}", std::process::id())), "{text}");
    assert!(text.contains("hint: stayput restart web"), "{text}");
}

#[test]
fn a_runtime_directory_that_is_open_to_others_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.base()).unwrap();
    std::fs::set_permissions(place.base(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for command in [&["run", "--", "true"][..], &["status"]] {
        let (code, _, text) = place.stayput(command);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("others may enter it"), "{text}");
        assert!(text.contains("hint: "), "{text}");
    }
}

#[test]
fn nothing_running_is_said_and_is_exit_1() {
    let place = Place::new();
    for command in ["restart", "status", "stop"] {
        for arguments in [&[command][..], &[command, "web"]] {
            let (code, _, text) = place.stayput(arguments);
            assert_eq!(code, Some(1), "{arguments:?}: {text}");
            assert!(text.contains("no instance of stayput is running"), "{arguments:?}: {text}");
        }
    }
    assert_eq!(place.stayput(&["status", "--json"]).1, "{\"instances\":[]}\n");
}

#[test]
fn an_unknown_name_and_too_many_names_are_refused() {
    let place = Place::new();
    let _web = RuntimeDir::create(&place.base(), "web").unwrap();
    let _api = RuntimeDir::create(&place.base(), "api").unwrap();
    for command in ["restart", "stop"] {
        let (code, _, text) = place.stayput(&[command]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("api, web"), "{text}");
    }
    for command in ["restart", "status", "stop"] {
        let (code, _, text) = place.stayput(&[command, "wbe"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("did you mean web?"), "{text}");
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_told_as_a_fact() {
    let place = Place::new();
    let web = RuntimeDir::create(&place.base(), "web").unwrap();
    let _socket = web.listen().unwrap();
    let (code, out, _) = place.stayput(&["status"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("its daemon does not answer"), "{out}");
    assert!(out.contains(&format!("guard pid {}", std::process::id())), "{out}");

    let (_, out, _) = place.stayput(&["status", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["name"], "web");
    assert_eq!(document["instances"][0]["guard"]["pid"], std::process::id());
    assert!(document["unanswered"].as_str().unwrap().contains("no answer"), "{document}");
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let place = Place::new();
    let mut child = place.command(&["run", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn run_refuses_an_environment_with_which_nothing_could_be_executed() {
    let place = Place::new();
    let large = "x".repeat(100_000);
    let mut command = place.command(&["run", "--", "true"]);
    let variables = |count: usize| (0..count).map(|nth| format!("LARGE_{nth}")).map(|name| (name, large.as_str()));
    let Output { status, stderr, .. } = command.envs(variables(12)).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("bytes, more than") && text.contains("LARGE"), "{text}");
    assert!(!place.base().exists());
    // What is let through is enough for a real start.
    let status = place.command(&["run", "--restart", "never", "--", "true"]).envs(variables(9)).output().unwrap().status;
    assert_eq!(status.code(), Some(0));
}
