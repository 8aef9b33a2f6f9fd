//! A lab, an IMDS in it, and an analyzer that looks for the calls of this one test: other tests, and other people's
//! analyzers and labs, may be at work on the same machine.

use std::{
    process::{self, Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use imds_analyzer::lab::{Lab, Options, Server};
use serde_json::Value;

use super::{Analyzer, Ended, binary, imds_analyzer, wait};

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
    /// An analyzer in a local lab that writes JSON records of [`Self::path`] and below, with further arguments.
    pub fn new(args: &[&str]) -> Self {
        Self::of(Lab::local().expect("lab"), "json", args)
    }

    /// As [`Self::new`], with text.
    pub fn text(args: &[&str]) -> Self {
        Self::of(Lab::local().expect("lab"), "text", args)
    }

    pub fn of(lab: Lab, format: &str, args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = format!(
            "/latest/meta-data/e2e-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
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

    /// Ends the analyzer; all its records must fit the schema. Returns those of requests.
    pub fn records(self) -> Vec<Value> {
        let ended = self.end();
        for line in &ended.stdout {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let errors: Vec<_> = schema().iter_errors(&record).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:#?} in {record:#}");
        }
        ended.requests()
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

/// What `imds-analyzer schema` prints.
pub fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema = serde_json::from_str(&imds_analyzer(&["schema"]).stdout).expect("JSON");
        jsonschema::validator_for(&schema).expect("a schema")
    })
}
