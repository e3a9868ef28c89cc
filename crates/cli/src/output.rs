//! Writing to the two standard streams. A reader that went away (`| head`) is no error and no panic.

use std::io::{self, IsTerminal, Write};

/// Writes to standard output, at once. False if nobody reads it any more. JSON is allowed to hold characters that a terminal obeys: they are escaped.
pub(crate) fn say(text: &str) -> bool {
    let text = stayput_model::text::inert_json(text);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes to standard error.
pub(crate) fn complain(text: &str) {
    // If that fails there is no place left to say so.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether a person watches standard output.
pub(crate) fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Whether the terminal takes text alone (`TERM=dumb`, as of editors and some consoles).
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}

/// Whether colours are wanted: a person watches, and neither `NO_COLOR` (no-color.org: set and not empty) nor a terminal without
/// them forbids it.
pub(crate) fn is_colourful() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_watched() && !forbidden && !is_dumb()
}
