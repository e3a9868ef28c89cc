//! The same comparison for a terminal, for a page, as a picture and as JSON.

mod markdown;
#[expect(clippy::cast_precision_loss, reason = "milliseconds, columns and characters stay far below 2^52")]
mod strip;
#[expect(clippy::cast_precision_loss, reason = "milliseconds, columns and characters stay far below 2^52")]
mod svg;
#[expect(clippy::cast_precision_loss, reason = "milliseconds, columns and characters stay far below 2^52")]
mod text;

use crate::result::Comparison;

pub use markdown::markdown;
pub use svg::svg;
pub use text::text;

/// As JSON, with a line feed at the end. `docs/COMPARE.md` describes it.
pub fn json(comparison: &Comparison) -> String {
    // Nothing in it can fail to be written: no maps with odd keys, no numbers that are none.
    serde_json::to_string_pretty(comparison).unwrap_or_default() + "\n"
}
