use std::{
    path::Path,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;
use crate::logfile;

fn config(directory: &Path) -> config::Log {
    config::Log {
        path: directory.join("log/events.jsonl"),
        max_size: 1000,
        max_total: 4000,
        compress: false,
        ..config::Log::default()
    }
}

fn writer(config: &config::Log) -> FileWriter {
    following(config, true, &Last::default())
}

fn following(config: &config::Log, head_due: bool, last: &Last) -> FileWriter {
    let head: Head = Arc::new(|_| Ok(b"head\n".to_vec()));
    FileWriter::new(config.clone(), head, head_due, None, last.clone())
}

fn line(text: &str) -> Line {
    Line {
        bytes: format!("{text}\n").into_bytes(),
        requests: 1,
    }
}

fn write(writer: &mut FileWriter, text: &str) {
    let (count, result) = writer.write(&[line(text)]);
    result.expect(text);
    assert_eq!(count, 1);
}

/// The texts of all files, the oldest first.
fn texts(config: &config::Log) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(config.path.parent().expect("a directory"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    // The file without a number is the newest.
    files.sort_by_key(|path| (path == &config.path, path.clone()));
    files
        .iter()
        .map(|path| {
            let mut text = String::new();
            let mut file = File::open(path).expect("a file");
            match path.extension() {
                Some(gz) if gz == "gz" => GzDecoder::new(file).read_to_string(&mut text),
                _ => file.read_to_string(&mut text),
            }
            .expect("text");
            text
        })
        .collect()
}

#[test]
fn makes_what_is_missing_with_the_rights_that_were_promised() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut writer = writer(&config);
    assert!(writer.write(&[]).1.is_ok());
    write(&mut writer, "a");
    let mode = |path: &Path| fs::metadata(path).expect("made").permissions().mode() & 0o7777;
    assert_eq!(mode(&config.path), 0o640);
    assert_eq!(mode(config.path.parent().expect("a directory")), 0o750);
    assert_eq!(texts(&config), ["head\na\n"]);
}

#[test]
fn files_are_set_aside_by_size_and_the_oldest_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut writer = writer(&config);
    let text = "x".repeat(99);
    for _ in 0..60 {
        write(&mut writer, &text);
        let total: usize = texts(&config).iter().map(String::len).sum();
        assert!(total <= 4000, "{total}");
    }
    let texts = texts(&config);
    assert!(texts.len() > 3, "{texts:#?}");
    assert!(
        texts
            .iter()
            .all(|text| text.starts_with("head\nx") && text.len() <= 1000)
    );
}

#[test]
fn an_old_file_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.max_age = Duration::ZERO;
    let mut writer = writer(&config);
    write(&mut writer, "a");
    write(&mut writer, "b");
    // A head of its own heads the very first file, too.
    assert_eq!(texts(&config), ["head\n", "head\na\n", "head\nb\n"]);
}

#[test]
fn a_clock_that_was_put_back_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut writer = writer(&config);
    write(&mut writer, "a");
    if let Some(open) = &mut writer.open {
        open.begun = SystemTime::now() + Duration::from_secs(1 << 30);
    }
    write(&mut writer, "b");
    assert_eq!(texts(&config), ["head\na\nb\n"]);
}

#[test]
fn compressed_files_say_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.compress = true;
    let directory = config.path.parent().expect("a directory").to_owned();
    fs::create_dir(&directory).expect("made");
    // Of a crash in the middle of it.
    fs::write(directory.join("events.jsonl.000007.tmp"), "half").expect("written");
    fs::write(directory.join("events.jsonl.mine"), "not ours").expect("written");
    let mut writer = writer(&config);
    let text = "y".repeat(600);
    write(&mut writer, &text);
    write(&mut writer, &text);
    let compressed = directory.join("events.jsonl.000008.gz");
    // The thread that compresses gives way to all others.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !compressed.exists() || directory.join("events.jsonl.000008").exists() {
        assert!(Instant::now() < deadline, "not compressed");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(fs::metadata(&compressed).expect("there").len() < 200);
    assert!(!directory.join("events.jsonl.000007.tmp").exists());
    let expected = format!("head\n{text}\n");
    assert_eq!(texts(&config), [expected.clone(), "not ours".to_owned(), expected]);
}

#[test]
fn a_configuration_that_is_read_again_spoils_no_compressed_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config::Log {
        compress: true,
        max_total: 1 << 30,
        ..config(dir.path())
    };
    let directory = config.path.parent().expect("a directory");
    fs::create_dir(directory).expect("made");
    let text: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    for _ in 0..8 {
        fs::write(&config.path, &text).expect("written");
        Tidy::new(&config).set_aside(&config.path).expect("set aside");
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let entries = fs::read_dir(directory).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let (compressed, others): (Vec<_>, Vec<_>) =
            paths.partition(|path| path.extension().is_some_and(|extension| extension == "gz"));
        for path in compressed {
            let mut read = String::new();
            let result = GzDecoder::new(File::open(&path).expect("a file")).read_to_string(&mut read);
            assert!(result.is_ok() && read == text, "{}: {result:?}", path.display());
        }
        if others.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not compressed: {others:?}");
    }
}

#[test]
fn a_torn_line_is_cut_off_and_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    write(&mut writer(&config), "a");
    for torn in ["{\"half", &"z".repeat(10_000)] {
        let mut file = OpenOptions::new().append(true).open(&config.path).expect("a file");
        file.write_all(torn.as_bytes()).expect("written");
        let mut writer = following(&config, false, &Last::default());
        write(&mut writer, "b");
        assert_eq!(writer.take_torn(), 1);
        assert_eq!(writer.take_torn(), 0);
    }
    assert_eq!(texts(&config), ["head\na\nb\nb\n"]);
}

#[test]
fn others_may_do_with_the_file_as_they_like() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let mut writer = writer(&config);
    write(&mut writer, "a");
    File::create(&config.path).expect("emptied");
    write(&mut writer, "b");
    assert_eq!(texts(&config), ["head\nb\n"]);
    fs::rename(&config.path, dir.path().join("moved")).expect("moved");
    write(&mut writer, "c");
    assert_eq!(texts(&config), ["head\nc\n"]);
    fs::remove_dir_all(config.path.parent().expect("a directory")).expect("removed");
    write(&mut writer, "d");
    assert_eq!(texts(&config), ["head\nd\n"]);
}

#[test]
fn another_file_in_its_place_gets_a_start_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let last = Last::default();
    let mut writer = following(&config, true, &last);
    write(&mut writer, "a");
    write(&mut writer, "b");
    // Cut short in the middle of a line; a copy in its place; and the same seen by the writer after a reload.
    let file = OpenOptions::new().write(true).open(&config.path).expect("a file");
    file.set_len(8).expect("cut");
    write(&mut writer, "c");
    assert_eq!(texts(&config), ["head\na\nhead\nc\n"]);
    let copy = dir.path().join("copy");
    let replace = || {
        fs::copy(&config.path, &copy).expect("copied");
        fs::rename(&copy, &config.path).expect("replaced");
    };
    replace();
    write(&mut writer, "d");
    assert_eq!(texts(&config), ["head\na\nhead\nc\nhead\nd\n"]);
    replace();
    let mut writer = following(&config, false, &last);
    write(&mut writer, "e");
    assert!(texts(&config)[0].ends_with("d\nhead\ne\n"));
    let mut writer = following(&config, false, &last);
    write(&mut writer, "f");
    assert!(texts(&config)[0].ends_with("head\ne\nf\n"), "the same file needs none");
    fs::remove_file(&config.path).expect("removed");
    fs::write(&config.path, "another's\n").expect("written");
    write(&mut writer, "g");
    assert_eq!(texts(&config), ["another's\nhead\ng\n"]);
}

#[test]
fn a_file_that_is_not_ours_is_set_aside_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let directory = config.path.parent().expect("a directory");
    fs::create_dir(directory).expect("made");
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious, without an end").expect("written");
    fs::hard_link(&victim, &config.path).expect("linked");
    write(&mut writer(&config), "a");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "precious, without an end");
    assert_eq!(fs::read_to_string(&config.path).expect("a log"), "head\na\n");
    fs::set_permissions(&config.path, fs::Permissions::from_mode(0o666)).expect("ours");
    write(&mut writer(&config), "b");
    assert_eq!(fs::read_to_string(&config.path).expect("a log"), "head\nb\n");
    if std::os::unix::fs::chown(&config.path, Some(65534), None).is_ok() {
        write(&mut writer(&config), "c");
        assert_eq!(fs::read_to_string(&config.path).expect("a log"), "head\nc\n");
    }
    let all = texts(&config).concat();
    assert!(
        all.contains("head\na\n") && all.contains("head\nb\n"),
        "nothing is lost: {all}"
    );
}

#[test]
fn names_of_another_kind_are_no_obstacle() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config::Log {
        compress: true,
        ..config(dir.path())
    };
    let mut writer = writer(&config);
    let text = "x".repeat(600);
    write(&mut writer, &text);
    fs::create_dir(logfile::numbered(&config.path, 1)).expect("made");
    std::os::unix::fs::symlink(
        "/nowhere/at/all",
        logfile::compressed(&logfile::numbered(&config.path, 7)),
    )
    .expect("linked");
    fs::create_dir(logfile::numbered(&config.path, u64::MAX)).expect("made");
    write(&mut writer, &text);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !logfile::compressed(&logfile::numbered(&config.path, 8)).exists() {
        assert!(Instant::now() < deadline, "not set aside");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_directory_of_another_users_is_refused_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let directory = config.path.parent().expect("a directory");
    fs::create_dir(directory).expect("made");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("ours");
    let (count, result) = writer(&config).write(&[line("a")]);
    let error = result.expect_err("writable by all").to_string();
    assert!(
        count == 0 && error.contains("events.jsonl: ") && error.contains("everyone"),
        "{error}"
    );
    assert!(!config.path.exists());
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("ours");
    if std::os::unix::fs::chown(dir.path(), Some(65534), None).is_ok() {
        let error = writer(&config)
            .write(&[line("a")])
            .1
            .expect_err("below another's")
            .to_string();
        assert!(error.contains("user 65534"), "{error}");
    }
}

#[test]
fn what_is_no_file_is_not_written_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let directory = config.path.parent().expect("a directory");
    fs::create_dir(directory).expect("made");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &config.path).expect("linked");
    let (count, result) = writer(&config).write(&[line("a")]);
    assert!(count == 0 && result.is_err());
    assert!(!dir.path().join("elsewhere").exists());
    fs::remove_file(&config.path).expect("removed");
    fs::create_dir(&config.path).expect("made");
    assert!(writer(&config).write(&[line("a")]).1.is_err());
    fs::remove_dir(&config.path).expect("removed");
    fs::write(directory.join("file"), "").expect("written");
    let below = config::Log {
        path: directory.join("file/events.jsonl"),
        ..config.clone()
    };
    assert!(writer(&below).write(&[line("a")]).1.is_err());
    // And what stood in the way is gone again.
    write(&mut writer(&config), "a");
}

proptest! {
    #[test]
    fn the_end_is_that_of_a_line(lines in prop::collection::vec(0_usize..9000, 0..4), torn_end in 0_usize..9000) {
        let mut text: String = lines.iter().map(|length| "x".repeat(*length) + "\n").collect();
        text += &"x".repeat(torn_end);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let torn = cut_torn_end(&mut file, text.len() as u64).expect("a file");
        prop_assert_eq!(file.metadata().expect("a file").len(), (text.len() - torn_end) as u64);
        prop_assert_eq!(torn, u64::from(torn_end > 0));
    }
}

/// While files are compressed and removed.
#[test]
fn what_was_written_is_read_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config::Log {
        compress: true,
        ..config(dir.path())
    };
    let mut writer = writer(&config);
    for number in 0..200_u32 {
        write(&mut writer, &format!("{number:0100}"));
        let mut numbers: Vec<u32> = Vec::new();
        for file in logfile::files(&config.path).expect("a directory") {
            let mut lines = file.lines().expect("nobody else removes files");
            while let Some(line) = lines.next_line().expect("it can be read") {
                let text = std::str::from_utf8(line).expect("UTF-8");
                numbers.extend(text.trim_end().parse::<u32>().ok());
            }
        }
        let first = numbers.first().copied().expect("a line");
        assert!(numbers.iter().copied().eq(first..=number), "{numbers:?}");
    }
}
