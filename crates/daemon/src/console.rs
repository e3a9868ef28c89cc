//! Standard output, written by a thread of its own.
//!
//! A terminal may stop taking bytes (Ctrl-S, a slow pipe) for as long as it likes. Nobody waits for it: lines go into a bounded buffer,
//! and what does not fit is dropped, counted, and said when there is room again. Making the descriptor non-blocking instead
//! is no way: `O_NONBLOCK` sits on the open file, which the shell shares.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait for the terminal at most.
const BUFFER: usize = 1 << 20;
/// The writer needs little more than `write_all`.
const STACK: usize = 128 * 1024;

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    /// The writer holds a line that is not written yet.
    writing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines for people and programs go.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    shared: Arc<Shared>,
}

impl Console {
    /// Starts the writer. If there can be no thread, nothing is written: the services matter more.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("console".to_owned()).stack_size(STACK);
        // A failure here shows as dropped lines and nothing else.
        let _ = thread.spawn(move || write_all(&theirs, std::io::stdout()));
        Self { shared }
    }

    #[cfg(test)]
    pub(crate) fn into_writer(writer: impl std::io::Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || write_all(&theirs, writer));
        Self { shared }
    }

    /// Writes a line, soon; never waits.
    pub(crate) fn line(&self, line: &str) {
        let mut state = self.shared.lock();
        if state.bytes + line.len() > BUFFER {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            let note = format!("! {dropped} lines dropped: standard output did not take them");
            state.bytes += note.len();
            state.lines.push_back(note);
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_owned());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whether it takes lines now without dropping any soon.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.lock().bytes < BUFFER / 2
    }

    /// Waits until all is written, at most so long.
    pub(crate) fn flush(&self, within: Duration) {
        let until = Instant::now() + within;
        let mut state = self.shared.lock();
        while !state.lines.is_empty() || state.writing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.changed.wait_timeout(state, left).map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

fn write_all(shared: &Shared, mut out: impl std::io::Write) {
    let mut batch = Vec::new();
    loop {
        let mut state = shared.lock();
        state.writing = false;
        shared.changed.notify_all();
        while state.lines.is_empty() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        batch.clear();
        while batch.len() < 16 * 1024
            && let Some(line) = state.lines.pop_front()
        {
            state.bytes -= line.len();
            batch.extend_from_slice(line.as_bytes());
            batch.push(b'\n');
        }
        state.writing = true;
        drop(state);
        // The terminal may be gone (EIO, EPIPE): the services go on without it.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Gate {
        open: mpsc::Receiver<()>,
        out: mpsc::Sender<Vec<u8>>,
        opened: bool,
    }

    impl std::io::Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !self.opened {
                self.open.recv().map_err(std::io::Error::other)?;
                self.opened = true;
            }
            self.out.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_that_takes_nothing_stops_nobody_and_what_was_dropped_is_counted() {
        let (open, gate) = mpsc::channel();
        let (out, written) = mpsc::channel();
        let console = Console::into_writer(Gate { open: gate, out, opened: false });
        let line = "x".repeat(1023);
        for _ in 0..2048 {
            console.line(&line);
        }
        open.send(()).unwrap();
        console.flush(Duration::from_secs(10));
        console.line("last");
        console.flush(Duration::from_secs(10));
        let all: Vec<u8> = written.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        let kept = text.lines().filter(|l| **l == line).count();
        let note = text.lines().find(|l| l.starts_with("! ")).unwrap();
        let dropped: usize = note.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(kept + dropped, 2048, "{note}");
        assert!(dropped > 900, "{note}");
        assert!(text.ends_with("last\n"));
    }
}
