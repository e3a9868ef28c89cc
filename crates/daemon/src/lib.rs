//! The brain of stayput: readiness, handover, drain, logs and control.
//!
//! [`run`] is the whole of it. One thread turns what happens into events for the [`stayput_model::World`] and what the world wants
//! into requests to the keeper and small tasks. It holds no socket of a service and may die at any moment: the keeper starts
//! it again with all that it needs.

mod commands;
mod connections;
mod console;
mod control;
mod drain;
mod events;
mod evidence;
mod files;
mod health;
mod history;
mod left;
mod link;
mod logs;
mod logs_answer;
mod logs_disk;
mod logs_show;
mod manager;
mod metrics;
mod notify;
mod own;
mod perform;
mod processes;
mod reactor;
mod readiness;
mod say;
mod schedule;
mod status;
mod tally;
mod translate;
mod usage;
mod watch;

pub use logs::show as show_line;
pub use logs_answer::of_item as log_answer;
pub use own::add_dashboard;
pub use say::coloured;

/// The hidden command of this binary that runs the copies of a service, as `stayput REPLICAS [--stop N]… [--restart WHEN] COUNT -- COMMAND…`.
pub const REPLICAS: &str = "__replicas";

use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTSTP: they reach a whole terminal at once, and the keeper tells us of those that are meant for us.
/// SIGXFSZ: a limit on the size of files is an error of the write, and no reason to die.
const IGNORED: [i32; 6] = [1, 2, 3, 13, 20, 25];

/// Threads for what may not come back (a file on a disk that does not answer). They end when they have had nothing to do for some seconds.
const BLOCKED: usize = 4;

/// Runs until the keeper hangs up or the instance ends. `channel` is our end of the keeper's socket, `control` the listening
/// control socket.
pub fn run(channel: OwnedFd, control: OwnedFd) -> ExitCode {
    stayput_kernel::process::ignore(&IGNORED);
    let console = console::Console::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(BLOCKED).build();
    let result = match runtime {
        Ok(runtime) => {
            let result = tokio::task::LocalSet::new().block_on(&runtime, reactor::run(channel, control, &console));
            // A thread that waits for a disk must not keep the process.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(reactor::Failure::Setup("epoll_create1", error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.line(&format!("[{}] ! stayput's daemon ends: {failure}", stayput_kernel::clock::local_hms()));
            console.flush(std::time::Duration::from_secs(1));
            ExitCode::from(111)
        }
    }
}
