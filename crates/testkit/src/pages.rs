//! The pages of the documentation, as programs: which blocks of a page are commands, and what is to come of them. It refuses a block of commands that
//! says neither that it is run nor why it is not. [`play`] runs a page.
//!
//! The mark stands behind the language of a fence, where neither GitHub nor mdBook shows it:
//!
//! | Fence | Means |
//! |---|---|
//! | ```` ```sh run ```` | runs to its end, with exit status 0; `run exit=1`: with that one |
//! | ```` ```sh serve=8000 ```` | runs in a terminal of its own, until somebody accepts on port 8000; Ctrl-C ends it after the page's last block |
//! | ```` ```toml file=stayput.toml ```` | a file in the directory where the page's commands run |
//! | ```` ```text output ```` | these lines, in this order, are in the output of the block before; `…` stands for anything |
//! | ```` ```sh norun: why ```` | is not run, for this reason |

mod play;

pub use play::play;

use std::path::{Path, PathBuf};

/// What is done with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// It runs to its end, with this exit status.
    Run(i32),
    /// It runs until the page is over; on this port somebody accepts soon.
    Serve(u16),
    /// It is the content of a file of this name.
    File(String),
    /// It is a part of what the block before wrote.
    Output,
    /// It is not run, for this reason.
    NotRun(String),
}

/// A fenced block with a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Line of its fence, from 1.
    pub line: usize,
    /// What is done with it.
    pub mark: Mark,
    /// What stands in it.
    pub text: String,
}

/// Languages in which a block must have a mark: what somebody types, and what `stayput` reads.
const MARKED: [&str; 5] = ["sh", "bash", "shell", "console", "toml"];

/// A fenced block as it stands: line, info string, content.
fn fences(text: &str) -> Vec<(usize, &str, String)> {
    let (mut all, mut open) = (Vec::new(), None::<(usize, &str, &str, String)>);
    for (number, line) in (1..).zip(text.lines()) {
        let bare = line.trim_start();
        match &mut open {
            None if bare.starts_with("```") => {
                let ticks = &bare[..bare.len() - bare.trim_start_matches('`').len()];
                open = Some((number, ticks, bare[ticks.len()..].trim(), String::new()));
            }
            None => {}
            Some((_, ticks, ..)) if bare.trim_end() == *ticks => {
                all.extend(open.take().map(|(line, _, info, content)| (line, info, content)));
            }
            Some((.., content)) => {
                content.push_str(line);
                content.push('\n');
            }
        }
    }
    all
}

/// The marked blocks of a page.
///
/// # Errors
/// A block that needs a mark has none, or one that makes no sense: its line, and what is expected.
pub fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let mut all = Vec::new();
    for (line, info, text) in fences(page) {
        let (language, mark) = info.split_once(' ').map_or((info, ""), |(language, mark)| (language, mark.trim()));
        match read(language, mark) {
            Ok(Some(mark)) => all.push(Block { line, mark, text }),
            Ok(None) => {}
            Err(why) => return Err(format!("line {line}: ```{info}: {why}")),
        }
    }
    Ok(all)
}

fn read(language: &str, mark: &str) -> Result<Option<Mark>, String> {
    let expected = "say what is done with it: `run`, `run exit=N`, `serve=PORT`, `file=NAME`, or `norun: the reason`";
    if let Some(reason) = mark.strip_prefix("norun:") {
        return if reason.trim().len() > 10 { Ok(Some(Mark::NotRun(reason.trim().to_owned()))) } else { Err(expected.to_owned()) };
    }
    let (word, value) = mark.split_once('=').map_or((mark, ""), |(word, value)| (word, value));
    match (word, value) {
        ("", "") if !MARKED.contains(&language) => Ok(None),
        ("run", "") => Ok(Some(Mark::Run(0))),
        ("run exit", status) => status.parse().map(|status| Some(Mark::Run(status))).map_err(|_| expected.to_owned()),
        ("serve", port) => match port.parse() {
            Ok(port) if PORTS.contains(&port) => Ok(Some(Mark::Serve(port))),
            _ => Err(format!("the ports that pages use are {PORTS:?}")),
        },
        ("file", name) if !name.is_empty() && !name.contains(['/', ' ']) => Ok(Some(Mark::File(name.to_owned()))),
        ("output", "") => Ok(Some(Mark::Output)),
        _ => Err(expected.to_owned()),
    }
}

/// Ports that stand in pages. Where a page is played, each becomes one that is free there.
pub const PORTS: [u16; 8] = [3000, 5000, 6379, 8000, 8001, 8080, 8081, 9292];

/// `text` with each number that is one of `from` replaced by its partner. Only whole numbers: the 5000 in 15000 stays.
fn renumbered(text: &str, ports: &[(u16, u16)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        result.push_str(before);
        match ports.iter().find(|(from, _)| number == from.to_string()) {
            Some((_, to)) => result.push_str(&to.to_string()),
            None => result.push_str(number),
        }
        rest = after;
    }
    result + rest
}

/// Whether the lines of `expected` are in `output`, in their order; `…` stands for anything within a line, and empty lines do not count.
///
/// # Errors
/// The first line that is not.
fn shows(output: &str, expected: &str) -> Result<(), String> {
    let mut lines = output.lines();
    for line in expected.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !lines.any(|seen| fits(seen.trim(), line)) {
            return Err(format!("this line is not in the output, or not in its place:\n{line}"));
        }
    }
    Ok(())
}

fn fits(line: &str, pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = &parts[..] else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Every page below a directory, by its path in it, in order.
///
/// # Errors
/// The directory cannot be read.
pub fn below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.extend(path.strip_prefix(dir).map(Path::to_path_buf));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The relative links of a page: line, target without its fragment (empty: the page itself), fragment.
pub fn links(page: &str) -> Vec<(usize, String, String)> {
    let (mut all, mut in_fence) = (Vec::new(), false);
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        // What stands in code is no link.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !in_fence && !is_elsewhere {
                let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
                all.push((number, path.to_owned(), fragment.to_owned()));
            }
        }
    }
    all
}

/// The names under which the headings of a page can be linked to, as GitHub and mdBook make them.
pub fn anchors(page: &str) -> Vec<String> {
    let mut in_fence = false;
    let heading = |line: &str| {
        let line = line.trim_start_matches('#').trim().to_lowercase();
        let keep = line.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        keep.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let lines = page.lines().filter(|line| {
        in_fence ^= line.trim_start().starts_with("```");
        !in_fence && line.starts_with('#')
    });
    lines.map(heading).collect()
}

/// Every mention of `stayput COMMAND …` in a page's code, in blocks and in lines: line, and the words behind `stayput`.
pub fn mentions(page: &str) -> Vec<(usize, Vec<String>)> {
    let (mut all, mut in_fence) = (Vec::new(), false);
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
            continue;
        }
        let code: Vec<&str> = if in_fence { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for code in code {
            let code = code.trim().trim_start_matches("sudo ");
            if let Some(rest) = code.strip_prefix("stayput ") {
                // What stands behind `--` is another program's; behind `#` a remark.
                let words = rest.split_whitespace().take_while(|word| !matches!(*word, "--" | "#" | "|" | "&&" | ";" | "||"));
                all.push((number, words.map(|word| word.trim_matches(['[', ']']).to_owned()).collect()));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_what_is_done_with_them() {
        let page = "# A\n```sh run\ntrue\n```\n```sh run exit=1\nfalse\n```\n```sh serve=8000\nx\n```\n```toml file=stayput.toml\n[a]\n```\n\
                    ```text output\nhello\n```\n```sh norun: it needs root\nx\n```\n```json\n{}\n```\n";
        let marks: Vec<Mark> = blocks(page).unwrap().into_iter().map(|block| block.mark).collect();
        let (file, reason) = (Mark::File("stayput.toml".into()), Mark::NotRun("it needs root".into()));
        assert_eq!(marks, [Mark::Run(0), Mark::Run(1), Mark::Serve(8000), file, Mark::Output, reason]);
        assert_eq!(blocks(page).unwrap()[1].line, 5);
        for (wrong, part) in [("sh", "norun"), ("toml", "file="), ("sh norun: no", "reason"), ("sh serve=1", "3000"), ("sh rum", "`run`")] {
            let why = blocks(&format!("text\n```{wrong}\nx\n```\n")).unwrap_err();
            assert!(why.starts_with("line 2") && why.contains(part), "{wrong}: {why}");
        }
    }

    #[test]
    fn ports_become_others() {
        let text = "curl http://127.0.0.1:8000/ 18000 80001 --port 5000";
        assert_eq!(renumbered(text, &[(8000, 20_111), (5000, 1)]), "curl http://127.0.0.1:20111/ 18000 80001 --port 1");
    }

    #[test]
    fn output_is_compared_line_by_line() {
        let output = "web: started in 12 ms\n\n  port 5000: held by pid 77 python\nend\n";
        for good in ["web: started in … ms\nend", "port 5000: held by pid … python", "…held by…", ""] {
            assert_eq!(shows(output, good), Ok(()), "{good}");
        }
        for bad in ["end\nweb: started in … ms", "web: started", "started in … ms", "…pid 77"] {
            assert!(shows(output, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_anchors_and_mentions() {
        let page = "# What `free` does\n[a](B.md#c-d) `[x](y)` ![p](p.svg) [o](https://x/)\n```sh run\nstayput why 5000 --json # x\n```\n`stayput run -- a --b`\n";
        let expected = [(2, "B.md".to_owned(), "c-d".to_owned()), (2, "p.svg".to_owned(), String::new())];
        assert_eq!(links(page), expected);
        assert_eq!(anchors(page), ["what-free-does"]);
        let said: Vec<String> = mentions(page).into_iter().map(|(_, words)| words.join(" ")).collect();
        assert_eq!(said, ["why 5000 --json", "run"]);
    }
}
