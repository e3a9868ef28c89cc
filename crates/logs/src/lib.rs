//! The output of services on disk: written without a copy through our memory, read by whoever wants, as slowly as they like.
//!
//! ```text
//! <logs>/                                    0700, ours
//! ├─ run                                     when the present run of the instance began (unix ns)
//! └─ web/                                    0700, ours; the service
//!    ├─ 1795425930123456789-3-0-out.log      bytes exactly as generation 3 wrote them, from byte 0 of its standard output
//!    ├─ 1795425930123456789-3-0-out.idx      times at offsets ([`index`])
//!    ├─ 1795425930123456789-3-8388608-out.log.gz   a closed segment, compressed
//!    └─ …
//! ```
//! The name of a segment says which run of the instance, which generation, from which byte of the stream, which stream ([`name`]).
//!
//! **The size of a file is the truth.** A [`Writer`] moves bytes from a pipe into a segment with `splice(2)`, which takes from the pipe
//! exactly what it has put into the file, also if the process is killed meanwhile. A time goes into the index before the bytes that
//! it is the time of, and nothing else is written down; so the writer that comes next goes on at the end of the file, and no
//! line is lost or doubled. Not covered: the loss of power (nothing is synced), and pseudo-terminals, which cannot be spliced.
//!
//! **Nobody waits for a reader.** Readers ([`Reader`]) open the files. One that is so slow that a segment is deleted before it comes
//! to it is told how many bytes it missed. A [`Bell`] wakes those who follow.
//!
//! **A full disk stops no service**, unless it is wanted: what cannot be written is taken from the pipe and counted, the count stands
//! in the index, and readers are told.

pub mod base64;
pub mod bell;
pub mod directory;
pub mod index;
pub mod line;
pub mod name;
pub mod pump;
pub mod query;
pub mod reader;
pub mod retain;
pub mod segment;
pub mod track;
pub mod writer;

pub use bell::{Bell, News, Waker};
pub use directory::{DirectoryError, ServiceDir, Store};
pub use line::{Gap, GapCause, Item, LINE_MAX, Line};
pub use name::{SegmentName, Stream, Track};
pub use pump::{Counters, Policy, Pump, PumpEvent};
pub use query::{Chosen, Grep, Query, Services, Which};
pub use reader::Reader;
pub use retain::Limits;
pub use writer::{Moved, Turn, Writer, WriterOptions};
