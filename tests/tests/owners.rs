//! Connections that several processes or threads write to: each request has its true sender as owner or, if no hook
//! looks at sends, the process that connected.
//!
//! guests: every-hook send-tap packets

#![expect(clippy::print_stderr, reason = "figures and reasons are for whoever reads the log")]

use std::{
    io::Write,
    net::TcpStream,
    os::fd::OwnedFd,
    process::{self, Command, Stdio},
    thread,
};

use imds_analyzer_tests::{Stage, get, of_port, port, read_response, sees_senders, set_option};
use serde_json::Value;

const PATH: &str = "/latest/user-data";

/// The owner of a request that `sender` sent on this process's connection.
fn owner_of(sender: u32) -> u32 {
    if sees_senders() { sender } else { process::id() }
}

/// Starts a process that has the connection as its stdout and writes `request` to it. Returns its id.
fn child_writes(stream: &TcpStream, request: &str) -> u32 {
    let socket = OwnedFd::from(stream.try_clone().expect("dup"));
    let mut child = Command::new("/usr/bin/printf")
        .args(["%b", &request.replace("\r\n", "\\r\\n")])
        .stdout(Stdio::from(socket))
        .spawn()
        .expect("printf");
    assert!(child.wait().expect("our own child").success());
    child.id()
}

#[test]
fn two_processes_write_in_turn_to_one_connection() {
    let mut stage = Stage::local().by_process().shared();
    let mut stream = stage.connect();
    let port = port(&stream);
    let mut expected = Vec::new();
    for i in 0..6 {
        let request = get(&format!("/latest/{i}"));
        let (pid, name) = if i % 2 == 0 {
            stream.write_all(request.as_bytes()).expect("write");
            (process::id(), None)
        } else {
            (child_writes(&stream, &request), Some("printf"))
        };
        assert_eq!(read_response(&mut stream), 404);
        expected.push((format!("v1 GET /latest/{i} plain"), pid, name));
    }
    stage.analyzer.wait_for(|records| of_port(records, port).len() >= 6);
    let records = of_port(&stage.analyzer.records(), port);
    assert_eq!(records.len(), expected.len());
    for (record, (brief, pid, name)) in records.iter().zip(expected) {
        assert_eq!(imds_analyzer_tests::brief(record), brief);
        assert_eq!(record["process"]["pid"], owner_of(pid), "{record:#}");
        if let (Some(name), true) = (name, sees_senders()) {
            assert_eq!(record["process"]["name"], name, "{record:#}");
            assert_eq!(record["process"]["args"][0], "/usr/bin/printf", "{record:#}");
            assert_eq!(record["process"]["parent"]["pid"], process::id(), "{record:#}");
        }
    }
}

/// Lets `count` processes write to one connection before anything leaves. Returns the expected pids, the pids in the
/// records, and the reported losses.
fn corked_by(count: usize) -> (Vec<u32>, Vec<Value>, Vec<String>) {
    let stage = Stage::local().of_all().watch(&[]);
    let stream = stage.connect();
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CORK, 1);
    // The cork gives way after 200 ms, and the answer to the bytes that have left by then must not end the connection.
    let request = get(PATH);
    let pids = (0..count).map(|_| owner_of(child_writes(&stream, &request))).collect();
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CORK, 0);
    let (records, ended) = stage.expect_and_end(port(&stream), count);
    let owners = records.iter().map(|record| record["process"]["pid"].clone()).collect();
    (pids, owners, ended.lost())
}

#[test]
fn corked_bytes_keep_their_senders() {
    let (pids, owners, lost) = corked_by(5);
    assert_eq!(owners, pids);
    assert_eq!(lost, [""; 0]);
}

/// The analyzer remembers a limited number of senders, and counts those that it forgets. It always remembers the
/// process that connected.
#[test]
fn more_senders_than_are_remembered_are_counted() {
    let (pids, owners, lost) = corked_by(12);
    let wrong = pids.iter().zip(&owners).filter(|(pid, owner)| *owner != *pid).count();
    eprintln!("of 12 corked senders {wrong} were forgotten: {lost:?}");
    // The last seven are remembered. If the cork gave way early, fewer have to be.
    assert!(wrong <= 12 - 7, "{owners:?}");
    let expected: &[String] = &[format!("sender_queue: {wrong}")];
    assert_eq!(lost, if wrong > 0 { expected } else { &[] });
}

#[test]
fn the_first_byte_s_sender_owns_a_head_of_two_processes() {
    let stage = Stage::local().by_process().shared();
    let mut stream = stage.connect();
    let pid = child_writes(&stream, "GET /latest/user-data HTTP/1.1\r\n");
    stream.write_all(b"Host: imds\r\n\r\n").expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port(&stream), 1);
    assert_eq!(records[0]["process"]["pid"], owner_of(pid), "{:#}", records[0]);
}

#[test]
fn a_thread_has_its_own_name() {
    let stage = Stage::local().by_process().shared();
    let mut stream = stage.connect();
    let port = port(&stream);
    let thread = thread::Builder::new().name("imds-worker".into()).spawn(move || {
        stream.write_all(get(PATH).as_bytes()).expect("write");
        assert_eq!(read_response(&mut stream), 200);
        // By number, because glibc has a name for it only since 2.30.
        // SAFETY: no arguments.
        unsafe { libc::syscall(libc::SYS_gettid) }
    });
    let id = thread.expect("a thread").join().expect("its end");
    let records = stage.expect(port, 1);
    assert_eq!(records[0]["process"]["pid"], process::id());
    let thread = &records[0]["process"]["thread"];
    assert_eq!(thread["name"] == "imds-worker", sees_senders(), "{thread}");
    assert_eq!(thread["id"] == id, sees_senders(), "{thread}");
}
