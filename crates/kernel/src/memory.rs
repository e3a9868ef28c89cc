//! Memory: reading another process's, and a region shared with the processes cloned from this one.

use rustix::io::Errno;
use std::ptr::NonNull;

/// No architecture that we know has larger pages.
const LARGEST_PAGE: usize = 1 << 16;

/// Reads up to `buffer.len()` bytes at `address` of a process; returns how many could be read before the first unmapped
/// page. Source: [process_vm_readv(2)]; needs ptrace access.
///
/// [process_vm_readv(2)]: https://man7.org/linux/man-pages/man2/process_vm_readv.2.html
///
/// # Errors
/// `EFAULT` if nothing is mapped there, `EPERM` without ptrace access, `ESRCH` if the process is gone.
pub fn read_process(pid: i32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY:
    // * `local` describes `buffer`, which is writable for the whole call;
    // * `remote` is only an address in the other process: the kernel checks it there.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| errno()).or_else(|refused| match refused {
        // Some filters refuse the call and not the file, which the kernel guards by the same rule (ptrace access).
        Errno::PERM | Errno::NOSYS => read_file(pid, address, buffer).map_err(|_| refused),
        other => Err(other),
    })
}

/// The same from `/proc/PID/mem`.
fn read_file(pid: i32, address: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
    use std::os::unix::fs::FileExt as _;
    std::fs::File::open(format!("/proc/{pid}/mem"))?.read_at(buffer, address)
}

/// The error number of the last failed libc call of this thread.
pub(crate) fn errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A region of anonymous memory that this process and its clones see alike (`MAP_SHARED`), zeroed at first, never unmapped: it
/// lives as long as the last of them. Untouched pages cost nothing.
#[derive(Debug, Clone, Copy)]
pub struct SharedRegion {
    start: NonNull<u8>,
    length: usize,
}

impl SharedRegion {
    /// Maps `length` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(length: usize) -> Result<Self, Errno> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a null hint lets the kernel choose a free range, so no existing mapping is touched.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE)?
        };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, length })
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The word at a byte offset that is a multiple of 8.
    ///
    /// # Panics
    /// If the offset is out of range or misaligned: offsets are constants of the caller.
    pub fn word(&self, offset: usize) -> &'static std::sync::atomic::AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.length, "offset {offset} in a region of {}", self.length);
        // SAFETY:
        // * in range and aligned (just checked; the mapping is page-aligned), never unmapped, so `'static` holds;
        // * `AtomicU64` has the layout of `u64` and may be shared between threads and processes.
        unsafe { &*self.start.as_ptr().add(offset).cast() }
    }

    /// Copies bytes in at an offset.
    ///
    /// # Panics
    /// If the range does not fit: callers check lengths of data from outside first.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.length), "write beyond the shared region");
        // SAFETY: in range (just checked). Another process may write there at the same time only if the caller's protocol is
        // broken; the bytes have no invalid values, and no references into the region are ever given out except atomics.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) }
    }

    /// Copies bytes out from an offset.
    ///
    /// # Panics
    /// As [`SharedRegion::write`].
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length), "read beyond the shared region");
        let mut bytes = vec![0; length];
        // SAFETY: as for `write`; `bytes` is a fresh allocation of `length` bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), bytes.as_mut_ptr(), length) }
        bytes
    }

    /// Gives the pages that lie wholly within the range back to the system; they read as zeroes afterwards. Source: [madvise(2)],
    /// `MADV_REMOVE`.
    ///
    /// [madvise(2)]: https://man7.org/linux/man-pages/man2/madvise.2.html
    ///
    /// # Panics
    /// As [`SharedRegion::write`].
    pub fn discard(&self, offset: usize, length: usize) {
        let end = offset.checked_add(length).filter(|end| *end <= self.length).expect("a range within the shared region");
        let (first, last) = (offset.next_multiple_of(LARGEST_PAGE), end / LARGEST_PAGE * LARGEST_PAGE);
        if first < last {
            // SAFETY: in range (just checked), and whole pages of a mapping of our own to which no references are ever given
            // out except atomics, whose zeroing is a store of zero.
            let result = unsafe { libc::madvise(self.start.as_ptr().add(first).cast(), last - first, libc::MADV_REMOVE) };
            // A kernel that cannot do it keeps the pages: memory is all that is lost.
            let _ = result;
        }
    }

    /// Address of an offset, for a system call that fills `length` bytes there.
    pub(crate) fn slot(&self, offset: usize, length: usize) -> *mut libc::c_void {
        assert!(offset.is_multiple_of(8) && offset + length <= self.length, "slot beyond the shared region");
        // SAFETY: in range (just checked).
        unsafe { self.start.as_ptr().add(offset).cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_readable_and_page_zero_is_not() {
        let text = *b"sockaddr";
        let mut buffer = [0; 8];
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(read_process(pid, text.as_ptr() as u64, &mut buffer), Ok(8));
        assert_eq!(buffer, text);
        assert_eq!(read_process(pid, 0, &mut buffer), Err(Errno::FAULT));
    }

    #[test]
    fn region_keeps_what_is_written() {
        let region = SharedRegion::new(8192).expect("mmap");
        region.write(4090, b"across a page");
        assert_eq!(region.read(4090, 13), b"across a page");
        region.word(8).store(7, std::sync::atomic::Ordering::Release);
        assert_eq!(region.read(8, 1), [7]);
    }

    #[test]
    fn what_is_discarded_is_zero_and_what_is_beside_it_stays() {
        let region = SharedRegion::new(4 * LARGEST_PAGE).expect("mmap");
        region.write(0, &vec![7; 4 * LARGEST_PAGE]);
        region.discard(LARGEST_PAGE / 2, 2 * LARGEST_PAGE);
        let bytes = region.read(0, 4 * LARGEST_PAGE);
        let zeroes: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == 0).collect();
        assert_eq!((zeroes.first(), zeroes.last()), (Some(&LARGEST_PAGE), Some(&(2 * LARGEST_PAGE - 1))));
        assert_eq!(zeroes.len(), LARGEST_PAGE);
    }
}
