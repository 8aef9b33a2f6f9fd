//! A terminal of a test's own, with an emulator that shows what a person would see.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{Lack, Venv, patience};

const SCRIPT: &str = include_str!("pty.py");

fn venv() -> Venv {
    Venv::new("pty", &["pexpect==4.9.0", "pyte==0.8.2"])
}

/// What keeps a [`Terminal`] from being made here, if anything does.
pub fn no_terminal() -> Option<Lack> {
    venv().lack()
}

/// A terminal and the shell in it, which runs a command, says how the terminal was left, and `left <code>`.
pub struct Terminal {
    driver: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What is to be seen.
#[derive(Debug)]
pub struct Seen {
    /// The lines of the screen.
    pub lines: Vec<String>,
    /// All bytes that came so far.
    pub raw: String,
    pub cursor_is_hidden: bool,
    /// The shell has ended.
    pub has_ended: bool,
}

impl Terminal {
    /// Runs `command`, with these variables in its environment.
    pub fn run(columns: u16, lines: u16, command: &[&str], env: &[(&str, &str)]) -> Self {
        // The shell is the parent in the same session that a stopped program needs.
        let script = "\"$@\"; code=$?; stty -a; echo left $code";
        let mut driver = Command::new(venv().python)
            .args(["-c", SCRIPT, &columns.to_string(), &lines.to_string()])
            .args(["sh", "-c", script, "sh"])
            .args(command)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the terminal");
        Self {
            requests: driver.stdin.take().expect("piped"),
            answers: BufReader::new(driver.stdout.take().expect("piped")),
            driver,
        }
    }

    fn ask(&mut self, request: &Value) -> Seen {
        writeln!(self.requests, "{request}").expect("the driver runs");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the driver runs");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lines = answer["screen"].as_array().into_iter().flatten();
        Seen {
            lines: lines.map(|line| line.as_str().unwrap_or_default().to_owned()).collect(),
            raw: answer["raw"].as_str().unwrap_or_default().to_owned(),
            cursor_is_hidden: answer["hidden"] == true,
            has_ended: answer["ended"] == true,
        }
    }

    /// Waits until `text` is on the screen.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> Seen {
        let seen = self.ask(&json!({ "do": "wait", "text": text, "seconds": patience().as_secs() }));
        assert!(seen.text().contains(text), "{text} is not in\n{}", seen.text());
        seen
    }

    /// Presses keys, as the bytes that a terminal sends.
    pub fn press(&mut self, keys: &str) {
        self.ask(&json!({ "do": "keys", "keys": keys }));
    }

    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.ask(&json!({ "do": "resize", "columns": columns, "lines": lines }));
    }

    /// Closes the terminal, as a lost connection does.
    pub fn close(&mut self) {
        self.ask(&json!({ "do": "close" }));
    }

    /// Waits until the command has ended and the terminal was given back; returns what is to be seen then.
    #[track_caller]
    pub fn end(mut self, code: i32) -> Seen {
        let seen = self.ask(&json!({ "do": "end", "seconds": patience().as_secs() }));
        assert!(seen.has_ended, "it does not end:\n{}", seen.text());
        assert!(seen.raw.contains(&format!("left {code}")), "{}", seen.text());
        seen.is_given_back();
        seen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Seen {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The line with `text`.
    #[track_caller]
    pub fn line(&self, text: &str) -> &str {
        let mut lines = self.lines.iter();
        let line = lines.find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("{text} is not in\n{}", self.text()))
    }

    /// The alternate screen was left, the cursor is shown, and lines are edited and echoed again.
    #[track_caller]
    pub fn is_given_back(&self) {
        let after = |on: &str, off: &str| match (self.raw.rfind(on), self.raw.rfind(off)) {
            (Some(on), Some(off)) => assert!(off > on, "{off:?} before {on:?}"),
            (on, off) => assert_eq!(on, off, "{}", self.text()),
        };
        after("\u{1b}[?1049h", "\u{1b}[?1049l");
        after("\u{1b}[?25l", "\u{1b}[?25h");
        assert!(!self.cursor_is_hidden);
        let words: Vec<&str> = self.raw.split_whitespace().collect();
        for mode in ["icanon", "echo", "isig", "opost"] {
            assert!(words.contains(&mode), "{mode} in {}", self.text());
        }
    }

    /// What was written after the alternate screen was left.
    pub fn after_leaving(&self) -> &str {
        self.raw.rsplit("\u{1b}[?1049l").next().unwrap_or_default()
    }
}
