//! Text for people: the content of a line, when it has colour, and that others can neither forge a line nor drive the
//! terminal.
//!
//! guests: full

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd as _, FromRawFd, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use imds_analyzer_tests::{PYTHON, Stage, binary, is_legacy, run_to_end as run, wait};

/// Makes one call, with hostile text in its name, User-Agent and arguments.
const HOSTILE: &str = r#"
import ctypes, socket, sys
name = b"\x1b[2Jv1\n x\x9b1m"
ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
connection = socket.create_connection(("169.254.169.254", 80), timeout=10)
connection.sendall(b"GET " + sys.argv[1].encode() + b" HTTP/1.1\r\nUser-Agent: agent\xe2\x80\xae\xc2\x9b2J\r\nHost: imds\r\n\r\n")
connection.recv(4096)
"#;

/// A line as an attacker's own arguments would have it.
const ARGUMENT: &str =
    "12:00:00.000 v2       GET /forged  systemd[1]\u{1b}[1A\u{9b}2K\u{202e}\r\n12:00:00.000 v2 forged";

fn is_dangerous(char: char) -> bool {
    let bidi = [
        '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ];
    char.is_control() && char != '\n' || bidi.contains(&char)
}

/// `text` without colours (SGR sequences).
fn without_colour(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        let end = after
            .find(|char: char| !char.is_ascii_digit() && char != ';')
            .unwrap_or(after.len());
        assert!(after[end..].starts_with('m'), "a sequence that is no colour: {text:?}");
        plain.push_str(before);
        rest = &after[end + 1..];
    }
    plain + rest
}

#[test]
fn a_line_has_all_that_matters_and_no_colour_where_there_is_no_terminal() {
    let stage = Stage::local().text().watch(&[]);
    let path = stage.path.clone();
    let script = format!("setpriv --reuid=65534 --clear-groups curl -sm10 {}; true", stage.url());
    let shell = stage.run("sh", &["-c", &script]);
    let ended = stage.end();
    let [line] = ended.stdout.try_into().expect("one line");
    let line: String = line;
    assert!(line[13..].starts_with("v1 "), "{line}");
    for part in [
        &format!("GET {path}"),
        "curl[",
        &format!(" < sh({shell}) < "),
        "user=nobody",
        " local",
        " netns",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains('\u{1b}') && !ended.stderr.contains('\u{1b}'));
}

#[test]
fn verbose_shows_more_of_it() {
    let stage = Stage::local().text().watch(&["--verbose"]);
    let url = stage.url();
    stage.curl(&["-A", "e2e agent"]);
    let ended = stage.end();
    let text = ended.stdout.join("\n");
    // The send tap reads it from /proc, while the process exists.
    let executable = if is_legacy() { "" } else { "executable  /usr/bin/curl" };
    for part in [
        executable,
        &format!("arguments   curl -sm10 {url} -A e2e agent"),
        "user agent  e2e agent",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // `--verbose` is about calls, not about the libraries of the analyzer.
    assert!(!ended.stderr.contains("BtfFeatures"), "{}", ended.stderr);
}

#[test]
fn nobody_forges_a_line() {
    for verbose in [&[][..], &["--verbose"]] {
        let stage = Stage::local().text().watch(verbose);
        stage.run(PYTHON, &["-c", HOSTILE, &stage.path, ARGUMENT]);
        let ended = stage.end();
        let text = ended.stdout.join("\n");
        assert!(!text.chars().any(is_dangerous), "{text:?}");
        assert!(!ended.stderr.chars().any(is_dangerous), "{:?}", ended.stderr);
        // Lines of the second kind are indented.
        let calls = ended.stdout.iter().filter(|line| !line.starts_with("  ")).count();
        assert_eq!(calls, 1, "{text}");
        assert!(text.contains("\\x1b[2Jv1\\n"), "{text}");
    }
}

#[test]
fn json_is_one_line_of_plain_text_too() {
    let stage = Stage::shared();
    let path = stage.path.clone();
    stage.run(PYTHON, &["-c", HOSTILE, &path, ARGUMENT]);
    let record = stage.record();
    assert_eq!(record["process"]["args"][4], ARGUMENT);
    assert_eq!(record["url"]["path"], path);
    assert_eq!(record["user_agent"]["original"], "agent\u{202e}\u{9b}2J");
}

/// Servers read such a line differently. It has no token, and is escaped like all other text.
#[test]
fn a_request_line_with_control_characters_is_malformed() {
    let script = r#"
import socket, sys
connection = socket.create_connection(("169.254.169.254", 80), timeout=10)
connection.sendall(f"GET {sys.argv[1]}/\x1b[2J\x1b]0;owned\x07 HTTP/1.1\r\nHost: imds\r\n\r\n".encode())
connection.recv(4096)
"#;
    let stage = Stage::local().text().watch(&[]);
    stage.run(PYTHON, &["-c", script, &stage.path]);
    let ended = stage.end();
    let [line] = ended.stdout.try_into().expect("one line");
    let line: String = line;
    assert!(line[13..].starts_with("v1 "), "{line}");
    assert!(line.contains("/\\x1b") && line.contains(" malformed "), "{line}");
    assert!(!line.chars().any(is_dangerous), "{line:?}");
}

fn size(columns: u16) -> libc::winsize {
    libc::winsize {
        ws_row: 40,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A terminal: the end that a person looks at, and the one for the program.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let (mut person, mut program) = (0, 0);
    let mut size = size(columns);
    // SAFETY: both descriptors and the size are ours; no name or mode is asked for.
    let opened = unsafe {
        libc::openpty(
            &raw mut person,
            &raw mut program,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw mut size,
        )
    };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else has it.
    let person = unsafe { File::from_raw_fd(person) };
    // SAFETY: just opened, and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    (person, program)
}

fn resize(terminal: &File, columns: u16) {
    let size = size(columns);
    // SAFETY: the descriptor is open, and the size lives as long as the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// What a person sees on a terminal of 100 columns from `ready` on, while `client` runs.
fn seen(args: &[&str], env: &[(&str, &str)], client: impl Fn(&Stage)) -> String {
    seen_in(100, args, env, |stage, _| client(stage))
}

fn seen_in(columns: u16, args: &[&str], env: &[(&str, &str)], client: impl Fn(&Stage, &File)) -> String {
    let stage = Stage::shared();
    let (mut person, program) = terminal(columns);
    let keyboard = person.try_clone().expect("a descriptor");
    let mut child = Command::new(binary())
        .args(["watch", "--count", "1", "--path", &stage.path])
        .args(args)
        .env_remove("NO_COLOR")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stderr(program.try_clone().expect("a descriptor"))
        .stdout(program)
        .spawn()
        .expect("the analyzer");
    let (sender, ready) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        // At the end the terminal is gone, which is an error here.
        while let Ok(count @ 1..) = person.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
            if String::from_utf8_lossy(&all).contains("ready") {
                let _ = sender.send(());
            }
        }
        String::from_utf8(all).expect("UTF-8")
    });
    ready.recv_timeout(std::time::Duration::from_secs(20)).expect("ready");
    client(&stage, &keyboard);
    assert_eq!(wait(&mut child).code(), Some(0));
    let text = reader.join().expect("reader").replace("\r\n", "\n");
    // A slow start says what it does.
    let (_, text) = text.split_once("ready").expect("ready");
    format!("ready{text}")
}

#[test]
fn colour_on_a_terminal() {
    let call = |stage: &Stage| {
        stage.curl(&[]);
    };
    let text = seen(&[], &[], call);
    assert!(text.contains("\u{1b}[31m"), "{text:?}");
    assert!(fits(&without_colour(&text), 100), "{text}");

    assert!(!seen(&[], &[("NO_COLOR", "1")], call).contains('\u{1b}'));
    assert!(!seen(&["--color", "never"], &[], call).contains('\u{1b}'));
}

fn fits(text: &str, columns: usize) -> bool {
    text.lines().all(|line| line.chars().count() <= columns)
}

#[test]
fn no_line_wraps() {
    let call = |stage: &Stage| {
        let script = format!("curl -sm10 {}; true", stage.url());
        stage.run("sh", &["-c", &script, "a name", &"long argument ".repeat(20)]);
    };
    for (columns, verbose) in [(80, &[][..]), (80, &["--verbose"]), (160, &[])] {
        let text = seen_in(columns, verbose, &[], |stage, _| call(stage));
        let plain = without_colour(&text);
        assert!(plain.contains(" v1 ") && plain.contains("curl["), "{plain}");
        assert!(fits(&plain, columns.into()), "{columns}:\n{plain}");
    }
    // The terminal gets narrower while it is being watched.
    let text = seen_in(160, &[], &[], |stage, terminal| {
        resize(terminal, 80);
        call(stage);
    });
    let plain = without_colour(&text);
    let (_, calls) = plain.split_once("ready").expect("the line");
    let calls = calls.split_once('\n').expect("its end").1;
    assert!(calls.contains("curl[") && fits(calls, 80), "{plain}");
}

#[test]
fn nobody_drives_the_terminal() {
    let text = seen(&["--verbose"], &[], |stage| {
        stage.run(PYTHON, &["-c", HOSTILE, &stage.path, ARGUMENT]);
    });
    let plain = without_colour(&text);
    assert!(!plain.chars().any(is_dangerous), "{plain:?}");
    assert!(plain.contains("\\x1b[2J"), "{plain}");
    assert!(!plain.lines().any(|line| line.starts_with("12:00:00.000")), "{plain}");
}

#[test]
fn colour_when_it_is_asked_for() {
    let stage = Stage::local().text().watch(&["--color", "always"]);
    stage.curl(&[]);
    let ended = stage.end();
    assert!(ended.stdout[0].contains("\u{1b}[31m"), "{ended:#?}");
    let help = run(Command::new(binary()).arg("--help"));
    assert!(!help.stdout.contains('\u{1b}'));
}
