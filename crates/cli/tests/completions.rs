//! What shells and man(1) are told is what the program takes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use stayput_testkit::reference;

const STAYPUT: &str = env!("CARGO_BIN_EXE_stayput");

fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_commands_and_options_and_nothing_that_is_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("stayput.bash");
    std::fs::write(&script, says(STAYPUT, &["completions", "bash"])).unwrap();
    // As bash does it when a person presses Tab after these words.
    let complete = |words: &str| {
        let program = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _stayput stayput \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        says("bash", &["--norc", "-c", &program]).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let names = reference::names(Path::new(STAYPUT)).unwrap();
    let completed = complete("stayput ''");
    assert!(names.iter().all(|name| completed.contains(name)), "{names:?} {completed:?}");
    assert!(!completed.iter().any(|word| word.starts_with("__")), "{completed:?}");
    assert_eq!(complete("stayput relo"), ["reload"]);
    assert_eq!(complete("stayput status --wa"), ["--watch"]);
}

#[test]
fn every_shell_has_its_script() {
    for (shell, part) in [("bash", "complete -F _stayput"), ("zsh", "#compdef stayput"), ("fish", "complete -c stayput")] {
        let script = says(STAYPUT, &["completions", shell]);
        assert!(script.contains(part) && script.contains("restart") && !script.contains("__daemon"), "{shell}: {script}");
    }
    let output = Command::new(STAYPUT).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn there_is_a_man_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    says(STAYPUT, &["man", place]);
    for name in reference::names(Path::new(STAYPUT)).unwrap() {
        let page = std::fs::read_to_string(directory.path().join(format!("stayput-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let whole = std::fs::read_to_string(directory.path().join("stayput.1")).unwrap();
    assert!(whole.contains("Processes restart") && whole.contains("restart") && !whole.contains("__daemon"), "{whole}");
    let output = Command::new(STAYPUT).args(["man", "/no/such/place"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
