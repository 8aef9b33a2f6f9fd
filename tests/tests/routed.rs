//! IMDS behind a cable, as on EC2, and on the host itself: which calls are calls to IMDS, and which fail a pipeline.
//!
//! guests: full
//! not-send-tap: a_rewritten_destination_is_recorded

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, Ended, IMDS_V6, Stage, briefs, connect, exchange, get, get_with_token, port, run, serve,
};
use serde_json::Value;

/// Sends a v2 request on a connection of its own and, if `v1` is true, a v1 request behind it. Returns the analyzer's
/// end and the records.
fn seen(lab: fn() -> anyhow::Result<Lab>, args: &[&str], v1: bool) -> (Ended, Vec<Value>) {
    let stage = Stage::in_lab(lab().expect("lab")).by_process().watch(args);
    let stream = stage.connect();
    let port = port(&stream);
    let mut bytes = get_with_token("/", "t");
    if v1 {
        bytes += &get("/latest/user-data");
    }
    exchange(stream, [bytes.as_bytes()]);
    let (records, ended) = stage.expect_and_end(port, 1 + usize::from(v1));
    (ended, records)
}

fn exit_code(lab: fn() -> anyhow::Result<Lab>, fail_on: &str, v1: bool) -> Option<i32> {
    seen(lab, &["--fail-on", fail_on], v1).0.code
}

#[test]
fn a_call_to_imds_is_not_local() {
    let (ended, records) = seen(Lab::routed, &[], true);
    for record in &records {
        assert_eq!(record["imds"]["local"], false);
        assert_eq!(record["imds"]["netns"], "other");
        assert_eq!(record["source"]["ip"], "10.123.0.1");
        assert!(record["imds"]["packet_destination"].is_null());
    }
    let summary = &ended.of_kind("imds-analyzer-summary")[0]["imds"]["summary"];
    assert_eq!(summary["total"]["v1"], 1);
    assert_eq!(summary["local_total"]["v1"], 0);
}

#[test]
fn a_call_to_the_host_itself_is_local() {
    let (ended, records) = seen(Lab::local, &[], true);
    for record in &records {
        assert_eq!(record["imds"]["local"], true);
        assert_eq!(record["source"]["ip"], "169.254.169.254");
    }
    let summary = &ended.of_kind("imds-analyzer-summary")[0]["imds"]["summary"];
    assert_eq!(summary["total"]["v1"], 0);
    assert_eq!(summary["local_total"]["v1"], 1);
}

#[test]
fn over_ipv6_too() {
    let stage = Stage::in_lab(Lab::routed().expect("lab")).by_process().shared();
    let stream = connect(&stage.lab.client, IMDS_V6);
    let port = port(&stream);
    exchange(stream, [get("/").as_bytes()]);
    let records = stage.expect(port, 1);
    assert_eq!(records[0]["imds"]["local"], false);
    assert_eq!(records[0]["imds"]["endpoint"], "ipv6");
    assert_eq!(records[0]["destination"]["ip"], "fd00:ec2::254");
}

#[test]
fn fail_on_v1() {
    assert_eq!(exit_code(Lab::routed, "v1", true), Some(3));
    assert_eq!(exit_code(Lab::routed, "v1", false), Some(0));
    assert_eq!(exit_code(Lab::routed, "v1-local", true), Some(0));
}

#[test]
fn fail_on_v1_local() {
    assert_eq!(exit_code(Lab::local, "v1", true), Some(0));
    assert_eq!(exit_code(Lab::local, "v1-local", true), Some(3));
    assert_eq!(exit_code(Lab::local, "v1-local", false), Some(0));
}

/// Only the analyzer's own command and the processes that it starts are judged.
#[test]
fn a_command_s_own_calls_fail_it() {
    for (token, code) in [("X-aws-ec2-metadata-token: t", 0), ("A: b", 3)] {
        let lab = Lab::routed().expect("lab");
        let _server = serve(&lab);
        let inside = format!("--net={}", lab.client.path().display());
        let mut command = Command::new(imds_analyzer_tests::binary());
        command
            .args(["watch", "--format", "json", "--fail-on", "v1", "--", "nsenter", &inside])
            .args(["sh", "-c"])
            .arg(format!(
                "curl -s --noproxy '*' -o /dev/null -H '{token}' http://169.254.169.254/latest/user-data & wait"
            ));
        let ended = Analyzer::start(command).wait();
        assert_eq!(ended.code, Some(code), "{ended:#?}");
        let records = ended.requests();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["process"]["name"], "curl");
    }
}

/// The socket's peer counts as the destination; the record also has the destination in the packet.
#[test]
fn a_rewritten_destination_is_recorded() {
    let stage = Stage::in_lab(Lab::routed().expect("lab")).by_process().shared();
    run(
        &stage.lab.client,
        "nft",
        &["add table ip t; \
           add chain ip t o { type nat hook output priority -100; }; \
           add rule ip t o ip daddr 169.254.169.254 tcp dport 80 dnat to 10.123.0.2:8080"],
    );
    let listener = stage
        .lab
        .server
        .run(|| TcpListener::bind("10.123.0.2:8080"))
        .expect("namespace")
        .expect("a listener");
    let mut stream = stage.connect();
    let port = port(&stream);
    stream.write_all(get("/latest/user-data").as_bytes()).expect("write");
    // The request arrived where netfilter sent it.
    let (mut accepted, _) = listener.accept().expect("a connection");
    let mut first = [0; 3];
    accepted.read_exact(&mut first).expect("read");
    assert_eq!(&first, b"GET");
    let records = stage.expect(port, 1);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"]);
    assert_eq!(records[0]["destination"]["ip"], "169.254.169.254");
    assert_eq!(records[0]["destination"]["port"], 80);
    assert_eq!(records[0]["imds"]["packet_destination"]["ip"], "10.123.0.2");
    assert_eq!(records[0]["imds"]["packet_destination"]["port"], 8080);
}
