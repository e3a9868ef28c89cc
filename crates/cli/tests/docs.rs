//! The documentation is true: its reference is what the program says, its links lead somewhere, its commands do what the pages say.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::pages::{self, Mark};
use stayput_testkit::reference;

const STAYPUT: &str = env!("CARGO_BIN_EXE_stayput");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every page that people read, by its path in the repository.
fn all_pages() -> BTreeMap<PathBuf, String> {
    let beside = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from);
    let docs = pages::below(&root().join("docs")).unwrap().into_iter().map(|page| Path::new("docs").join(page));
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(root().join(path)).unwrap());
    beside.into_iter().chain(docs).map(read).collect()
}

/// Those with blocks that must be marked: the readme and the book. What is made by a program has marks of its own or none.
fn marked_pages() -> impl Iterator<Item = (PathBuf, String)> {
    all_pages().into_iter().filter(|(path, _)| {
        path == Path::new("README.md") || path.starts_with("docs") && !path.starts_with("docs/bench") && !path.ends_with("BENCHMARKS.md")
    })
}

#[test]
fn the_reference_is_what_the_program_says() {
    for (path, page) in reference::pages(Path::new(STAYPUT)).unwrap() {
        let written = std::fs::read_to_string(root().join("docs").join(path)).unwrap_or_default();
        assert!(written == page, "docs/{path} is not what the program says now: run `cargo xtask docs`");
    }
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let pages = all_pages();
    let mut wrong = Vec::new();
    for (path, text) in &pages {
        for (line, target, fragment) in pages::links(text) {
            let to = if target.is_empty() { root().join(path) } else { root().join(path).parent().unwrap().join(&target) };
            let Ok(to) = to.canonicalize() else {
                wrong.push(format!("{}:{line}: {target} is not there", path.display()));
                continue;
            };
            let page = to.strip_prefix(root()).ok().and_then(|to| pages.get(to));
            if !fragment.is_empty() && !page.is_some_and(|page| pages::anchors(page).contains(&fragment)) {
                wrong.push(format!("{}:{line}: {target} has no heading #{fragment}", path.display()));
            }
            // The book has what is below docs/ alone.
            if path.starts_with("docs") && !to.starts_with(root().join("docs")) {
                wrong.push(format!("{}:{line}: {target} is outside of docs/, where the book has no page", path.display()));
            }
        }
    }
    let summary = PathBuf::from("docs/SUMMARY.md");
    let listed: Vec<PathBuf> = pages::links(&pages[&summary]).into_iter().map(|(_, target, _)| Path::new("docs").join(target)).collect();
    let (once, in_book): (BTreeSet<_>, BTreeSet<_>) =
        (listed.iter().collect(), pages.keys().filter(|path| path.starts_with("docs") && **path != summary).collect());
    assert_eq!(listed.len(), once.len(), "a page is in the summary twice");
    wrong.extend(in_book.symmetric_difference(&once).map(|page| format!("{} is not both a page and in docs/SUMMARY.md", page.display())));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    let wrong: Vec<String> =
        marked_pages().filter_map(|(path, text)| pages::blocks(&text).err().map(|why| format!("{}: {why}", path.display()))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Also in blocks that cannot be run here, and in the middle of a sentence.
#[test]
fn every_command_and_option_that_is_named_exists() {
    let names = reference::names(Path::new(STAYPUT)).unwrap();
    let help: BTreeMap<&str, String> =
        names.iter().map(|name| (name.as_str(), reference::help(Path::new(STAYPUT), &[name]).unwrap())).collect();
    let mut wrong = Vec::new();
    for (path, text) in marked_pages().chain(all_pages().into_iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md"))) {
        for (line, words) in pages::mentions(&text) {
            let Some(first) = words.first().filter(|first| first.chars().all(|c| c.is_ascii_lowercase())) else { continue };
            let Some(help) = help.get(first.as_str()) else {
                if first != "help" {
                    wrong.push(format!("{}:{line}: there is no command `stayput {first}`", path.display()));
                }
                continue;
            };
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.split(['=', '|', ']', ',']).next().unwrap();
                let stands = |c: &str| c == option;
                if !help.split([' ', ',', '\n', '=']).any(stands) {
                    wrong.push(format!("{}:{line}: stayput {first} has no option {option}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All pages at once: most of each is waiting.
#[test]
fn every_command_of_the_pages_does_what_they_say() {
    let played = |text: &str| {
        let env = TestEnv::new(STAYPUT, User::Ordinary);
        let result = pages::play(text, &env);
        if result.is_err() {
            env.kill_left();
        }
        result
    };
    let has_commands =
        |text: &str| pages::blocks(text).is_ok_and(|blocks| blocks.iter().any(|block| matches!(block.mark, Mark::Run(_) | Mark::Serve(_))));
    let pages: Vec<_> = marked_pages().filter(|(_, text)| has_commands(text)).collect();
    assert!(pages.len() > 10, "only {} pages have commands", pages.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = pages.iter().map(|(path, text)| (path, scope.spawn(move || played(text)))).collect();
        all.into_iter().map(|(path, page)| (path, page.join().unwrap_or_else(|_| Err("the runner panicked".to_owned())))).collect()
    });
    let mut wrong = Vec::new();
    for (path, result) in results {
        match result {
            Ok(count) => println!("{}: {count} blocks were run", path.display()),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The runner itself: what is wrong fails, whatever way it is wrong.
#[test]
fn a_page_that_is_wrong_fails() {
    let play = |text: &str| {
        let env = TestEnv::new(STAYPUT, User::Ordinary);
        let result = pages::play(text, &env);
        env.kill_left();
        result
    };
    assert_eq!(
        play("```text file=a.txt\nhello\n```\n```sh run\ncat a.txt; stayput --version\n```\n```text output\nhello\nstayput …\n```\n"),
        Ok(1)
    );
    assert_eq!(play("```sh run exit=2\nstayput why nonsense\n```\n"), Ok(1));
    for (page, part) in [
        ("```sh run\nfalse\ntrue\n```\n", "exit status 0"),
        ("```sh run exit=1\ntrue\n```\n", "exit status 1"),
        ("```sh run\necho one\n```\n```text output\ntwo\n```\n", "not in the output"),
        ("```sh run\nno-such-program | cat\n```\n", "exit status 0"),
        ("```sh run\nsleep 600 >&- 2>&- &\n```\n", "sleep 600"),
        ("```sh\ntrue\n```\n", "norun"),
    ] {
        let why = play(page).unwrap_err();
        assert!(why.contains(part), "{page}: {why}");
    }
}
