//! The output of services: whole lines to the console, the last ones kept for failure reports, readiness by a line.
//!
//! A service never waits for us: what arrives is read at once, whatever becomes of it.

use crate::console::Console;
use crate::logs_disk::OnDisk;
use crate::reactor::Message;
use crate::watch::watch;
use regex_lite::Regex;
use rustix::io::Errno;
use stayput_model::config::ReportStyle;
use stayput_model::event::{Event, GenerationId};
use stayput_model::text::printable;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::sync::mpsc::UnboundedSender;

/// Longest line, in bytes; a longer one is cut into pieces.
const LINE_MAX: usize = 64 * 1024;
/// Lines kept per generation.
const RECENT_LINES: usize = 200;
/// Bytes of them kept at most.
const RECENT_BYTES: usize = 128 * 1024;
/// Bytes per read.
const CHUNK: usize = 16 * 1024;

thread_local! {
    /// Where all of them read into: a thousand silent services must not cost a thousand buffers.
    static CHUNKS: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// The last lines of a generation, printable.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    lines: VecDeque<String>,
    bytes: usize,
    /// They are on disk.
    on_disk: Option<OnDisk>,
}

impl Recent {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > RECENT_LINES || self.bytes > RECENT_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len();
        }
    }

    /// Those of a generation whose output goes to disk.
    pub(crate) fn on_disk(place: OnDisk) -> Self {
        Self { on_disk: Some(place), ..Self::default() }
    }

    /// The last `count` lines, oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        if let Some(place) = &self.on_disk {
            return place.last(count);
        }
        self.lines.iter().skip(self.lines.len().saturating_sub(count)).cloned().collect()
    }
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Hands each whole line to `on`, without its end; what is longer than [`LINE_MAX`] in pieces.
    fn push(&mut self, bytes: &[u8], mut on: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            for part in text.chunks(LINE_MAX) {
                if self.partial.len() + part.len() > LINE_MAX {
                    on(&self.partial);
                    self.partial.clear();
                }
                self.partial.extend_from_slice(part);
            }
            if ended {
                on(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
                self.partial.clear();
            }
        }
        // One long line must not keep its memory for ever.
        if self.partial.is_empty() && self.partial.capacity() > CHUNK {
            self.partial = Vec::new();
        }
    }

    /// What is left at the end, without an end of line.
    fn finish(&mut self, mut on: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            on(&self.partial);
            self.partial.clear();
        }
    }
}

/// Where the lines of one generation go.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub(crate) service: String,
    pub(crate) generation: GenerationId,
    pub(crate) style: ReportStyle,
    pub(crate) console: Console,
    pub(crate) recent: Rc<RefCell<Recent>>,
    /// A line that matches means ready.
    pub(crate) ready: Option<Rc<Regex>>,
    pub(crate) to: UnboundedSender<Message>,
}

impl Sink {
    fn line(&mut self, bytes: &[u8], time: &str) {
        let text = String::from_utf8_lossy(bytes);
        let plain = show(&text, false);
        if let Some(pattern) = &self.ready
            && pattern.is_match(&plain)
        {
            let evidence = format!("it printed a line that matches {pattern}");
            // The reactor is gone only when the daemon ends.
            let _ = self.to.send(Message::World(Event::Ready { generation: self.generation, evidence }));
            self.ready = None;
        }
        self.console.line(&console_line(self.style, &self.service, self.generation, &text, time));
        self.recent.borrow_mut().push(plain);
    }
}

/// A line of output as it stands on the console.
pub(crate) fn console_line(style: ReportStyle, service: &str, generation: GenerationId, text: &str, time: &str) -> String {
    match style {
        ReportStyle::Plain => format!("[{time}] [{service}] {}", show(text, false)),
        ReportStyle::Colour => format!("[{time}] [{}] {}", crate::say::coloured(service), show(text, true)),
        ReportStyle::Json => {
            let generation = generation.0;
            serde_json::json!({ "time": time, "service": service, "event": "output", "generation": generation, "line": text }).to_string()
        }
    }
}

/// A line fit for a terminal: tabs stay, colours stay if wanted and end with the line, everything else that a terminal would act upon is
/// written as an escape.
pub fn show(text: &str, colours: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(at) = rest.find(['\t', '\u{1b}']) {
        out.push_str(&printable(&rest[..at]));
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('\t') {
            out.push('\t');
            rest = after;
        } else if let Some(length) = colour(rest) {
            if colours {
                out.push_str(&rest[..length]);
                coloured = true;
            }
            rest = &rest[length..];
        } else {
            out.push_str(&printable("\u{1b}"));
            rest = &rest[1..];
        }
    }
    out.push_str(&printable(rest));
    if coloured {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// Length of the SGR sequence (ECMA-48, `ESC [ … m`) at the beginning.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|character: char| !(character.is_ascii_digit() || matches!(character, ';' | ':')))?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

/// Reads one stream of a generation to its end.
pub(crate) async fn read(stream: OwnedFd, mut sink: Sink) {
    let Ok(stream) = watch(stream, Interest::READABLE) else { return };
    let mut lines = Lines::default();
    loop {
        let Ok(mut ready) = stream.readable().await else { break };
        let chunk =
            CHUNKS.with_borrow_mut(|chunk| rustix::io::read(stream.get_ref(), &mut chunk[..]).map(|length| chunk[..length].to_vec()));
        match chunk {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => {
                let time = stayput_kernel::clock::local_hms();
                lines.push(&bytes, |line| sink.line(line, &time));
                // A service that writes without end must not keep the thread from everybody else.
                tokio::task::yield_now().await;
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            // EIO: nobody has the other side of the pseudo-terminal any more.
            Err(_) => break,
        }
    }
    lines.finish(|line| sink.line(line, &stayput_kernel::clock::local_hms()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| seen.push(line.to_vec()));
        }
        lines.finish(|line| seen.push(line.to_vec()));
        seen
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let whole = cut(&[b"one\r\ntwo\n\nlast"]);
        assert_eq!(whole, [&b"one"[..], b"two", b"", b"last"]);
        let bytes: Vec<&[u8]> = b"one\r\ntwo\n\nlast".chunks(1).collect();
        assert_eq!(cut(&bytes), whole);
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let long = vec![b'x'; 3 * LINE_MAX + 17];
        let pieces = cut(&[&long, b"\n"]);
        assert!(pieces.iter().all(|piece| piece.len() <= LINE_MAX));
        assert_eq!(pieces.concat(), long);
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_else_to_act_upon() {
        let text = "\u{1b}[31mred\u{1b}[2Jx\ty\u{1b}]0;title\u{7}";
        assert_eq!(show(text, true), "\u{1b}[31mred\\x1b[2Jx\ty\\x1b]0;title\\x07\u{1b}[0m");
        assert_eq!(show(text, false), "red\\x1b[2Jx\ty\\x1b]0;title\\x07");
        assert_eq!(show("\u{1b}[", true), "\\x1b[");
        assert_eq!(show("\u{1b}[38;5;1", true), "\\x1b[38;5;1");
    }

    #[test]
    fn the_last_lines_are_kept_within_bounds() {
        let mut recent = Recent::default();
        for n in 0..1000 {
            recent.push(n.to_string());
        }
        assert_eq!(recent.last(2), ["998", "999"]);
        assert_eq!(recent.last(5000).len(), RECENT_LINES);
        for _ in 0..10 {
            recent.push("x".repeat(LINE_MAX));
        }
        assert!(recent.bytes <= RECENT_BYTES);
        assert_eq!(recent.lines.iter().map(String::len).sum::<usize>(), recent.bytes);
    }
}
