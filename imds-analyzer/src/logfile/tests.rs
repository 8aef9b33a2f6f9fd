use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("a buffer takes all");
    encoder.finish().expect("a buffer takes all")
}

fn all_lines<R: BufRead>(mut lines: Lines<R>) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(line) = lines.next_line().expect("it can be read") {
        let text = std::str::from_utf8(line).expect("UTF-8");
        all.push(text.trim_end_matches('\n').to_owned());
    }
    all
}

fn read_all(files: impl IntoIterator<Item = LogFile>) -> Vec<String> {
    let lines = files.into_iter().map(|file| file.lines().expect("it can be opened"));
    lines.flat_map(all_lines).collect()
}

#[test]
fn names_tell_number_and_form() {
    for (name, expected) in [
        ("events.jsonl.000001", Some((1, Form::Plain))),
        ("events.jsonl.1234567", Some((1_234_567, Form::Plain))),
        ("events.jsonl.000001.gz", Some((1, Form::Compressed))),
        ("events.jsonl.000001.tmp", Some((1, Form::Unfinished))),
        ("events.jsonl", None),
        ("events.jsonl.", None),
        ("events.jsonl.x", None),
        ("events.jsonl.1.xz", None),
        ("events.jsonl.1.gz.gz", None),
        ("events.jsonl.18446744073709551615", None),
        ("other.jsonl.000001", None),
    ] {
        assert_eq!(parse(name, "events.jsonl"), expected, "{name}");
    }
    let log = Path::new("/var/log/events.jsonl");
    assert_eq!(
        compressed(&numbered(log, 7)),
        Path::new("/var/log/events.jsonl.000007.gz")
    );
}

#[test]
fn the_oldest_file_is_read_first_and_each_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("events.jsonl");
    assert!(files(&log).expect("a directory").is_empty());
    let write = |path: PathBuf, data: &[u8]| fs::write(path, data).expect("written");
    write(log.clone(), b"7\n8\n");
    // Numbers, not names, give the order.
    write(numbered(&log, 1_000_000), b"5\n6\n");
    write(compressed(&numbered(&log, 999_999)), &gzip("3\n4\n"));
    write(numbered(&log, 2), b"1\n2\n");
    // Compressed, and the plain file not removed yet; and one whose compression was interrupted.
    write(compressed(&numbered(&log, 2)), &gzip("1\n2\n"));
    write(unfinished(&numbered(&log, 1_000_000)), &gzip("5\n6\n")[..9]);
    fs::create_dir(numbered(&log, 3)).expect("made");
    let expected: Vec<String> = (1..=8).map(|number| number.to_string()).collect();
    assert_eq!(read_all(files(&log).expect("a directory")), expected);
    assert_eq!(last_number(&log).expect("a directory"), 1_000_000);

    // Compressed and removed after the files were listed.
    let mut listed = files(&log).expect("a directory").into_iter();
    fs::remove_file(numbered(&log, 2)).expect("removed");
    let first = listed.next().expect("a file").lines().expect("it can be opened");
    assert_eq!(all_lines(first), ["1", "2"]);
    fs::remove_file(compressed(&numbered(&log, 999_999))).expect("removed");
    let gone = listed.next().expect("a file").lines();
    assert!(gone.is_err_and(|error| error.kind() == ErrorKind::NotFound));
    // Rotated after the files were listed: the file that was live then is read.
    fs::rename(&log, numbered(&log, 1_000_001)).expect("renamed");
    write(log.clone(), b"9\n");
    assert_eq!(read_all(listed), ["5", "6", "7", "8"]);
}

#[test]
fn the_first_bytes_tell_whether_a_file_is_compressed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("collected");
    // Two members of gzip.
    fs::write(&path, [gzip("1\n2"), gzip("3\n4\n")].concat()).expect("written");
    assert_eq!(all_lines(open(&path).expect("it can be opened")), ["1", "23", "4"]);
    for text in ["", "\u{1f}", "1\n2\n"] {
        fs::write(&path, text).expect("written");
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(all_lines(open(&path).expect("it can be opened")), lines);
    }
    let whole = gzip(&"text\n".repeat(1000));
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    let mut lines = open(&path).expect("it can be opened");
    let error = loop {
        match lines.next_line() {
            Ok(line) => assert!(line.is_some(), "a truncated file has no regular end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn only_regular_files_are_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    assert!(open(directory.path()).is_err());
    let fifo = directory.path().join("fifo");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).expect("made");
    assert!(open(&fifo).is_err_and(|error| error.kind() == ErrorKind::InvalidInput));
}

#[test]
fn a_line_that_is_too_long_is_truncated_and_skipped() {
    let (longest, longer) = (vec![b'x'; LINE_MAX], vec![b'y'; 2 * LINE_MAX]);
    let text = [longest.as_slice(), b"\n", &longer, b"\nz\ntorn"].concat();
    let mut lines = Lines::new(text.as_slice());
    let mut lengths = Vec::new();
    while let Some(length) = lines.next_line().expect("memory can be read").map(<[u8]>::len) {
        lengths.push(length);
        assert!(lines.line.capacity() <= 3 * LINE_MAX);
    }
    assert_eq!(lengths, [LINE_MAX + 1, LINE_MAX + 2, 2, 4]);
}
