//! Ports for tests: free now, below the range from which the kernel takes source ports, and nobody else's test has the same one.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports that tests use: below ip_local_port_range (32768 by default), or a client's source port could take one away between two lines of a test.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that this test has for itself as long as the value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// # Panics
    /// When no port in the whole range is free.
    #[must_use]
    pub fn free() -> Self {
        // Each process starts elsewhere, so that they seldom meet; the lock decides when they do.
        let start = (std::process::id() as u16).wrapping_mul(31);
        let dir = std::env::temp_dir().join(format!("stayput-testkit-ports-{}", rustix::process::geteuid().as_raw()));
        std::fs::create_dir_all(&dir).expect("a directory for the locks of ports");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + start.wrapping_add(step) % COUNT;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(number.to_string()));
            let Ok(lock) = lock else { continue };
            if lock.try_lock().is_ok() && is_free(number) {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Nobody listens on it, on any address; without SO_REUSEADDR's mercy for TIME_WAIT this would also refuse ports that work.
fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_differ_and_can_be_bound() {
        let (one, two) = (Port::free(), Port::free());
        assert_ne!(one.number(), two.number());
        TcpListener::bind(("127.0.0.1", one.number())).unwrap();
    }
}
