//! `imds-analyzer daemon` with a directory of its own.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::{
    lab::{Lab, Server},
    logfile,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Analyzer, Ended, IMDS_V4, Turn, binary, connect, fits_schema, get, patience, read_response, serve};

/// A daemon, what it writes, and its configuration; it is the test's turn while it has one, running or not.
pub struct Service {
    analyzer: Option<Analyzer>,
    pub dir: TempDir,
    _turn: Turn,
}

impl Service {
    /// A daemon that logs to [`Self::log`], further configured by `config`.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// As [`Self::start`], with changes to the command.
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut service = Self {
            analyzer: None,
            dir: tempfile::tempdir().expect("a directory"),
            _turn: Turn::take(),
        };
        service.configure(config);
        service.run(change);
        service
    }

    /// Puts the configuration in place, as a whole: it may be read at any moment. `{dir}` in it is the directory.
    pub fn configure(&self, config: &str) {
        let dir = self.dir.path().to_str().expect("UTF-8");
        let log = if config.contains("[log]") { "" } else { "[log]\n" };
        // The log's own keys come right behind its table's name.
        let config = format!("runtime_dir = \"{dir}/run\"\n{log}{config}")
            .replace("[log]\n", "[log]\npath = \"{dir}/log/events.jsonl\"\n")
            .replace("{dir}", dir);
        let (new, place) = (self.dir.path().join("config.new"), self.dir.path().join("config.toml"));
        fs::write(&new, config).expect("written");
        fs::rename(new, place).expect("renamed");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.args(["daemon", "--verbose", "--config"]);
        command.arg(self.dir.path().join("config.toml"));
        command
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    pub fn run(&mut self, change: impl FnOnce(&mut Command)) {
        let mut command = self.command();
        change(&mut command);
        self.analyzer = Some(Analyzer::start_another(command));
    }

    /// Waits until `text` is in the daemon's stderr.
    pub fn wait_for_said(&mut self, text: &str) {
        let analyzer = self.analyzer.as_mut().expect("running");
        until(text, || analyzer.said().contains(text));
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&mut self) -> Vec<String> {
        self.analyzer.as_mut().expect("running").so_far().to_vec()
    }

    /// One more, which cannot start while this one runs.
    pub fn second(&self) -> crate::Output {
        crate::run_to_end(&mut self.command())
    }

    pub fn pid(&self) -> u32 {
        self.analyzer.as_ref().expect("running").pid()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }

    /// SIGTERM, and what was on its outputs.
    pub fn stop(&mut self) -> Ended {
        let ended = self.analyzer.take().expect("running").stop_by(libc::SIGTERM);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended
    }

    /// kill -9.
    pub fn kill(&mut self) -> Ended {
        self.analyzer.take().expect("running").stop_by(libc::SIGKILL)
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log/events.jsonl")
    }

    /// The text of all log files, the oldest first.
    pub fn text(&self) -> String {
        if !self.log().parent().expect("a directory").exists() {
            return String::new();
        }
        loop {
            // A file that was listed may be removed, to make room, before it is read.
            if let Some(text) = self.text_if_all_exist() {
                return text;
            }
        }
    }

    fn text_if_all_exist(&self) -> Option<String> {
        let mut text = Vec::new();
        for file in logfile::files(&self.log()).expect("the log's files") {
            let path = file.path.clone();
            let mut lines = match file.lines() {
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                lines => lines.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            };
            while let Some(line) = lines.next_line().expect("it can be read") {
                text.extend_from_slice(line);
            }
        }
        Some(String::from_utf8(text).expect("UTF-8"))
    }

    /// All whole records of the log, each of which must fit the schema.
    pub fn records(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines
            .map(|line| {
                let record = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
                fits_schema(&record);
                record
            })
            .collect()
    }

    /// The records of one kind.
    pub fn of_kind(&self, action: &str) -> Vec<Value> {
        let mut records = self.records();
        records.retain(|record| record["event"]["action"] == action);
        records
    }

    /// Waits until `enough` of the log's records.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut records = Vec::new();
        until(what, || {
            records = self.records();
            enough(&records)
        });
        records
    }

    /// The text of `/metrics` on `port`.
    pub fn scrape(&self, port: u16) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("metrics");
        stream.set_read_timeout(Some(patience())).expect("time-out");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.to_owned()
    }
}

/// A lab with an IMDS in it.
pub fn lab_with_imds() -> (Lab, Server) {
    let lab = Lab::local().expect("lab");
    let server = serve(&lab);
    (lab, server)
}

/// One v1 call by curl; returns its pid.
pub fn curl(lab: &Lab, path: &str) -> u32 {
    let mut child = lab
        .client
        .command("curl")
        .args(["-sm10", "-o", "/dev/null"])
        .arg(format!("http://169.254.169.254{path}"))
        .spawn()
        .expect("curl");
    assert!(crate::wait(&mut child).success());
    child.id()
}

/// `count` v1 calls by this very process, on one connection.
pub fn send(lab: &Lab, path: &str, count: usize) {
    let mut stream = connect(&lab.client, IMDS_V4);
    for _ in 0..count {
        stream.write_all(get(path).as_bytes()).expect("write");
        read_response(&mut stream);
    }
}

/// How many of the records are of requests for `path`.
pub fn of_path(records: &[Value], path: &str) -> usize {
    let of_path = |record: &&Value| record["event"]["action"] == "imds-request" && record["url"]["path"] == path;
    records.iter().filter(of_path).count()
}

/// Waits until it is so, on the emulated CPU of a guest for longer.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The sum of all samples of a metric whose labels hold all of `labels`.
pub fn sample(text: &str, name: &str, labels: &[&str]) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, of_series) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.iter().all(|label| of_series.contains(label))).then(|| value.parse::<f64>().ok())?
    });
    samples.sum::<f64>() as u64
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}
