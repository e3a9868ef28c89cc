//! Shells offer the names of services and instances that there are.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; what is not tried is said aloud")]

use std::path::{Path, PathBuf};
use std::process::Command;

use stayput_testkit::both_users;
use stayput_testkit::env::{TestEnv, succeeds};

const CONFIG: &str = "name = 'shop'\ndashboard = false\n[service.web]\ncommand = 'sleep 300'\n[service.worker-1]\ncommand = 'sleep 300'\n";

/// What bash offers when a person presses Tab after these words.
fn bash(env: &TestEnv, words: &str) -> Vec<String> {
    let program = format!(
        "source stayput.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); name=$(complete -p stayput | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); \
         $name stayput \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    says(env, env.as_user(Path::new("bash"), ["--norc", "-c", &program]))
}

/// With this very program in front of all others.
fn says(env: &TestEnv, mut command: Command) -> Vec<String> {
    let own = PathBuf::from(env.command::<&str>([]).get_program());
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([own.parent().unwrap().to_owned()].into_iter().chain(std::env::split_paths(&others))).unwrap();
    let output = command.env("PATH", path).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.is_empty(), "{command:?}: {}: {complaints}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

both_users! {
fn bash_offers_services_and_instances(env) {
    env.file("stayput.bash", &succeeds(env, &["completions", "bash"]));
    env.file("stayput.toml", CONFIG);
    // Nothing runs: the configuration is what can be started, and nothing else has names.
    assert_eq!(bash(env, "stayput up ''"), ["web", "worker-1"]);
    assert_eq!(bash(env, "stayput up web wo"), ["worker-1"]);
    assert!(bash(env, "stayput restart w").is_empty());

    let upped = env.up(CONFIG);
    assert_eq!(bash(env, "stayput restart ''"), ["shop", "web", "worker-1"]);
    assert_eq!(bash(env, "stayput restart wo"), ["worker-1"]);
    assert_eq!(bash(env, "stayput restart web ''"), ["worker-1"], "what is typed is not offered again");
    assert_eq!(bash(env, "stayput stop shop w"), ["web", "worker-1"]);
    assert_eq!(bash(env, "stayput signal HUP w"), ["web", "worker-1"]);
    assert_eq!(bash(env, "stayput logs --instance ''"), ["shop"]);
    assert_eq!(bash(env, "stayput down ''"), ["shop"]);
    // Options and commands as ever.
    assert_eq!(bash(env, "stayput restart --par"), ["--parallel"]);
    assert_eq!(bash(env, "stayput relo"), ["reload"]);
    upped.down();
}

fn every_other_shell_asks_the_same(env) {
    let upped = env.up(CONFIG);
    for (shell, part) in [("zsh", "__complete -- \"${(@)_stayput_words[2,-1]}\""), ("fish", "__fish_stayput_using_subcommand restart\" -f -a \"(__stayput_names)\"")] {
        let script = succeeds(env, &["completions", shell]);
        assert!(script.contains(part) && !script.contains("_email_addresses"), "{shell}: {script}");
    }
    let fish = env.file("stayput.fish", &succeeds(env, &["completions", "fish"]));
    match Command::new("fish").arg("--version").output() {
        Ok(_) => {
            let ask = |line: &str| {
                let program = format!("source {}; complete -C '{line}'", fish.display());
                let offered = says(env, env.as_user(Path::new("fish"), ["--no-config", "-c", &program]));
                offered.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(ask("stayput restart w"), ["web", "worker-1"]);
            assert_eq!(ask("stayput logs --instance "), ["shop"]);
        }
        Err(error) => println!("NOT TRIED in fish: it cannot be started here: {error}"),
    }
    upped.down();
}
}
