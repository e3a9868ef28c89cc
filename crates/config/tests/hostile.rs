//! What nobody should write, and somebody will: it is refused in bounded time, and nothing panics.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use stayput_config::{Memory, Report, Request, load_from};
use stayput_model::config::{InstanceConfig, ReportStyle};
use std::time::{Duration, Instant};

/// Far more than any of these takes, far less than anybody waits.
const LONG: Duration = Duration::from_secs(10);

fn request(file: &str, uid: u32) -> Request {
    Request {
        path: Some(file.into()),
        start_dir: "/srv/app".into(),
        profile: None,
        only: Vec::new(),
        environment: Vec::new(),
        uid,
        report: ReportStyle::Plain,
    }
}

fn load(file: &str, content: impl Into<Vec<u8>>) -> Result<InstanceConfig, Report> {
    let files = Memory::default().with(format!("/srv/app/{file}"), content);
    let begin = Instant::now();
    let result = load_from(&request(file, 0), &files);
    let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    assert!(!text.contains(|character: char| character.is_control() && character != '\n' && character != '\t'), "{text:?}");
    result
}

fn refused(content: impl Into<Vec<u8>>) -> String {
    load("stayput.toml", content).unwrap_err().to_string()
}

#[test]
fn ten_megabytes_and_other_bytes() {
    assert!(refused(vec![b'#'; 10 << 20]).contains("more than 1 MiB"));
    assert!(refused(b"[service.web]\ncommand = \"\xff\"".to_vec()).contains("line 2 is not UTF-8"));
    assert!(refused(b"[service.web]\ncommand = \"a\0b\"".to_vec()).contains("error:"));
    assert!(refused("x = ".to_owned() + &"[".repeat(1 << 19)).contains("error:"));
    assert!(refused("x = ".to_owned() + &"{a=".repeat(1 << 18)).contains("error:"));
    assert!(refused("[service.web]\ncommand = \"\u{1b}[2J\u{202e}x\"\n").contains('�'));
    assert!(refused("nonsense\n".repeat(100_000)).contains("the first 50 are shown"));
}

#[test]
fn a_thousand_services_and_a_long_chain() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for number in 0..9_000 {
        writeln!(text, "[service.s{number}]\ncommand = \"a\"\nafter = [\"s{}\"]", number + 1).unwrap();
    }
    text += "[service.s9000]\ncommand = \"a\"\n";
    assert_eq!(load("stayput.toml", text.clone()).unwrap().services.len(), 9001);
    text += "after = [\"s0\"]\n";
    assert!(refused(text).contains("wait for each other"));
}

/// CVE-2022-24765 was this, with another program.
#[test]
fn files_that_others_may_write() {
    let plain = "[service.web]\ncommand = \"a\"\n";
    let files = Memory::default().with("/srv/app/stayput.toml", plain);
    let path = "/srv/app/stayput.toml";
    let ask = |files: &Memory, uid: u32, found: bool| {
        let mut request = request("stayput.toml", uid);
        request.path = request.path.filter(|_| !found);
        load_from(&request, files).map(|_| ()).map_err(|report| report.to_string())
    };
    assert_eq!(ask(&files, 0, false), Ok(()));
    for (path, uid, mode, part) in [
        (path, 1000, 0o644, "the owner is uid 1000"),
        (path, 0, 0o666, "others may write it"),
        ("/srv/app", 1000, 0o755, "of its directory /srv/app the owner is uid 1000"),
        ("/srv", 0, 0o777, "of its directory /srv others may write it"),
    ] {
        let text = ask(&files.clone().owned(path, uid, mode), 0, false).unwrap_err();
        assert!(text.contains(part) && text.contains("root"), "{text}");
    }
    assert_eq!(ask(&files.clone().owned("/srv", 0, 0o1777), 0, false), Ok(()), "a sticky directory of root's");
    assert_eq!(ask(&files.clone().owned(path, 1000, 0o644), 1000, true), Ok(()));
    assert_eq!(ask(&files.clone().owned(path, 1001, 0o644), 1000, false), Ok(()), "it was named");
    assert!(ask(&files.clone().owned(path, 1001, 0o644), 1000, true).unwrap_err().contains("belongs to uid 1001"));
    let none = ask(&Memory::default(), 1000, true).unwrap_err();
    assert!(none.contains("no stayput.toml"), "{none}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = load("stayput.toml", bytes.clone());
        let _ = load("Procfile", bytes);
    }

    /// Nearly right: pieces of real files in any order.
    #[test]
    fn nearly_a_configuration(pieces in prop::collection::vec(prop::sample::select(&[
        "[service.a]\n", "[service.b]\n", "[template.a]\n", "[profile.x.service.a]\n", "extends = \"a\"\n", "extends = \"b\"\n", "command = \"x ${Y}\"\n",
        "after = [\"a\", \"b\"]\n", "port = 80\n", "env = { A = \"${A:-1}\" }\n", "env.B = 1\n", "include = \"stayput.toml\"\n", "ready = \"${X:-accept}\"\n",
        "stop = [{}]\n", "health = { exec = \"$\" }\n", "limits = { core = \"1:0\" }\n", "logs = {}\n", "[dashboard]\n", "listen = []\n", "\"", "[[", "=",
        "user = \"0\"\n", "schedule = \"* * * * *\"\n", "disabled = true\n", "service = 1\n", "[service]\n", "a = {}\n", "\u{feff}", "${",
    ][..]), 0..14)) {
        let _ = load("stayput.toml", pieces.concat());
    }
}
