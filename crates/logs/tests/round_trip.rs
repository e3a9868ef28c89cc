//! What goes into a pipe comes out of a reader: whatever the bytes, however often the writer is replaced, however small the segments, whatever
//! became of the index.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec};
use stayput_logs::{Grep, Item, Line, Query, Reader, ServiceDir, Services, Store, Stream, Track, Turn, Which, Writer, WriterOptions};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

const MS: u64 = 1_000_000;

struct Bench {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    dir: Arc<ServiceDir>,
}

fn bench() -> Bench {
    let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
    let store = Arc::new(Store::create(&directory.path().join("logs")).unwrap());
    let dir = Arc::new(store.service("web", true).unwrap());
    Bench { _directory: directory, store, dir }
}

fn track(generation: u64, stream: Stream) -> Track {
    Track { run: 1, generation, stream }
}

impl Bench {
    fn writer(&self, track: Track, segment: u64) -> Writer {
        Writer::open(Arc::clone(&self.dir), track, WriterOptions { segment, block: false }).unwrap()
    }

    fn read(&self, query: Query) -> Vec<Item> {
        let mut reader = Reader::new(Arc::clone(&self.store), query).unwrap();
        std::iter::from_fn(|| reader.next_item().unwrap()).collect()
    }

    fn lines(&self, query: Query) -> Vec<Line> {
        let line = |item| if let Item::Line(line) = item { line } else { panic!("{item:?}") };
        self.read(query).into_iter().map(line).collect()
    }

    /// The whole of it through one writer.
    fn write(&self, track: Track, pieces: &[(&str, u64)]) {
        let mut writer = self.writer(track, 1 << 20);
        let (reader, mut pipe) = pipe();
        for (text, at) in pieces {
            pipe.write_all(text.as_bytes()).unwrap();
            assert_eq!(writer.turn(&reader, 1 << 20, *at).turn, Turn::Empty);
        }
        close(pipe, &reader);
        let at = pieces.last().map_or(1, |(_, at)| *at);
        assert_eq!(writer.turn(&reader, 1 << 20, at).turn, Turn::Ended);
    }
}

fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    (reader, writer)
}

/// Closes the writing end, and waits until nobody has it: a test beside this one may just be between `fork` and `execve`.
fn close(writing: impl Sized, reading: &impl AsFd) {
    drop(writing);
    let mut ends = [PollFd::new(reading, PollFlags::empty())];
    let within = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ends, Some(&within)), Ok(1), "somebody keeps the writing end");
}

fn text(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| line.text().into_owned()).collect()
}

/// The lines of some bytes, the simple way.
fn simple(bytes: &[u8]) -> Vec<Vec<u8>> {
    let ended = |line: &[u8]| Some(line.strip_suffix(b"\n")?.strip_suffix(b"\r").unwrap_or(&line[..line.len() - 1]).to_vec());
    bytes.split_inclusive(|byte| *byte == b'\n').map(|line| ended(line).unwrap_or_else(|| line.to_vec())).collect()
}

fn bytes_of_lines() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![4 => Just(b'\n'), 1 => Just(b'\r'), 4 => any::<u8>()], 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_comes_back_once(
        pieces in prop::collection::vec((bytes_of_lines(), any::<bool>(), any::<bool>()), 1..12),
        segment in 1_u64..200, budget in 1_u64..100, harm in 0_usize..5, count in 0_usize..12,
    ) {
        let bench = bench();
        let mut writer = bench.writer(track(1, Stream::Stdout), segment);
        let (reader, mut pipe) = pipe();
        let mut all = Vec::new();
        for (number, (piece, replace, leave)) in pieces.iter().enumerate() {
            pipe.write_all(piece).unwrap();
            all.extend_from_slice(piece);
            let now = number as u64 * 2 * MS + 1;
            if *leave {
                // It is killed with bytes left in the pipe.
                writer.turn(&reader, budget, now);
            } else {
                while writer.turn(&reader, budget, now).turn == Turn::More {}
            }
            if *replace {
                writer = bench.writer(track(1, Stream::Stdout), segment);
            }
            writer.close_files();
        }
        close(pipe, &reader);
        while writer.turn(&reader, budget, 1000 * MS).turn == Turn::More {}
        for entry in bench.dir.entries().unwrap() {
            let index = bench.dir.path.join(format!("{}.idx", entry.name.stem()));
            match harm {
                1 => std::fs::remove_file(index).unwrap(),
                2 => std::fs::write(index, [0xfe; 77]).unwrap(),
                3 => std::fs::OpenOptions::new().append(true).open(index).unwrap().write_all(&[3; 7]).unwrap(),
                _ => {}
            }
        }
        let expected = simple(&all);
        let lines = bench.lines(Query::default());
        prop_assert_eq!(lines.iter().map(|line| line.bytes.clone()).collect::<Vec<_>>(), expected.clone());
        for line in &lines {
            prop_assert!(all[usize::try_from(line.position).unwrap()..].starts_with(&line.bytes), "{:?}", line);
        }
        if harm != 2 {
            let last = bench.lines(Query { last: Some(count), ..Query::default() });
            let from = expected.len().saturating_sub(count);
            prop_assert_eq!(last.into_iter().map(|line| line.bytes).collect::<Vec<_>>(), expected[from..].to_vec());
        }
        if harm == 0 {
            let since = count as u64 * MS;
            let some = bench.lines(Query { since: Some(since), ..Query::default() });
            let wanted: Vec<Line> = lines.into_iter().filter(|line| line.at >= since).collect();
            prop_assert_eq!(some, wanted);
        }
    }
}

#[test]
fn a_clock_that_was_set_back_hides_no_line() {
    let bench = bench();
    let (at, second) = (1_795_435_200_000 * MS, 1000 * MS);
    // Half an hour on, then an hour back, then on; and the last line of one segment is the end of a line of the one before.
    let half = 1800 * second;
    let pieces = [
        ("one\n", at),
        ("two\n", at + half),
        ("thr", at + half),
        ("ee\nfour\n", at - half),
        ("five\n", at + half + 9 * second),
        ("six\n", at - half),
    ];
    bench.write(track(1, Stream::Stdout), &pieces);
    let all = ["one", "two", "three", "four", "five", "six"];
    assert_eq!(text(&bench.lines(Query::default())), all, "in the order in which they were written");
    let between = |since, until| text(&bench.lines(Query { since, until, ..Query::default() }));
    assert_eq!(between(Some(at), None), ["one", "two", "three", "five"]);
    assert_eq!(between(Some(at + second), None), ["two", "three", "five"]);
    assert_eq!(between(Some(at + half + second), None), ["five"]);
    assert_eq!(between(None, Some(at - second)), ["four", "six"]);
    assert_eq!(between(None, Some(at)), ["one", "four", "six"]);
    assert_eq!(between(Some(at - second), Some(at + second)), ["one"]);
}

#[test]
fn streams_and_generations_are_merged_by_time() {
    let bench = bench();
    bench.write(track(1, Stream::Stdout), &[("a\n", 10 * MS), ("d\n", 40 * MS)]);
    bench.write(track(1, Stream::Stderr), &[("b\n", 20 * MS), ("e\n", 50 * MS)]);
    bench.write(track(2, Stream::Stdout), &[("c\n", 30 * MS), ("f\nwithout end", 60 * MS)]);
    assert_eq!(text(&bench.lines(Query::default())), ["a", "b", "c", "d", "e", "f", "without end"]);
    assert_eq!(text(&bench.lines(Query { last: Some(3), ..Query::default() })), ["e", "f", "without end"]);
    let of = |generation| text(&bench.lines(Query { generation, ..Query::default() }));
    assert_eq!(of(Which::Newest), ["c", "f", "without end"]);
    assert_eq!(of(Which::Previous), ["a", "b", "d", "e"]);
    assert_eq!(of(Which::Number(9)), [""; 0]);
    assert_eq!(text(&bench.lines(Query { stream: Some(Stream::Stderr), ..Query::default() })), ["b", "e"]);
    let between = Query { since: Some(20 * MS), until: Some(40 * MS), ..Query::default() };
    assert_eq!(text(&bench.lines(between)), ["b", "c", "d"]);
    let grep = Query { grep: Some(Grep::new("^[af]$").unwrap()), last: Some(1), ..Query::default() };
    assert_eq!(text(&bench.lines(grep)), ["f"]);
    assert_eq!(text(&bench.lines(Query { services: Services::one("api"), ..Query::default() })), [""; 0]);
}

#[test]
fn a_line_of_any_length_comes_in_bounded_pieces() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 100_000);
    let (reader, mut pipe) = pipe();
    let piece = vec![b'x'; 40_000];
    for _ in 0..30 {
        pipe.write_all(&piece).unwrap();
        writer.turn(&reader, 1 << 20, MS);
    }
    pipe.write_all(b"\nshort\n").unwrap();
    close(pipe, &reader);
    writer.turn(&reader, 1 << 20, MS);
    let lines = bench.lines(Query::default());
    assert!(lines.iter().all(|line| line.bytes.len() <= stayput_logs::LINE_MAX));
    let (short, long) = lines.split_last().unwrap();
    assert_eq!(short.text(), "short");
    assert_eq!(long.iter().map(|line| line.bytes.len()).sum::<usize>(), 1_200_000);
    let (last, cut) = long.split_last().unwrap();
    assert!(cut.iter().all(|line| line.cut) && !last.cut);
}

#[test]
fn a_stream_that_says_nothing_makes_no_file() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 100);
    let (reader, pipe) = pipe();
    assert_eq!(writer.turn(&reader, 100, MS).turn, Turn::Empty);
    close(pipe, &reader);
    assert_eq!(writer.turn(&reader, 100, MS).turn, Turn::Ended);
    assert_eq!(std::fs::read_dir(&bench.dir.path).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_spliced_is_copied() {
    let bench = bench();
    let (master, slave) = {
        use rustix::pty::OpenptFlags;
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        (master, std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap())
    };
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    let mut writer = bench.writer(track(1, Stream::Stdout), 100);
    (&slave).write_all(b"a prompt: ").unwrap();
    assert_eq!(writer.turn(&master, 100, MS).turn, Turn::Empty);
    close(slave, &master);
    assert_eq!(writer.turn(&master, 100, MS).turn, Turn::Ended);
    assert_eq!(text(&bench.lines(Query::default())), ["a prompt: "]);
}

#[test]
fn a_follower_gets_what_comes_across_segments_and_generations() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 8);
    let (reader, mut pipe) = pipe();
    let mut follower = Reader::new(Arc::clone(&bench.store), Query { follow: true, ..Query::default() }).unwrap();
    let mut seen = Vec::new();
    let mut look = |follower: &mut Reader| {
        follower.refresh_all().unwrap();
        while let Some(Item::Line(line)) = follower.next_item().unwrap() {
            seen.push(line.text().into_owned());
        }
        seen.clone()
    };
    assert_eq!(look(&mut follower), [""; 0]);
    pipe.write_all(b"one\ntwo\nthree\nhal").unwrap();
    writer.turn(&reader, 100, MS);
    assert_eq!(look(&mut follower), ["one", "two", "three"]);
    pipe.write_all(b"f\n").unwrap();
    writer.turn(&reader, 100, MS);
    bench.write(track(2, Stream::Stdout), &[("new\n", 3 * MS)]);
    assert_eq!(look(&mut follower), ["one", "two", "three", "half", "new"]);
    pipe.write_all(b"rest").unwrap();
    close(pipe, &reader);
    writer.turn(&reader, 100, 4 * MS);
    assert_eq!(look(&mut follower).last().unwrap(), "rest", "the stream is over, so this is all of the line");
}

#[test]
fn segments_that_were_deleted_before_they_were_read_are_a_gap_with_its_bytes() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 8);
    let (reader, mut pipe) = pipe();
    pipe.write_all(b"aaa\nbbb\n").unwrap();
    writer.turn(&reader, 100, MS);
    let mut follower = Reader::new(Arc::clone(&bench.store), Query { follow: true, ..Query::default() }).unwrap();
    assert!(matches!(follower.next_item().unwrap(), Some(Item::Line(_))));
    assert!(matches!(follower.next_item().unwrap(), Some(Item::Line(_))));
    assert_eq!(follower.next_item().unwrap(), None);
    for _ in 0..3 {
        pipe.write_all(b"ccc\nddd\n").unwrap();
        writer.turn(&reader, 100, MS);
    }
    let entries = bench.dir.entries().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.base).collect::<Vec<_>>(), [0, 8, 16, 24]);
    for entry in &entries[1..3] {
        std::fs::remove_file(bench.dir.path.join(format!("{}.log", entry.name.stem()))).unwrap();
    }
    follower.refresh_all().unwrap();
    let Some(Item::Gap(gap)) = follower.next_item().unwrap() else { panic!("no gap") };
    assert_eq!((gap.bytes, gap.cause), (16, stayput_logs::GapCause::Deleted));
    let Some(Item::Line(line)) = follower.next_item().unwrap() else { panic!("no line") };
    assert_eq!((&*line.text(), line.position), ("ccc", 24));
}

/// A limit on the size of files is the full disk that everybody can have: a write beyond it fails (EFBIG) until it is lifted.
/// In a process of its own, because the limit is the process's.
#[test]
fn a_disk_that_is_full_stops_nobody_and_what_is_missing_is_counted() {
    let bench = bench();
    // A tmpfs of 64 KiB in a mount namespace of its own, where that is permitted.
    let script = r#"mount -t tmpfs -o size=64k,mode=700 none "$0" && exec "$@""#;
    let inside = bench.dir.path.join("../../small");
    std::fs::create_dir(&inside).unwrap();
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(&inside)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside_of_a_small_disk", "--ignored", "--nocapture"])
        .env("STAYPUT_TEST_SMALL", &inside)
        .status()
        .unwrap();
    assert!(status.success(), "{status}; without the right to make a user and mount namespace this cannot be tested");
}

#[test]
#[ignore = "started by a_disk_that_is_full_stops_nobody_and_what_is_missing_is_counted"]
fn inside_of_a_small_disk() {
    let place = std::path::PathBuf::from(std::env::var_os("STAYPUT_TEST_SMALL").expect("started by hand"));
    let filler = place.join("filler");
    let store = Arc::new(Store::create(&place.join("logs")).unwrap());
    let dir = Arc::new(store.service("web", true).unwrap());
    let bench = Bench { _directory: tempfile::tempdir().unwrap(), store, dir };
    let mut writer = bench.writer(track(1, Stream::Stdout), 1 << 20);
    let (reader, mut pipe) = pipe();
    pipe.write_all(b"before\n").unwrap();
    assert_eq!(writer.turn(&reader, 1 << 20, MS).turn, Turn::Empty);
    // The rest of the disk, and what is left of the last page of the segment.
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[b'f'; 512]).is_ok() {}
    pipe.write_all(&vec![b'x'; 30_000]).unwrap();
    let moved = writer.turn(&reader, 1 << 20, 10 * MS);
    assert_eq!((moved.turn, moved.written + moved.dropped), (Turn::Empty, 30_000), "the pipe is empty whatever becomes of its bytes");
    assert!(moved.dropped > 20_000 && moved.trouble.is_some(), "{moved:?}");

    // Killed now: the count is on the disk, and goes on.
    let mut writer = bench.writer(track(1, Stream::Stdout), 1 << 20);
    pipe.write_all(&[b'y'; 1000]).unwrap();
    let more = writer.turn(&reader, 1 << 20, 20 * MS);
    assert_eq!((more.turn, more.dropped), (Turn::Empty, 1000));

    // One that may not lose anything waits instead.
    writer.set_options(WriterOptions { segment: 1 << 20, block: true });
    pipe.write_all(b"kept\n").unwrap();
    let blocked = writer.turn(&reader, 1 << 20, 500 * MS);
    assert_eq!((blocked.turn, blocked.dropped), (Turn::Blocked, 0));

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let after = writer.turn(&reader, 1 << 20, 1000 * MS);
    let missing = moved.dropped + 1000;
    assert_eq!((after.turn, after.written, after.recovered), (Turn::Empty, 5, Some(missing)));
    close(pipe, &reader);
    writer.turn(&reader, 1 << 20, 1001 * MS);

    let items = bench.read(Query::default());
    let gaps: Vec<u64> = items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap.bytes) } else { None }).collect();
    assert_eq!(gaps, [missing]);
    let lines: Vec<&Line> = items.iter().filter_map(|item| if let Item::Line(line) = item { Some(line) } else { None }).collect();
    assert_eq!((&*lines[0].text(), &*lines.last().unwrap().text()), ("before", "kept"));
    assert_eq!(lines.last().unwrap().at, 1000 * MS);
}

#[test]
fn limits_delete_the_oldest_and_never_what_is_written() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 1000);
    let (reader, mut pipe) = pipe();
    for _ in 0..20 {
        pipe.write_all(&[b'z'; 1000]).unwrap();
        writer.turn(&reader, 1 << 20, MS);
    }
    let open = writer.current().into_iter().collect();
    let now = stayput_logs::pump::now();
    let limits = |max_size, max_age| stayput_logs::Limits { max_size, max_age };
    stayput_logs::retain::apply(&bench.dir, limits(5200, None), &open, now).unwrap();
    let bases: Vec<u64> = bench.dir.entries().unwrap().iter().map(|entry| entry.name.base).collect();
    assert_eq!(bases, [15_000, 16_000, 17_000, 18_000, 19_000]);
    stayput_logs::retain::apply(&bench.dir, limits(0, None), &open, now).unwrap();
    assert_eq!(bench.dir.entries().unwrap().len(), 1, "what is written stays");
    let second = std::time::Duration::from_secs(1);
    stayput_logs::retain::apply(&bench.dir, limits(1 << 30, Some(second)), &std::collections::BTreeSet::default(), now + 3_000_000_000)
        .unwrap();
    assert_eq!(bench.dir.entries().unwrap().len(), 0, "too old");
    assert_eq!(std::fs::read_dir(&bench.dir.path).unwrap().count(), 0, "its index went with it");
}

#[test]
fn compressed_segments_are_read_like_others() {
    let bench = bench();
    let mut writer = bench.writer(track(1, Stream::Stdout), 20_000);
    let (reader, mut pipe) = pipe();
    let mut expected = Vec::new();
    for number in 0_u64..6000 {
        let line = format!("line {number}");
        pipe.write_all(format!("{line}\n").as_bytes()).unwrap();
        expected.push(line);
        writer.turn(&reader, 1 << 20, number * MS);
    }
    // As a crash in the middle would have left it.
    let current = writer.current().unwrap();
    std::fs::write(bench.dir.path.join(format!("{}.log.gz.new", bench.dir.entries().unwrap()[0].name.stem())), "half").unwrap();
    let now = stayput_logs::pump::now() + 1_000_000_000;
    let (packed, more) = stayput_logs::retain::compress(&bench.dir, |name| name == current, std::time::Duration::ZERO, now).unwrap();
    assert!(packed == 2 && !more, "{packed} were compressed");
    assert!(!bench.dir.entries().unwrap().iter().all(|entry| entry.packed), "what is written stays raw");
    assert_eq!(text(&bench.lines(Query::default())), expected);
    assert_eq!(text(&bench.lines(Query { last: Some(5990), ..Query::default() })), expected[10..]);
    let some = bench.lines(Query { since: Some(500 * MS), until: Some(600 * MS), ..Query::default() });
    assert_eq!(text(&some), expected[500..=600]);

    // A writer that comes when all is compressed goes on behind it.
    drop(writer);
    stayput_logs::retain::compress(&bench.dir, |_| false, std::time::Duration::ZERO, now).unwrap();
    let mut writer = bench.writer(track(1, Stream::Stdout), 20_000);
    pipe.write_all(b"after\n").unwrap();
    writer.turn(&reader, 1 << 20, 9_000_000 * MS);
    expected.push("after".to_owned());
    assert_eq!(text(&bench.lines(Query::default())), expected);
    for damaged in bench.dir.entries().unwrap().iter().filter(|entry| entry.packed).take(1) {
        std::fs::write(bench.dir.path.join(format!("{}.log.gz", damaged.name.stem())), "no gzip").unwrap();
    }
    let mut reader = Reader::new(Arc::clone(&bench.store), Query::default()).unwrap();
    assert!(reader.next_item().is_err(), "damage is told");
    let rest: Vec<Item> = std::iter::from_fn(|| reader.next_item().unwrap()).collect();
    assert!(matches!(&rest[0], Item::Gap(gap) if gap.cause == stayput_logs::GapCause::Unreadable && gap.bytes > 19_000), "{:?}", rest[0]);
    assert!(matches!(rest.last(), Some(Item::Line(line)) if line.text() == "after"));
}
