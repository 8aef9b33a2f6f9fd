//! Requests of every shape, judged by the wire tap: one record each, with the right verdict.

use std::io::Write;

use imds_analyzer::lab::{Lab, Options, Server, Tokens};
use imds_analyzer_tests::{Analyzer, IMDS_V4, connect, read_response, write_in_pieces};
use serde_json::Value;

fn lab() -> (Lab, Server) {
    let lab = Lab::local().expect("lab");
    let server = Server::start(
        &lab.server,
        Options {
            tokens: Tokens::Optional,
        },
    )
    .expect("IMDS");
    (lab, server)
}

fn verdicts(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["imds"]["verdict"].as_str().expect("a verdict"))
        .collect()
}

#[test]
fn a_head_sent_one_byte_at_a_time() {
    let (lab, _server) = lab();
    let mut analyzer = Analyzer::watch(&[]);
    let mut stream = connect(&lab.client, IMDS_V4);
    write_in_pieces(&mut stream, b"GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\n\r\n", 1);
    assert_eq!(read_response(&mut stream), 200);
    let records = analyzer.wait_for_count(1);
    assert_eq!(verdicts(&records), ["v1"]);
    assert_eq!(verdicts(&analyzer.stop().requests()), ["v1"]);
}

#[test]
fn keep_alive_with_alternating_requests() {
    let (lab, _server) = lab();
    let analyzer = Analyzer::watch(&[]);
    let mut stream = connect(&lab.client, IMDS_V4);
    for i in 0..10 {
        let token = if i % 2 == 0 {
            ""
        } else {
            "X-aws-ec2-metadata-token: t\r\n"
        };
        write!(stream, "GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\n{token}\r\n").expect("write");
        let status = read_response(&mut stream);
        assert_eq!(status, if i % 2 == 0 { 200 } else { 401 });
        if status == 401 {
            stream = connect(&lab.client, IMDS_V4);
        }
    }
    assert_eq!(verdicts(&analyzer.stop().requests()), ["v1", "v2"].repeat(5));
}
