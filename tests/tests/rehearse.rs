//! `rehearse`: v1 calls of chosen callers get 401 in place of IMDS's answer, everything else is as it was, and it undoes
//! itself. Each test refuses calls of one user id alone: other processes of this machine keep their answers.
//!
//! guests: full modern

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::lab::{Lab, Server};
use imds_analyzer_tests::{
    Analyzer, Ended, IMDS_V4, PYTHON, binary, cgroup2, fits_schema, get_with_token, imds_analyzer, output,
    programs_in_the_kernel, run, run_to_end, serve, slowness, until,
};
use serde_json::Value;

/// How long an answer may take.
const SOON: Duration = Duration::from_millis(100);

/// A lab beyond a link, as on EC2, a user id that no other process has, and an analyzer that refuses its calls.
struct Rehearsal {
    analyzer: Analyzer,
    lab: Lab,
    server: Server,
    uid: u32,
}

fn new_uid() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    61_000_000 + std::process::id() % 100_000 * 100 + COUNT.fetch_add(1, Ordering::Relaxed)
}

fn command(uid: u32, duration: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args([
            "rehearse",
            "--format",
            "json",
            "--for",
            duration,
            "--uid",
            &uid.to_string(),
        ])
        .args(args);
    command
}

impl Rehearsal {
    fn start(args: &[&str]) -> Self {
        Self::in_lab(Lab::routed().expect("lab"), "60s", args)
    }

    fn in_lab(lab: Lab, duration: &str, args: &[&str]) -> Self {
        let uid = new_uid();
        Self {
            analyzer: Analyzer::start(command(uid, duration, args)),
            server: serve(&lab),
            lab,
            uid,
        }
    }

    /// A command of the chosen user inside the lab.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.lab.client.command("setpriv");
        command
            .args([&format!("--reuid={}", self.uid), "--clear-groups", program])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Status of a call by curl.
    fn curl(&self, args: &[&str]) -> u16 {
        status(&mut self.command("curl", &[&CURL, args].concat()))
    }

    /// Runs a script of the chosen user, which must succeed, and returns what it prints.
    fn python(&self, script: &str) -> String {
        let script = format!("{PRELUDE}{script}");
        let output = output(self.command(PYTHON, &["-c", &script]));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Ends it, and returns its result.
    fn end(self) -> (Value, Vec<Value>) {
        let ended = self.analyzer.stop();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        let records = ended.requests();
        records.iter().for_each(fits_schema);
        let mut durations = Vec::new();
        for record in &records {
            assert_eq!(record["imds"]["rehearsed"], true, "{record:#}");
            assert_eq!(record["http"]["response"]["status_code"], 401);
            let nanoseconds = record["event"]["duration"].as_u64().expect("a duration");
            durations.push(Duration::from_nanos(nanoseconds));
        }
        durations.sort();
        let (median, longest) = (durations.get(durations.len() / 2), durations.last());
        assert!(median <= Some(&SOON), "{durations:?}");
        assert!(longest <= Some(&(SOON * slowness())), "{durations:?}");
        (outcome(&ended), records)
    }

    /// The connections to IMDS on both sides, except those that only wait for the time of old packets to pass.
    fn connections(&self) -> String {
        const LISTEN: &str = "0A";
        const TIME_WAIT: &str = "06";
        let read = || {
            let [v4, v6] = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
            // Without IPv6, the kernel has no list for it.
            v4.expect("connections") + &v6.unwrap_or_default()
        };
        let sides = [&self.lab.client, &self.lab.server].map(|side| side.run(read).expect("namespace"));
        let of_imds = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            // sl, local address, remote address, state; port 80 is 0050.
            words.len() > 3
                && words[1..3].iter().any(|address| address.ends_with(":0050"))
                && ![LISTEN, TIME_WAIT].contains(&words[3])
        };
        sides
            .concat()
            .lines()
            .filter(of_imds)
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Waits two seconds at most until no connection is left.
    fn nothing_is_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let left = self.connections();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "connections are left:\n{left}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn outcome(ended: &Ended) -> Value {
    let notices = ended.of_kind("imds-analyzer-rehearsal");
    notices.iter().for_each(fits_schema);
    notices.last().unwrap_or_else(|| panic!("no result: {ended:#?}"))["imds"]["rehearsal"].clone()
}

const URL: &str = "http://169.254.169.254/latest/meta-data/";
const CURL: [&str; 7] = ["-sm10", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"];

fn status(command: &mut Command) -> u16 {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{command:?}: {output:?}"))
}

/// For scripts: a connection, a call on it, and its status; urllib's view of a call.
const PRELUDE: &str = r#"
import os, socket, struct, sys, time, urllib.request, urllib.error
def connect():
    return socket.create_connection(("169.254.169.254", 80), timeout=10)
def answer(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte: return head, "closed"
        head += byte
    left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while left > 0:
        left -= len(connection.recv(left))
    return int(head.split()[1])
V1 = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\n\r\n"
V2 = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\nX-aws-ec2-metadata-token: %s\r\n\r\n"
def get(headers={}, method="GET", path="/latest/meta-data/"):
    request = urllib.request.Request("http://169.254.169.254" + path, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
def token():
    return get({"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT", "/latest/api/token")[1]
"#;

#[test]
fn refused_with_401_by_every_client_and_never_seen_by_imds() {
    let rehearsal = Rehearsal::start(&[]);
    assert_eq!(rehearsal.curl(&[URL]), 401);
    assert_eq!(rehearsal.python("print(get()[0])"), "401");
    let wget = rehearsal
        .command("wget", &["-qSO", "-", "--tries=1", "-T10", URL])
        .output()
        .expect("wget");
    assert!(String::from_utf8_lossy(&wget.stderr).contains("401"), "{wget:?}");
    // Other users are left alone.
    assert_eq!(status(rehearsal.lab.client.command("curl").args(CURL).arg(URL)), 200);
    rehearsal.nothing_is_left();
    assert_eq!(rehearsal.server.answered().without_token, 1);
    let (outcome, records) = rehearsal.end();
    assert_eq!((records.len(), &outcome["refused"]), (3, &3.into()), "{outcome:#}");
}

#[test]
fn v2_of_the_same_program_is_untouched() {
    let rehearsal = Rehearsal::start(&[]);
    let script = "t = token(); print(get({'X-aws-ec2-metadata-token': t})[0], get()[0])";
    assert_eq!(rehearsal.python(script), "200 401");
    let answered = rehearsal.server.answered();
    assert_eq!(
        (answered.token_requests, answered.with_token, answered.without_token),
        (1, 1, 0)
    );
    rehearsal.end();
}

#[test]
fn a_program_that_turns_to_v2_is_shown_as_such() {
    let rehearsal = Rehearsal::start(&[]);
    let script = "a = get()[0]; b = get()[0]; t = token(); print(a, b, get({'X-aws-ec2-metadata-token': t})[0])";
    assert_eq!(rehearsal.python(script), "401 401 200");
    assert_eq!(rehearsal.curl(&[URL]), 401);
    let (outcome, _) = rehearsal.end();
    let callers = outcome["callers"].as_array().expect("callers");
    let of = |name: &str| {
        let is = |caller: &&Value| caller["caller"].as_str().is_some_and(|caller| caller.contains(name));
        callers
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("no {name}: {outcome:#}"))
    };
    let python = of("python");
    assert_eq!(
        (&python["refused"], &python["tried_again"], &python["fell_back"]),
        (&2.into(), &1.into(), &1.into())
    );
    let curl = of("curl");
    assert_eq!(
        (&curl["refused"], &curl["fell_back"], &curl["exited"]),
        (&1.into(), &0.into(), &1.into())
    );
}

#[test]
fn on_one_connection_v2_is_answered_and_then_v1_refused() {
    let rehearsal = Rehearsal::start(&[]);
    let script = r#"
t = token().encode()
c = connect()
c.sendall(V2 % t)
first = answer(c)
c.sendall(V1)
print(first, answer(c), c.recv(10))
"#;
    assert_eq!(rehearsal.python(script), "200 401 b''");
    rehearsal.nothing_is_left();
    rehearsal.end();
}

#[test]
fn a_head_in_three_packets() {
    let rehearsal = Rehearsal::start(&[]);
    let script = r#"
c = connect()
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for piece in V1[:7], V1[7:-2], V1[-2:]:
    c.sendall(piece)
    time.sleep(0.05)
print(answer(c), c.recv(10))
"#;
    assert_eq!(rehearsal.python(script), "401 b''");
    rehearsal.nothing_is_left();
    rehearsal.end();
}

/// The caller keeps the connection open: it is reset after a second.
#[test]
fn a_connection_that_stays_open_is_reset() {
    let rehearsal = Rehearsal::start(&[]);
    let script = r#"
c = connect()
c.sendall(V1)
status = answer(c)
end = c.recv(10)
state = lambda: c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
deadline = time.monotonic() + 5
while state() != 7 and time.monotonic() < deadline:
    time.sleep(0.02)
print(status, end, state())
"#;
    // TCP_CLOSE.
    assert_eq!(rehearsal.python(script), "401 b'' 7");
    assert_eq!(rehearsal.connections(), "");
    rehearsal.end();
}

#[test]
fn over_ipv6() {
    let rehearsal = Rehearsal::start(&[]);
    if !rehearsal.lab.has_ipv6() {
        return;
    }
    assert_eq!(rehearsal.curl(&["-g", "http://[fd00:ec2::254]/latest/meta-data/"]), 401);
    rehearsal.nothing_is_left();
    let (_, records) = rehearsal.end();
    assert_eq!(records[0]["imds"]["endpoint"], "ipv6");
}

#[test]
fn half_of_two_hundred_calls() {
    let rehearsal = Rehearsal::start(&["--percent", "50"]);
    let script = "results = [get()[0] for _ in range(200)]; print(results.count(401), results.count(200))";
    let counts = rehearsal.python(script);
    let counts: Vec<u32> = counts
        .split(' ')
        .map(|count| count.parse().expect("a number"))
        .collect();
    let (outcome, records) = rehearsal.end();
    assert_eq!(counts[0] + counts[1], 200);
    // Seven standard deviations to either side.
    assert!((50..=150).contains(&counts[0]), "{counts:?}: {outcome:#}");
    assert_eq!(
        (records.len() as u32, &outcome["refused"]),
        (counts[0], &counts[0].into())
    );
}

/// An earlier call on the connection is not answered yet: its answer comes first.
#[test]
fn a_pipelined_call_is_refused_after_the_answers_before_it() {
    let lab = Lab::routed().expect("lab");
    let uid = new_uid();
    let analyzer = Analyzer::start(command(uid, "60s", &[]));
    let listener = lab
        .server
        .run(|| TcpListener::bind(IMDS_V4))
        .expect("namespace")
        .expect("a listener");
    let script = format!(
        "{PRELUDE}\nc = connect()\nc.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n\
         c.sendall(V2 % b't')\ntime.sleep(0.1)\nc.sendall(V1)\nprint(answer(c), answer(c), c.recv(10))"
    );
    let mut client = lab.client.command("setpriv");
    client
        .args([&format!("--reuid={uid}"), "--clear-groups", PYTHON, "-c", &script])
        .stdout(Stdio::piped());
    let client = client.spawn().expect("a client");
    let (mut server, _) = listener.accept().expect("a connection");
    server
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("time-out");
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    // Until nothing comes any more: the v1 call must not.
    while let Ok(count @ 1..) = server.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..count]);
    }
    assert_eq!(
        String::from_utf8_lossy(&seen),
        get_with_token("/latest/meta-data/", "t")
    );
    server
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        .expect("write");
    let output = client.wait_with_output().expect("the client");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "200 401 b''",
        "{output:?}"
    );
    assert_eq!(outcome(&analyzer.stop())["refused"], 1);
}

/// Bytes that a caller sends after a refused call, on the same connection, get no answer and never leave.
#[test]
fn bytes_after_a_refused_call_never_leave() {
    let rehearsal = Rehearsal::start(&[]);
    let script = r#"
results = []
for rest in V1, V2 % b"t", b"x" * 5000:
    c = connect()
    c.sendall(V1 + rest)
    results.append((answer(c), c.recv(10)))
    c = connect()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.sendall(V1)
    c.sendall(rest)
    results.append((answer(c), c.recv(10)))
print(set(results))
"#;
    assert_eq!(rehearsal.python(script), "{(401, b'')}");
    rehearsal.nothing_is_left();
    let answered = rehearsal.server.answered();
    assert_eq!((answered.without_token, answered.with_token), (0, 0));
    let (outcome, _) = rehearsal.end();
    assert_eq!(
        (&outcome["refused"], &outcome["unanswered"]),
        (&6.into(), &0.into()),
        "{outcome:#}"
    );
    assert_eq!(outcome["let_through"], serde_json::json!({}), "{outcome:#}");
}

/// A packet can only be kept back as a whole: a v2 call in it must arrive.
#[test]
fn a_call_in_one_packet_with_v2_passes() {
    let rehearsal = Rehearsal::start(&[]);
    let script = "t = token().encode(); c = connect(); c.sendall(V2 % t + V1); print(answer(c), answer(c))";
    let printed = rehearsal.python(script);
    assert!(printed.starts_with("200 200"), "{printed}");
    let (outcome, _) = rehearsal.end();
    assert_eq!(outcome["let_through"]["shared-packet"], 1, "{outcome:#}");
}

#[test]
fn calls_that_cannot_be_answered_pass() {
    let rehearsal = Rehearsal::start(&[]);
    // The answer would come from another device.
    assert_eq!(rehearsal.curl(&["--interface", "imds0", URL]), 200);
    run(
        &rehearsal.lab.client,
        "nft",
        &["add table ip t; \
           add chain ip t o { type nat hook output priority -100; }; \
           add rule ip t o ip daddr 169.254.169.254 tcp dport 80 tcp sport 40000-40009 dnat to 169.254.169.254:8080"],
    );
    let listener = rehearsal
        .lab
        .server
        .run(|| TcpListener::bind("169.254.169.254:8080"))
        .expect("namespace")
        .expect("a listener");
    let rewritten = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).expect("a call");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .expect("write");
        count
    });
    assert_eq!(rehearsal.curl(&["--local-port", "40000-40009", URL]), 200);
    assert!(rewritten.join().expect("the other server") > 0);
    // Bytes that leave with the SYN; a server that ignores them gets them once more.
    let script = r#"
c = socket.socket()
c.settimeout(10)
TCP_FASTOPEN_NO_COOKIE = 34
c.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
c.sendto(V1, socket.MSG_FASTOPEN, ("169.254.169.254", 80))
print(answer(c))
"#;
    assert_eq!(rehearsal.python(script), "200");
    let (outcome, _) = rehearsal.end();
    assert_eq!(outcome["refused"], 0);
    assert_eq!(outcome["let_through"]["fast-open"], 1, "{outcome:#}");
    assert_eq!(outcome["let_through"]["device"], 1, "{outcome:#}");
    assert_eq!(outcome["let_through"]["rewritten"], 1, "{outcome:#}");
}

#[test]
fn local_calls_and_other_clouds_are_never_refused() {
    let rehearsal = Rehearsal::in_lab(Lab::local().expect("lab"), "60s", &[]);
    assert_eq!(rehearsal.curl(&[URL]), 200);
    let (outcome, _) = rehearsal.end();
    assert_eq!(outcome["refused"], 0);

    let rehearsal = Rehearsal::start(&[]);
    assert_eq!(rehearsal.curl(&["http://169.254.169.254/computeMetadata/v1/"]), 404);
    let (outcome, _) = rehearsal.end();
    assert_eq!(outcome["refused"], 0);
}

#[test]
fn a_dry_run_changes_nothing_and_says_whose_calls_it_would_refuse() {
    let rehearsal = Rehearsal::start(&["--dry-run"]);
    assert_eq!(rehearsal.curl(&[URL]), 200);
    let ended = rehearsal.analyzer.stop();
    let outcome = outcome(&ended);
    assert_eq!(
        (&outcome["dry_run"], &outcome["refused"]),
        (&true.into(), &1.into()),
        "{outcome:#}"
    );
    let records = ended.requests();
    assert_eq!(records[0]["http"]["response"]["status_code"], 200);
    assert!(records[0]["imds"]["rehearsed"].is_null());
}

#[test]
fn by_name() {
    let lab = Lab::routed().expect("lab");
    let _server = serve(&lab);
    let directory = tempfile::tempdir().expect("a directory");
    // A name that no other process has.
    let name = format!("c{}", std::process::id());
    let program = directory.path().join(&name);
    let curl = output({
        let mut which = Command::new("sh");
        which.args(["-c", "command -v curl"]);
        which
    });
    let curl = String::from_utf8(curl.stdout).expect("text");
    fs::copy(curl.trim(), &program).expect("copied");
    let analyzer = by(&["--comm", &name]);
    let call = |program: &str| status(lab.client.command(program).args(CURL).arg(URL));
    assert_eq!(call(&program.to_string_lossy()), 401);
    assert_eq!(call("curl"), 200);
    assert_eq!(outcome(&analyzer.stop())["refused"], 1);
}

/// Calls until one is refused. The rest of this machine's processes keep their answers meanwhile.
fn refused_soon(mut call: impl FnMut() -> u16) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while call() != 401 {
        assert!(Instant::now() < deadline, "it is not refused");
    }
}

/// The unit starts after the rehearsal.
#[test]
fn by_unit() {
    let lab = Lab::routed().expect("lab");
    let _server = serve(&lab);
    let unit = format!("rehearsed-{}", std::process::id());
    let analyzer = by(&["--unit", &unit]);
    let cgroup = format!("{}/{unit}.service", cgroup2().expect("cgroup2"));
    fs::create_dir(&cgroup).expect("a cgroup");
    let script = format!("echo $$ >{cgroup}/cgroup.procs && exec curl {} {URL}", CURL.join(" "));
    refused_soon(|| status(lab.client.command("sh").args(["-fc", &script])));
    assert_eq!(status(lab.client.command("curl").args(CURL).arg(URL)), 200);
    until("the cgroup is empty", || fs::remove_dir(&cgroup).is_ok());
    assert!(outcome(&analyzer.stop())["refused"].as_u64() >= Some(1));
}

/// The first call of a unit that starts after the rehearsal, as systemd starts it: the cgroup is there before the
/// process, and a program that lives a few milliseconds is refused as well.
#[test]
fn the_first_call_of_a_unit_is_refused() {
    const UNITS: usize = 10;
    let lab = Lab::routed().expect("lab");
    let _server = serve(&lab);
    let unit = format!("rehearsed-{}@", std::process::id());
    let units: Vec<String> = (0..UNITS).map(|number| format!("{unit}{number}")).collect();
    let selectors: Vec<&str> = units.iter().flat_map(|unit| ["--unit", unit]).collect();
    let analyzer = by(&selectors);
    let slice = format!("{}/rehearsed.slice", cgroup2().expect("cgroup2"));
    fs::create_dir_all(&slice).expect("a slice");
    let mut refused = 0;
    for unit in &units {
        let cgroup = format!("{slice}/{unit}.service");
        fs::create_dir(&cgroup).expect("a cgroup");
        let script = format!("echo $$ >{cgroup}/cgroup.procs && exec curl {} {URL}", CURL.join(" "));
        refused += usize::from(status(lab.client.command("sh").args(["-fc", &script])) == 401);
        until("the cgroup is empty", || fs::remove_dir(&cgroup).is_ok());
    }
    until("the slice is empty", || fs::remove_dir(&slice).is_ok());
    let outcome = outcome(&analyzer.stop());
    // What passes is not hidden.
    let passed = outcome["let_through"]["not-in-time"].as_u64().unwrap_or(0) as usize;
    assert_eq!(refused + passed, UNITS, "{outcome:#}");
    // If the analyzer looked only now and then, nearly all of them would pass.
    assert!(passed * 2 < UNITS, "{outcome:#}");
}

#[test]
fn by_caller() {
    let lab = Lab::routed().expect("lab");
    let server = serve(&lab);
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("calls.py");
    fs::write(
        &script,
        format!("{PRELUDE}for _ in range(200):\n    if get()[0] == 401: break\nprint(get()[0])"),
    )
    .expect("written");
    // The key of a caller, as records have it.
    let mut watch = Command::new(binary());
    watch.args(["watch", "--format", "json", "--comm", "python3", "--kernel-rate", "0"]);
    let mut analyzer = Analyzer::start(watch);
    let call = || {
        let mut command = lab.client.command(PYTHON);
        command.arg(&script);
        status(&mut command)
    };
    call();
    let is_ours = |record: &&Value| record["process"]["args"].to_string().contains("calls.py");
    let records = analyzer.wait_for(|records| records.iter().any(|record| is_ours(&record)));
    let caller = records.iter().find(is_ours).expect("ours")["imds"]["caller"].clone();
    drop(analyzer);
    let analyzer = by(&["--caller", caller.as_str().expect("a caller")]);
    // The first calls of a process may pass, which is counted.
    let before = server.answered().without_token;
    assert_eq!(call(), 401);
    let passed = server.answered().without_token - before;
    assert_eq!(status(lab.client.command("curl").args(CURL).arg(URL)), 200);
    let outcome = outcome(&analyzer.stop());
    assert!(outcome["refused"].as_u64() >= Some(1));
    let counted = outcome["let_through"]["not-in-time"].as_u64().unwrap_or(0);
    assert_eq!(counted, passed, "{outcome:#}");
}

/// A rehearsal with selectors that no process of another test matches.
fn by(selectors: &[&str]) -> Analyzer {
    let mut command = Command::new(binary());
    command
        .args(["rehearse", "--format", "json", "--for", "60s"])
        .args(selectors);
    Analyzer::start(command)
}

#[test]
fn what_a_host_depends_on_must_be_named() {
    let ended = imds_analyzer(&["rehearse", "--comm", "sshd", "--for", "1s"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--even sshd"), "{ended:?}");
}

#[test]
fn a_second_one_explains_itself() {
    let rehearsal = Rehearsal::start(&[]);
    let second = run_to_end(&mut command(new_uid(), "1s", &[]));
    assert_eq!(second.code, Some(1), "{second:?}");
    let expected = format!("process {} is already rehearsing", rehearsal.analyzer.pid());
    assert!(second.stderr.contains(&expected), "{second:?}");
    rehearsal.end();
}

/// Calls of the chosen user without pause, for as long as `seconds`; the statuses, each with its time.
const TRAFFIC: &str = r#"
begin = time.monotonic()
while time.monotonic() - begin < float(os.environ["SECONDS"]):
    try:
        c = connect(); c.sendall(V1); print(f"{time.monotonic():.3f} {answer(c)}", flush=True); c.close()
    except OSError as error:
        print(f"{time.monotonic():.3f} {error!r}", flush=True)
    time.sleep(0.01)
"#;

/// Runs [`TRAFFIC`] while `end` ends the rehearsal. Returns the statuses in order, and the longest pause in seconds.
fn traffic(rehearsal: &mut Rehearsal, seconds: u32, end: impl FnOnce(&mut Rehearsal)) -> (Vec<String>, f64) {
    let mut client = rehearsal.command(PYTHON, &["-c", &format!("{PRELUDE}{TRAFFIC}")]);
    client.env("SECONDS", seconds.to_string()).stdout(Stdio::piped());
    let client = client.spawn().expect("a client");
    end(rehearsal);
    let output = client.wait_with_output().expect("the client");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<(f64, String)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(time, status)| (time.parse().expect("a time"), status.to_owned()))
        .collect();
    let pause = lines.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
    (lines.into_iter().map(|(_, status)| status).collect(), pause)
}

/// Refused at first, then answered, and nothing else.
fn turns_from_401_to_200(statuses: &[String]) {
    let first = statuses
        .iter()
        .position(|status| status != "401")
        .expect("an answer in the end");
    assert!(first > 0, "nothing was refused: {statuses:?}");
    assert!(statuses[first..].iter().all(|status| status == "200"), "{statuses:?}");
}

fn wait_for_refusals(rehearsal: &mut Rehearsal) {
    rehearsal.analyzer.wait_for(|records| records.len() >= 5);
}

/// A program that panics dies of SIGABRT.
#[test]
fn a_rehearsal_that_dies_refuses_nothing_any_more() {
    for signal in [libc::SIGKILL, libc::SIGABRT] {
        let mut rehearsal = Rehearsal::start(&[]);
        let (statuses, pause) = traffic(&mut rehearsal, 4, |rehearsal| {
            wait_for_refusals(rehearsal);
            rehearsal.analyzer.signal(signal);
        });
        turns_from_401_to_200(&statuses);
        assert!(pause < 2.0, "a call took {pause} s");
        rehearsal.nothing_is_left();
        let left = programs_in_the_kernel("imds_rehearse");
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A caller that closes its connection before the answer arrives does not end the rehearsal.
#[test]
fn a_caller_that_hangs_up_ends_nothing() {
    let rehearsal = Rehearsal::start(&[]);
    let script = r#"
for number in range(50):
    c = connect()
    # A reset in place of a FIN: nothing arrives at the socket any more.
    if number % 2: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.sendall(V1)
    c.close()
print("done")
"#;
    assert_eq!(rehearsal.python(script), "done");
    // Longer than the analyzer needs to notice that an answer was not received.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(rehearsal.curl(&[URL]), 401);
    rehearsal.nothing_is_left();
    assert_eq!(rehearsal.server.answered().without_token, 0);
    let (outcome, _) = rehearsal.end();
    let count = |name: &str| outcome[name].as_u64().expect("a number");
    assert_eq!(count("refused") + count("unanswered"), 51, "{outcome:#}");
    assert!(count("unanswered") > 0, "{outcome:#}");
    assert!(outcome["ended_early"].is_null(), "{outcome:#}");
}

/// Nobody would know which calls it refuses.
#[test]
fn it_ends_if_records_are_lost() {
    let mut rehearsal = Rehearsal::in_lab(Lab::routed().expect("lab"), "10m", &[]);
    assert_eq!(rehearsal.curl(&[URL]), 401);
    rehearsal.analyzer.signal(libc::SIGSTOP);
    // The promise to answer runs out.
    until("calls pass", || rehearsal.curl(&[URL]) == 200);
    // More than the ring buffer holds: a record of such a call has more than 1 KiB of 2 MiB.
    let script = r#"
c = connect()
v1 = V1.replace(b" HTTP", b"?" + b"x" * 700 + b" HTTP").replace(b"imds", b"imds\r\nUser-Agent: " + b"x" * 300)
statuses = set()
for number in range(2500):
    c.sendall(v1)
    statuses.add(answer(c))
print(statuses)
"#;
    assert_eq!(rehearsal.python(script), "{200}");
    rehearsal.analyzer.signal(libc::SIGCONT);
    let ended = rehearsal.analyzer.wait();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let outcome = outcome(&ended);
    let why = outcome["ended_early"].as_str().expect("a reason");
    assert!(why.contains("records were lost"), "{outcome:#}");
    assert_eq!(status(rehearsal.lab.client.command("curl").args(CURL).arg(URL)), 200);
}

#[test]
fn a_stopped_rehearsal_refuses_nothing_any_more() {
    let mut rehearsal = Rehearsal::start(&[]);
    let (statuses, pause) = traffic(&mut rehearsal, 6, |rehearsal| {
        wait_for_refusals(rehearsal);
        rehearsal.analyzer.signal(libc::SIGSTOP);
    });
    turns_from_401_to_200(&statuses);
    // The kernel side waits a second for a sign of life; then TCP sends what was kept back.
    assert!(pause < 4.0, "a call took {pause} s");
    rehearsal.nothing_is_left();
    rehearsal.analyzer.signal(libc::SIGCONT);
}

#[test]
fn it_ends_when_its_time_is_over() {
    let mut rehearsal = Rehearsal::in_lab(Lab::routed().expect("lab"), "4s", &[]);
    let (statuses, pause) = traffic(&mut rehearsal, 6, |_| {});
    turns_from_401_to_200(&statuses);
    assert!(pause < 1.0, "a call took {pause} s");
    rehearsal.nothing_is_left();
    let ended = rehearsal.analyzer.wait();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let refused = statuses.iter().filter(|status| *status == "401").count();
    assert_eq!(outcome(&ended)["refused"], refused);
}

/// Without the answers' way back, it must not begin: it never only drops calls.
#[test]
fn it_does_not_start_where_it_cannot_answer() {
    let mut command = Command::new("setpriv");
    command
        .arg("--bounding-set=-net_raw")
        .arg("--inh-caps=-net_raw")
        .arg(binary())
        .args(["rehearse", "--uid", &new_uid().to_string(), "--for", "5s"]);
    let ended = run_to_end(&mut command);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("CAP_NET_RAW"), "{ended:?}");
}
