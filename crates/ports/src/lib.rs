//! The truth about a port: who has it, and what a bind would say.
//!
//! ```
//! use stayput_ports::{Options, Outcome, inspect};
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let port = listener.local_addr()?.port();
//! let reports = inspect(&[port], &Options::default(), |_early_sentence| {})?;
//! assert_eq!(reports[0].outcome(), Outcome::Taken);
//! assert_eq!(reports[0].holders[0].process.pid, std::process::id() as i32);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three layers, of which the middle one is pure:
//!
//! 1. **Facts** ([`facts`], [`collect`], [`scan`]): sockets from sock_diag, owners from /proc, options through pidfd_getfd.
//!    Each is known, absent, or unreadable for a reason.
//! 2. **Verdict** ([`bind`], [`verdict`]): the kernel's bind rule over all sockets, confirmed by a probe where that is harmless.
//! 3. **Words** ([`explain`]): a sentence, notes, commands to copy.
//!
//! All statements hold for the network namespace of the caller and for the moment of the look.

pub mod bind;
pub mod cgroup;
pub mod collect;
mod elsewhere;
pub mod explain;
pub mod facts;
pub mod free;
mod keepers;
pub mod listing;
mod owners;
pub mod process;
pub mod report;
pub mod scan;
pub mod spec;
pub mod verdict;
pub mod wait;

pub use collect::inspect;
pub use report::{Error, Options, Report};
pub use verdict::Outcome;
