//! Where a head ends and the next one begins: bodies, requests smuggled in them, and bytes that are not HTTP.
//!
//! guests: oldest send-tap packets

use std::io::Write;

use imds_analyzer_tests::{Case, Stage, brief, case, check, get, get_with_token, of_port, port, put_token};

const INSIDE: &str = "GET /latest/meta-data/iam/security-credentials/inside HTTP/1.1\r\n\r\n";
const FOUND: &str = "unknown/framing GET /latest/meta-data/iam/security-credentials/inside credential";
const NEXT: &str = "GET /latest/meta-data/mac HTTP/1.1\r\n\r\n";
const NEXT_BRIEF: &str = "v1 GET /latest/meta-data/mac network";

/// A request with `headers` and `body`, and one behind it.
fn with_body(method: &str, headers: &str, body: &str) -> String {
    format!("{method} /latest/user-data HTTP/1.1\r\n{headers}\r\n{body}{NEXT}")
}

fn length(body: &str) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

#[test]
fn nothing_is_smuggled_in_a_body() {
    let outer = |method: &str| format!("v1 {method} /latest/user-data user-data");
    let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let encoding = "Transfer-Encoding: chunked\r\n";
    let one_byte_pieces = |text: String| text.bytes().map(|byte| vec![byte]).collect();
    check(&[
        case(
            "GET with a body",
            with_body("GET", &length(INSIDE), INSIDE),
            &[&outer("GET"), FOUND, NEXT_BRIEF],
        ),
        Case {
            pieces: one_byte_pieces(with_body("GET", &length(INSIDE), INSIDE)),
            ..case("the same, byte by byte", "", &[&outer("GET"), FOUND, NEXT_BRIEF])
        },
        case(
            "HEAD with a body",
            with_body("HEAD", &length(INSIDE), INSIDE),
            &[&outer("HEAD"), FOUND, NEXT_BRIEF],
        ),
        case(
            "PUT with a body",
            with_body("PUT", &length(INSIDE), INSIDE),
            &[&outer("PUT"), FOUND, NEXT_BRIEF],
        ),
        case(
            "a length behind a blank",
            with_body("POST", &length(INSIDE).replace(':', "\t:"), INSIDE),
            &[&outer("POST"), FOUND, NEXT_BRIEF],
        ),
        case(
            "a request in the place of a chunk",
            with_body("PUT", encoding, INSIDE),
            &[&outer("PUT"), &FOUND.replace("unknown/framing", "v1"), NEXT_BRIEF],
        ),
        case(
            "chunked",
            with_body("PUT", encoding, &chunked("abc")),
            &[&outer("PUT"), NEXT_BRIEF],
        ),
        case(
            "chunked, a head inside",
            with_body("PUT", encoding, &chunked(INSIDE)),
            &[&outer("PUT"), FOUND, NEXT_BRIEF],
        ),
        case(
            "chunked and with a length",
            with_body("PUT", &format!("{encoding}Content-Length: 3\r\n"), &chunked(INSIDE)),
            &[&outer("PUT"), FOUND, NEXT_BRIEF],
        ),
    ]);
}

/// Nobody can tell where the body ends: requests in it and behind it are reported as unknown.
#[test]
fn two_lengths_are_no_length() {
    let twice = "Content-Length: 5\r\nContent-Length: 70\r\n";
    check(&[
        case(
            "double Content-Length",
            with_body("PUT", twice, INSIDE),
            &["v1 PUT /latest/user-data user-data", FOUND, NEXT_BRIEF],
        ),
        case(
            "invalid Content-Length",
            with_body("PUT", "Content-Length: +5\r\n", INSIDE),
            &["v1 PUT /latest/user-data user-data", FOUND, NEXT_BRIEF],
        ),
    ]);
}

#[test]
fn old_and_odd_http() {
    check(&[
        case(
            "HTTP/0.9",
            "GET /latest/user-data\r\n",
            &["v1 GET /latest/user-data user-data"],
        ),
        case(
            "HTTP/1.0",
            "GET /latest/user-data HTTP/1.0\r\n\r\n",
            &["v1 GET /latest/user-data user-data"],
        ),
        case(
            "bare LF",
            get_with_token("/", "t").replace('\r', "") + &get("/").replace('\r', ""),
            &["v2 GET / root", "v1 GET / root"],
        ),
        case("empty lines first", format!("\r\n\r\n{NEXT}"), &[NEXT_BRIEF]),
        case(
            "space before the colon",
            "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token : t\r\n\r\n",
            &["unknown/malformed GET / root"],
        ),
        case(
            "space before the colon, no token",
            "GET / HTTP/1.1\r\nHost : imds\r\n\r\n",
            &["v1 GET / root"],
        ),
        case(
            "stray CRs",
            "GET /latest/\r HTTP/1.1\r\r\nHost: imds\r\r\n\r\r\n",
            &["v1 GET /latest/ plain"],
        ),
        case(
            "absolute form",
            "GET http://169.254.169.254/latest/user-data HTTP/1.1\r\n\r\n",
            &["v1 GET http://169.254.169.254/latest/user-data user-data"],
        ),
        case(
            "five pipelined requests of mixed versions",
            [
                get("/"),
                get_with_token("/", "t"),
                get("/latest/user-data"),
                get_with_token("/x", "t"),
                NEXT.to_owned(),
            ]
            .concat(),
            &[
                "v1 GET / root",
                "v2 GET / root",
                "v1 GET /latest/user-data user-data",
                "v2 GET /x not-imds",
                NEXT_BRIEF,
            ],
        ),
    ]);
}

#[test]
fn what_is_no_http_is_unknown() {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..500).map(|i| (i * 37) as u8));
    check(&[
        case(
            "binary",
            (0..=255).collect::<Vec<u8>>(),
            &["unknown/not-http - - not-imds"],
        ),
        case("TLS ClientHello", hello, &["unknown/not-http - - not-imds"]),
        case(
            "invalid UTF-8 in the target",
            b"GET /latest/\xff\xfe HTTP/1.1\r\n\r\n".to_vec(),
            &["v1 GET /latest/\u{fffd}\u{fffd} plain"],
        ),
        case(
            "invalid UTF-8 in a header",
            b"GET / HTTP/1.1\r\nUser-Agent: \xff\xfe\r\n\r\n".to_vec(),
            &["v1 GET / root"],
        ),
        case(
            "HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            // The bytes behind the empty line count as a request of their own.
            &["unknown/not-http - - not-imds", "unknown/not-http - - not-imds"],
        ),
        case(
            "a header without colon",
            "GET / HTTP/1.1\r\nbroken\r\n\r\n",
            &["v1 GET / root"],
        ),
        case("nothing", "", &[]),
        case("closed in the method", "GE", &["unknown/closed - - not-imds"]),
        case(
            "closed in the headers",
            "GET /latest/user-data HTTP/1.1\r\nHost: imds\r\n",
            &["unknown/closed GET /latest/user-data user-data"],
        ),
        case(
            "closed behind a token header",
            "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n",
            &["unknown/closed GET / root"],
        ),
        case(
            "closed in the second head",
            get("/") + "GET / HTTP/1.1\r\n",
            &["v1 GET / root", "unknown/closed GET / root"],
        ),
    ]);
}

const UNFINISHED: &str = "GET /latest/user-data HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n";

/// The peer resets: the client sends no packet, the head ends with the socket.
#[test]
fn a_head_cut_by_a_reset_is_unknown() {
    let Stage {
        mut analyzer,
        lab,
        server,
        ..
    } = Stage::local().by_process().shared();
    let mut stream = imds_analyzer_tests::connect(&lab.client, imds_analyzer_tests::IMDS_V4);
    let port = port(&stream);
    put_token(&mut stream);
    stream.write_all(UNFINISHED.as_bytes()).expect("write");
    // The server may have read the head or not. It closes, and the client's next byte meets a reset.
    drop(server);
    while stream.write_all(b"a").is_ok() {}
    drop(stream);
    analyzer.wait_or_go_on(|records| of_port(records, port).len() == 2);
    let records = of_port(&analyzer.records(), port);
    assert_eq!(records.len(), 2, "{records:#?}");
    assert_eq!(brief(&records[1]), "unknown/closed GET /latest/user-data user-data");
}

/// A head that is unfinished when the analyzer ends is in its output.
#[test]
fn a_head_unfinished_at_the_end_is_unknown() {
    let stage = Stage::local().by_process().watch(&[]);
    let mut stream = stage.connect();
    let port = port(&stream);
    stream.write_all(UNFINISHED.as_bytes()).expect("write");
    let records = of_port(&stage.analyzer.stop().requests(), port);
    let seen: Vec<_> = records.iter().map(brief).collect();
    assert_eq!(seen, ["unknown/unfinished GET /latest/user-data user-data"]);
}

#[test]
#[ignore = "takes 30 s"]
fn an_endless_head_times_out_once() {
    let mut stage = Stage::local().by_process().watch(&[]);
    let mut stream = stage.connect();
    let port = port(&stream);
    stream.write_all(UNFINISHED.as_bytes()).expect("write");
    let second = stage.connect();
    let begun = std::time::Instant::now();
    // One wait has a deadline of 20 s.
    stage.analyzer.wait_or_go_on(|_| begun.elapsed().as_secs() >= 30);
    while begun.elapsed().as_secs() < 28 {
        stage
            .analyzer
            .wait_or_go_on(|records| !of_port(records, port).is_empty());
    }
    stage.analyzer.wait_for(|records| !of_port(records, port).is_empty());
    assert!(begun.elapsed().as_secs() >= 29, "too early");
    // The end of the head comes late and makes no second record; the next request is judged as ever.
    stream.write_all(format!("\r\n{NEXT}").as_bytes()).expect("write");
    drop(second);
    let records = stage.expect(port, 2);
    let seen: Vec<_> = records.iter().map(brief).collect();
    assert_eq!(seen, ["unknown/timeout GET /latest/user-data user-data", NEXT_BRIEF]);
}
