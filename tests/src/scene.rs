//! An analyzer, a lab, and the IMDS in it.

use std::{
    fs,
    net::TcpStream,
    process::{self, Command, Output, Stdio},
};

use imds_analyzer::lab::{Lab, NetNs, Options, Server, Tokens};
use serde_json::Value;

use crate::{Analyzer, Ended, IMDS_V4, connect, records::of_port};

/// What most tests need. The analyzer starts first, so that no other test's sees this one's requests.
pub struct Scene {
    pub analyzer: Analyzer,
    pub lab: Lab,
    pub server: Server,
}

impl Scene {
    /// A local lab, and the analyzer that tests share: the requests of this process and of those it started.
    pub fn shared() -> Self {
        Self::shared_in(Lab::local)
    }

    /// As [`Self::shared`], in another lab.
    pub fn shared_in(lab: fn() -> anyhow::Result<Lab>) -> Self {
        Self::with(Analyzer::shared(is_ours), lab().expect("lab"))
    }

    /// A local lab; the analyzer shows this process's own requests only.
    pub fn of_this_process() -> Self {
        Self::new(&["--pid", &process::id().to_string()], Lab::local)
    }

    /// The analyzer shows every process's requests: assertions have to choose.
    pub fn of_all() -> Self {
        Self::new(&[], Lab::local)
    }

    pub fn new(args: &[&str], lab: fn() -> anyhow::Result<Lab>) -> Self {
        Self::with(Analyzer::watch(args), lab().expect("lab"))
    }

    pub fn with(analyzer: Analyzer, lab: Lab) -> Self {
        let server = serve(&lab);
        Self { analyzer, lab, server }
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
}

fn exactly(records: &[Value], port: u16, count: usize) -> Vec<Value> {
    let records = of_port(records, port);
    assert_eq!(records.len(), count, "{records:#?}");
    records
}

/// Whether it is a request of this process, or of one that it started; analyzers try themselves when they start.
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

/// An IMDS that serves requests without a token too.
pub fn serve(lab: &Lab) -> Server {
    let options = Options {
        tokens: Tokens::Optional,
    };
    Server::start(&lab.server, options).expect("IMDS")
}

/// Sets `net.ipv4.<name>` in `namespace`.
pub fn sysctl(namespace: &NetNs, name: &str, value: &str) {
    namespace
        .run(|| fs::write(format!("/proc/sys/net/ipv4/{name}"), value))
        .expect("namespace")
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Runs a program inside `namespace` to its end, which has to be good.
pub fn run(namespace: &NetNs, program: &str, args: &[&str]) -> Output {
    let mut command = namespace.command(program);
    command.args(args).stdin(Stdio::null());
    output(command)
}

/// Runs a command to its end, which has to be good.
pub fn output(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
