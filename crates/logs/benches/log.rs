//! What a line of output costs on its way: pipe, splice, segment, and back out of a reader. `cargo bench -p stayput-logs --bench log`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use stayput_logs::{Item, Query, Reader, ServiceDir, Services, Store, Stream, Track, Turn, Writer, WriterOptions};

const TRACK: Track = Track { run: 1, generation: 1, stream: Stream::Stdout };
/// 100 bytes with its end.
const LINE: [u8; 100] = {
    let mut line = [b'x'; 100];
    line[99] = b'\n';
    line
};
const MS: u64 = 1_000_000;

fn main() {
    divan::main();
}

struct Place {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    dir: Arc<ServiceDir>,
}

fn place() -> Place {
    let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().expect("a directory");
    let store = Arc::new(Store::create(&directory.path().join("logs")).expect("a store"));
    let dir = Arc::new(store.service("web", true).expect("a service's directory"));
    Place { _directory: directory, store, dir }
}

fn writer(place: &Place) -> Writer {
    // Small segments: what is measured stays within some megabytes of the disk's cache.
    Writer::open(Arc::clone(&place.dir), TRACK, WriterOptions { segment: 16 * 1024 * 1024, block: false }).expect("a writer")
}

fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
    (reader, writer)
}

/// The service writes `lines` lines at once, and they are moved into the segment.
#[divan::bench(args = [1, 40, 640], sample_count = 50, sample_size = 20)]
fn write_and_move(bencher: Bencher<'_, '_>, lines: usize) {
    let place = place();
    let (mut log, (reader, mut pipe), text, mut now) = (writer(&place), pipe(), LINE.repeat(lines), MS);
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        now += MS;
        pipe.write_all(&text).expect("room in the pipe");
        let moved = log.turn(&reader, 1 << 20, now);
        assert!(moved.turn == Turn::Empty && moved.written == text.len() as u64, "{moved:?}");
    });
}

/// Ten thousand lines out of a segment, as `stayput logs` reads them.
#[divan::bench(sample_count = 20)]
fn read_10_000_lines(bencher: Bencher<'_, '_>) {
    let place = place();
    let (mut log, (reader, mut pipe)) = (writer(&place), pipe());
    for turn in 1..=100 {
        pipe.write_all(&LINE.repeat(100)).expect("room in the pipe");
        assert_eq!(log.turn(&reader, 1 << 20, turn * MS).turn, Turn::Empty);
    }
    bencher.counter(ItemsCount::new(10_000_usize)).bench_local(|| {
        let query = Query { services: Services::one("web"), ..Query::default() };
        let mut lines = Reader::new(Arc::clone(&place.store), query).expect("a reader");
        let items = std::iter::from_fn(|| lines.next_item().expect("the segment"));
        assert_eq!(items.filter(|item| matches!(item, Item::Line(_))).count(), 10_000);
    });
}
