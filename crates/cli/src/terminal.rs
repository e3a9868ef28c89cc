//! The terminal: its size, keys one by one, and a screen of our own; each given back as it was when its value is dropped.

use std::fmt::Write as _;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::output;
use crate::table::WIDTH;

/// Rows and columns of standard output.
pub(crate) fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((usize::from(size.ws_row), usize::from(size.ws_col)))
}

/// Columns to write in: those of the terminal, else those of a plain one.
pub(crate) fn width() -> usize {
    size().map_or(WIDTH, |(_, columns)| columns)
}

/// Standard input gives each key at once, and shows none. Ctrl-C and its like stay signals.
#[derive(Debug)]
pub(crate) struct KeyMode {
    before: Termios,
}

impl KeyMode {
    /// `None`: standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mode = Self { before };
        mode.again().then_some(mode)
    }

    /// Each key at once, again.
    pub(crate) fn again(&self) -> bool {
        let mut keys = self.before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &keys).is_ok()
    }

    /// Whole lines, shown as they are typed: as it was.
    pub(crate) fn lines(&self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        self.lines();
    }
}

/// Standard input as it was, for when it is to be that again.
#[derive(Debug)]
pub(crate) struct Lines {
    before: Option<Termios>,
}

impl Lines {
    pub(crate) fn keep() -> Self {
        Self { before: tcgetattr(rustix::stdio::stdin()).ok() }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // In the background it is another's, and asking would stop us (SIGTTOU).
        let ours = rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
        if let Some(before) = self.before.as_ref().filter(|_| ours) {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The other screen of the terminal, without a cursor.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    pub(crate) fn enter() -> Self {
        output::say("\u{1b}[?1049h\u{1b}[?25l");
        Self(())
    }

    /// Draws these lines from the top, as many as there is room for, and one of ours below them; false: nobody looks any more.
    #[expect(clippy::unused_self, reason = "there is a screen to draw on only while this lives")]
    pub(crate) fn draw(&self, text: &str, below: &str) -> bool {
        let (rows, columns) = size().unwrap_or((24, WIDTH));
        let all: Vec<&str> = text.lines().collect();
        let room = rows.saturating_sub(2);
        let mut out = "\u{1b}[H".to_owned();
        for line in all.iter().take(room) {
            let _ = write!(out, "{line}\u{1b}[K\r\n");
        }
        out.push_str("\u{1b}[J");
        let hidden = all.len().saturating_sub(room);
        let last = if hidden > 0 { format!("{below}; {hidden} more lines do not fit") } else { below.to_owned() };
        let last: String = last.chars().take(columns.saturating_sub(1)).collect();
        let _ = write!(out, "\u{1b}[{rows};1H\u{1b}[2m{last}\u{1b}[0m");
        output::say(&out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        output::say("\u{1b}[?25h\u{1b}[?1049l");
    }
}
