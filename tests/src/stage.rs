//! A lab, an IMDS in it, and an analyzer that looks for the calls of this one test: other tests, and other people's
//! analyzers and labs, may be at work on the same machine.

use std::{
    net::TcpStream,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use imds_analyzer::lab::{Lab, Options, Server};
use serde_json::Value;

use crate::{
    Analyzer, Ended, IMDS_V4, binary, connect, fits_schema, records::of_port, sees_senders, sender_hook, wait,
};

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
    /// Of this test's calls alone; the server has nothing there.
    pub path: String,
    pub lab: Lab,
    pub server: Server,
}

/// The requests that a test looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// Those to [`Stage::path`] and below.
    OfPath,
    /// Those of this process, and with the shared analyzer those of the processes that it started.
    OfProcess,
    All,
}

/// A stage before its analyzer runs.
pub struct Setup {
    lab: Lab,
    calls: Calls,
    format: &'static str,
}

impl Setup {
    /// The test chooses by process instead of by path.
    pub fn by_process(self) -> Self {
        Self {
            calls: Calls::OfProcess,
            ..self
        }
    }

    /// The test sees every request.
    pub fn of_all(self) -> Self {
        Self {
            calls: Calls::All,
            ..self
        }
    }

    pub fn text(self) -> Self {
        Self { format: "text", ..self }
    }

    /// With the analyzer that tests share. The test's own turn begins here.
    pub fn shared(self) -> Stage {
        let path = new_path();
        let own = path.clone();
        let calls = self.calls;
        let analyzer = Analyzer::shared(move |record| match calls {
            Calls::OfPath => record["url"]["path"].as_str().is_some_and(|path| path.contains(&own)),
            Calls::OfProcess => is_ours(record),
            Calls::All => true,
        });
        self.with(analyzer, path)
    }

    /// With an analyzer of its own, `watch` with further arguments; without budgets unless they name one.
    pub fn watch(self, args: &[&str]) -> Stage {
        let path = new_path();
        let mut command = Command::new(binary());
        command.args(["watch", "--format", self.format]);
        match self.calls {
            Calls::OfPath => command.args(["--path", &path]),
            Calls::OfProcess => command.args(["--pid", &process::id().to_string()]),
            Calls::All => &mut command,
        };
        if !args.contains(&"--kernel-rate") {
            command.args(["--kernel-rate", "0"]);
        }
        command.args(args);
        self.with(Analyzer::start(command), path)
    }

    /// With an analyzer that runs already.
    pub fn beside(self, analyzer: Analyzer) -> Stage {
        self.with(analyzer, new_path())
    }

    fn with(self, analyzer: Analyzer, path: String) -> Stage {
        Stage {
            analyzer,
            path,
            server: Server::start(&self.lab.server, Options::default()).expect("IMDS"),
            lab: self.lab,
        }
    }
}

impl Stage {
    /// A local lab, calls by path, JSON.
    pub fn local() -> Setup {
        Self::in_lab(Lab::local().expect("lab"))
    }

    /// As [`Self::local`], in another lab.
    pub fn in_lab(lab: Lab) -> Setup {
        Setup {
            lab,
            calls: Calls::OfPath,
            format: "json",
        }
    }

    /// [`Self::local`] with the analyzer that tests share.
    pub fn shared() -> Self {
        Self::local().shared()
    }

    /// [`Self::local`] with an analyzer of its own.
    pub fn watch(args: &[&str]) -> Self {
        Self::local().watch(args)
    }

    /// With a hook in the sender's context: the one in use, or the best here.
    pub fn of_senders() -> Self {
        if sees_senders() {
            Self::shared()
        } else {
            Self::watch(&["--owner", &sender_hook()])
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(&self.lab.client, IMDS_V4)
    }

    /// Waits for `count` records of the connection from `port`, and that there are no more in the end.
    pub fn expect(mut self, port: u16, count: usize) -> Vec<Value> {
        self.analyzer.wait_for(|records| of_port(records, port).len() >= count);
        exactly(&self.analyzer.records(), port, count)
    }

    /// As [`Self::expect`]; and what the analyzer left behind.
    pub fn expect_and_end(mut self, port: u16, count: usize) -> (Vec<Value>, Ended) {
        self.analyzer.wait_for(|records| of_port(records, port).len() >= count);
        let ended = self.analyzer.stop();
        (exactly(&ended.requests(), port, count), ended)
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

fn exactly(records: &[Value], port: u16, count: usize) -> Vec<Value> {
    let records = of_port(records, port);
    assert_eq!(records.len(), count, "{records:#?}");
    records
}

/// True for a request of this process or of one that it started; analyzers try themselves when they start.
fn is_ours(record: &Value) -> bool {
    let process = &record["process"];
    if process["name"] == "imds-analyzer" {
        return false;
    }
    let ancestors = process["ancestors"].as_array().into_iter().flatten();
    std::iter::once(process)
        .chain(ancestors)
        .any(|it| it["pid"] == process::id())
}

/// Of one test alone: none is part of another.
fn new_path() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(100);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/latest/meta-data/e2e-{}-{count}", process::id())
}
