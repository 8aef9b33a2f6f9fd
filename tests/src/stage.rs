//! A lab, an IMDS in it, and an analyzer that looks for the calls of this one test: other tests, and other people's
//! analyzers and labs, may be at work on the same machine.

use std::{
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use imds_analyzer::lab::{Lab, Options, Server};
use serde_json::Value;

use crate::{Analyzer, Ended, binary, fits_schema, sees_senders, sender_hook, wait};

/// The system's own; the first in the path may be a script that looks for another.
pub const PYTHON: &str = "/usr/bin/python3";

/// What a script for [`Stage::python`] has at hand.
const PRELUDE: &str = r#"
import ctypes, os, socket, sys, threading, time
path = sys.argv[1]
def connect():
    return socket.create_connection(("169.254.169.254", 80), timeout=10)
def get(connection):
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: imds\r\n\r\n".encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 ")
"#;

/// The stage of one test.
pub struct Stage {
    pub analyzer: Analyzer,
    /// Of this test's calls alone; there is nothing at it.
    pub path: String,
    pub lab: Lab,
    pub server: Server,
}

impl Stage {
    /// The analyzer that tests share, and a local lab.
    pub fn shared() -> Self {
        Self::shared_in(Lab::local().expect("lab"))
    }

    /// As [`Self::shared`], with another lab.
    pub fn shared_in(lab: Lab) -> Self {
        let path = new_path();
        let own = path.clone();
        Self {
            analyzer: Analyzer::shared(move |record| {
                record["url"]["path"].as_str().is_some_and(|path| path.contains(&own))
            }),
            path,
            server: Server::start(&lab.server, Options::default()).expect("IMDS"),
            lab,
        }
    }

    /// An analyzer in a local lab that writes JSON records of [`Self::path`] and below, with further arguments.
    pub fn new(args: &[&str]) -> Self {
        Self::of(Lab::local().expect("lab"), "json", args)
    }

    /// With a hook in the sender's context: the one in use, or the best here.
    pub fn of_senders() -> Self {
        if sees_senders() {
            Self::shared()
        } else {
            Self::new(&["--owner", &sender_hook()])
        }
    }

    /// As [`Self::new`], with text.
    pub fn text(args: &[&str]) -> Self {
        Self::of(Lab::local().expect("lab"), "text", args)
    }

    pub fn of(lab: Lab, format: &str, args: &[&str]) -> Self {
        let path = new_path();
        let server = Server::start(&lab.server, Options::default()).expect("IMDS");
        let mut command = Command::new(binary());
        command.args(["watch", "--format", format, "--path", &path]).args(args);
        Self {
            analyzer: Analyzer::start(command),
            path,
            lab,
            server,
        }
    }

    pub fn url(&self) -> String {
        format!("http://169.254.169.254{}", self.path)
    }

    /// A command inside the lab, silent.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.lab.client.command(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts such a command.
    pub fn start(&self, program: &str, args: &[&str]) -> Child {
        self.command(program, args)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Runs such a command, which must succeed; returns its pid.
    pub fn run(&self, program: &str, args: &[&str]) -> u32 {
        let mut child = self.start(program, args);
        let status = wait(&mut child);
        assert!(status.success(), "{program} {args:?}: {status}");
        child.id()
    }

    /// Runs one call by curl, with further arguments.
    pub fn curl(&self, args: &[&str]) -> u32 {
        self.run("curl", &[&["-sm10", &self.url()], args].concat())
    }

    /// Runs a script that can `connect()`, `get(connection)`, and knows its `path`.
    pub fn python(&self, script: &str) -> u32 {
        let script = format!("{PRELUDE}{script}");
        self.run(PYTHON, &["-c", &script, &self.path])
    }

    /// Ends the analyzer, which must have gone well.
    pub fn end(self) -> Ended {
        let ended = self.analyzer.stop();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended
    }

    /// The records of all requests, each of which must fit the schema.
    pub fn records(self) -> Vec<Value> {
        let records = if self.analyzer.is_shared() {
            self.analyzer.records()
        } else {
            let ended = self.end();
            ended.notices().iter().for_each(fits_schema);
            ended.requests()
        };
        records.iter().for_each(fits_schema);
        records
    }

    /// As [`Self::records`], where there must be one.
    pub fn record(self) -> Value {
        let records = self.records();
        let [record] = records.as_slice() else {
            panic!("one record was expected: {records:#?}")
        };
        record.clone()
    }
}

/// Of one test alone: none is part of another.
fn new_path() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(100);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/latest/meta-data/e2e-{}-{count}", process::id())
}
