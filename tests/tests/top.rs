//! `top` on a terminal: what a person sees, and how the terminal is left.
//!
//! guests: none

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use imds_analyzer_tests::{Stage, Terminal, binary, imds_analyzer, needs, no_terminal, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `imds-analyzer top` with these arguments, without colour.
fn top(columns: u16, lines: u16, args: &[&str]) -> Terminal {
    top_in(Path::new("."), columns, lines, args)
}

fn top_in(directory: &Path, columns: u16, lines: u16, args: &[&str]) -> Terminal {
    let program = binary();
    let program = fs::canonicalize(&program).unwrap_or(program);
    let directory = directory.to_str().expect("UTF-8");
    let command = ["env", "-C", directory, program.to_str().expect("UTF-8"), "top"];
    Terminal::run(columns, lines, &[&command, args].concat(), &[("NO_COLOR", "1")])
}

/// The line of a v1 call by the program `name`, `seconds` after ten o'clock.
fn line(name: &str, seconds: u64) -> String {
    let mut record: Value = serde_json::from_str(first_lines().lines().next().expect("a line")).expect("JSON");
    record["@timestamp"] = json!(format!("2026-11-22T10:00:{seconds:02}.000000Z"));
    record["imds"]["caller"] = json!(name);
    record["url"] = json!({ "original": "/latest/user-data", "path": "/latest/user-data" });
    format!("{record}\n")
}

/// Lines of this schema.
fn first_lines() -> &'static str {
    include_str!("../../imds-analyzer/src/record/fixtures/2026-11-29.jsonl")
}

fn log(directory: &Path) -> PathBuf {
    let path = directory.join("events.jsonl");
    fs::write(&path, line("/opt/first", 0)).expect("written");
    path
}

/// `top` that follows a log with one call, and shows it.
struct Following {
    log: PathBuf,
    terminal: Terminal,
    _directory: TempDir,
}

impl Following {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = log(directory.path());
        let mut terminal = top(80, 24, &["--follow", log.to_str().expect("UTF-8")]);
        terminal.wait_for("/opt/first");
        Self {
            log,
            terminal,
            _directory: directory,
        }
    }

    fn pid(&self) -> i32 {
        pid_of(self.log.to_str().expect("UTF-8"))
    }
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a log");
    file.write_all(text.as_bytes()).expect("written");
}

/// The pid of the analyzer with `path` among its arguments.
fn pid_of(path: &str) -> i32 {
    let mut found = None;
    until("the analyzer runs", || {
        found = find_pid(path);
        found.is_some()
    });
    found.expect("a pid")
}

fn find_pid(path: &str) -> Option<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        // Not the shell that runs it, which has the same words behind its own.
        arguments.split('\0').nth(1) == Some("top") && arguments.contains(path)
    })
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: no memory is passed; the process belongs to this test.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// The state of a process, as in ps.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

#[test]
fn a_session_from_the_first_call_to_the_last_key() {
    needs!(no_terminal());
    let directory = tempfile::tempdir().expect("a directory");
    let stage = Stage::shared();
    let mut terminal = top_in(directory.path(), 100, 30, &["--path", &stage.path]);
    terminal.wait_for("No call to the metadata service yet.");
    stage.curl(&[]);
    stage.curl(&[]);
    let seen = terminal.wait_for("404×2");
    assert!(!seen.raw.contains("\u{1b}[31m"), "there is no colour: {:?}", seen.raw);
    assert!(seen.lines[0].contains("tap attached, owner from"), "{}", seen.text());
    assert!(
        seen.lines[1].starts_with("v1 0  v2 0 "),
        "its IMDS is an address of this host: {}",
        seen.text()
    );
    let row = seen.line("local: ");
    assert!(row.starts_with("> ") && row.contains("no-token-request"), "{row}");

    terminal.press("\r");
    let seen = terminal.wait_for("Last calls (UTC): 2");
    assert_eq!(
        seen.text().matches(&stage.path).count(),
        3,
        "arguments and two calls: {}",
        seen.text()
    );
    assert!(seen.line("started by").contains(" < "), "{}", seen.text());
    terminal.press("\u{1b}");
    terminal.wait_for("calls, 1 min");

    terminal.press("w");
    let seen = terminal.wait_for("written to ");
    let (_, path) = seen.line("written to ").split_once("written to ").expect("a path");
    let text = fs::read_to_string(path).expect("the file");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(written["callers"][0]["calls"]["v1"], 2, "{written:#}");
    assert_eq!(written["callers"][0]["last_calls"].as_array().map(Vec::len), Some(2));
    assert_eq!(written["callers"][0]["record"]["url"]["path"], stage.path);

    terminal.press("/nobody\r");
    terminal.wait_for("No caller contains this text");
    terminal.press("/\u{1b}");
    terminal.wait_for("1 caller, sorted by v1");
    terminal.press("?");
    terminal.wait_for("A narrow terminal has fewer columns");
    terminal.press("q");
    terminal.resize(60, 12);
    let seen = terminal.wait_for("last path");
    assert!(!seen.text().contains("v1 answers"), "{}", seen.text());
    terminal.resize(160, 40);
    terminal.wait_for("unit or image");
    terminal.press("q");
    let seen = terminal.end(0);
    // The summary stays when the screen is gone.
    assert!(
        seen.after_leaving().contains("Calls to this host itself"),
        "{:?}",
        seen.after_leaving()
    );
    assert!(!seen.after_leaving().contains("\u{1b}["), "{:?}", seen.after_leaving());
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_on_the_screen() {
    needs!(no_terminal());
    let directory = tempfile::tempdir().expect("a directory");
    let log = log(directory.path());
    // Nobody, not even root, makes a file there.
    let mut terminal = top_in(
        Path::new("/proc/self"),
        80,
        24,
        &["--replay", log.to_str().expect("UTF-8")],
    );
    terminal.wait_for("/opt/first");
    terminal.press("w");
    terminal.wait_for("cannot write /proc/");
    terminal.press("q");
    terminal.end(0);
}

#[test]
fn a_log_is_followed_across_rotation() {
    needs!(no_terminal());
    let directory = tempfile::tempdir().expect("a directory");
    let log = log(directory.path());
    let mut terminal = top(80, 24, &["--follow", log.to_str().expect("UTF-8")]);
    terminal.wait_for("/opt/first");
    append(&log, &line("/opt/second", 1));
    terminal.wait_for("/opt/second");
    append(&log, &line("/opt/third", 2));
    fs::rename(&log, directory.path().join("events.jsonl.000001")).expect("renamed");
    append(&log, "not a record\n");
    append(&log, &line("/opt/fourth", 3));
    let seen = terminal.wait_for("/opt/fourth");
    assert!(seen.lines[1].starts_with("v1 4 "), "{}", seen.text());
    assert!(seen.text().contains("1 line of another program"), "{}", seen.text());
    terminal.press("q");
    let seen = terminal.end(0);
    assert!(
        seen.after_leaving().contains("Calls to the metadata service: 4 v1"),
        "{:?}",
        seen.after_leaving()
    );
}

#[test]
fn a_log_is_replayed_at_a_speed_and_pauses() {
    needs!(no_terminal());
    let directory = tempfile::tempdir().expect("a directory");
    let log = log(directory.path());
    append(&log, &line("/opt/soon", 1));
    append(&log, &line("/opt/late", 59));
    append(&log, "{\"@timestamp\":\"2026-01-01T00:00:59Z\",\"imds\":{\"verdict\"\n");
    let path = log.to_str().expect("UTF-8");
    let mut terminal = top(80, 24, &["--replay", path]);
    let seen = terminal.wait_for("/opt/soon");
    assert!(
        !seen.text().contains("/opt/late"),
        "it is a minute later: {}",
        seen.text()
    );
    terminal.press("p");
    terminal.wait_for("PAUSED");
    terminal.press("q");
    terminal.end(0);
    for speed in ["0", "1000"] {
        let mut terminal = top(80, 24, &["--replay", path, "--speed", speed]);
        let seen = terminal.wait_for("end of the log");
        assert!(seen.text().contains("/opt/late"), "{}", seen.text());
        terminal.press("q");
        let seen = terminal.end(0);
        let left = seen.after_leaving();
        assert!(left.contains("1 line could not be read"), "{left:?}");
    }
}

#[test]
fn signals_give_the_terminal_back() {
    needs!(no_terminal());
    for ending in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        let following = Following::new();
        signal(following.pid(), ending);
        following.terminal.end(0);
    }
}

#[test]
fn stopped_and_continued() {
    needs!(no_terminal());
    let following = Following::new();
    let pid = following.pid();
    let Following {
        log,
        mut terminal,
        _directory,
    } = following;
    for _ in 0..2 {
        signal(pid, libc::SIGTSTP);
        until("it has stopped", || state(pid) == Some('T'));
        until("the screen is free while it is stopped", || {
            let raw = terminal.wait_for("/opt/first").raw;
            raw.rfind("\u{1b}[?1049l") > raw.rfind("\u{1b}[?1049h")
        });
        signal(pid, libc::SIGCONT);
        append(&log, &line("/opt/second", 1));
        until("it is back", || {
            let raw = terminal.wait_for("/opt/second").raw;
            raw.rfind("\u{1b}[?1049h") > raw.rfind("\u{1b}[?1049l")
        });
    }
    terminal.press("q");
    terminal.end(0);
}

#[test]
fn a_terminal_that_is_gone_ends_it() {
    needs!(no_terminal());
    let mut following = Following::new();
    let pid = following.pid();
    following.terminal.close();
    until("it has ended", || matches!(state(pid), None | Some('Z')));
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let output = imds_analyzer(&["top"]);
    assert_eq!(output.code, Some(2), "{output:#?}");
    assert_eq!(output.stdout, "");
    for part in ["top needs a terminal", "watch --format json", "imds-analyzer report"] {
        assert!(output.stderr.contains(part), "{part} in {}", output.stderr);
    }
}
