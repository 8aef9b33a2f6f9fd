//! Long-lived connections, large ones, lossy ones, and those that are older than the analyzer.
//!
//! guests: quickest packets
//! not-legacy: what_is_left_out_of_a_packet_is_counted_and_said the_owner_of_an_older_connection_without_sender_hooks

use std::{io::Write, net::TcpStream, process, sync::mpsc::channel, thread};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, IMDS_V4, IMDS_V6, Stage, Turn, brief, briefs, connect, exchange, get, get_with_token, of_port,
    owner_of_older, port, put_token, read_response, run, serve, sysctl, verdicts,
};

#[test]
fn ten_requests_on_one_connection() {
    let stage = Stage::local().by_process().watch(&[]);
    let mut stream = stage.connect();
    let token = put_token(&mut stream);
    for i in 0..10 {
        let path = format!("/latest/meta-data/{i}");
        let request = if i % 2 == 0 {
            get(&path)
        } else {
            get_with_token(&path, &token)
        };
        stream.write_all(request.as_bytes()).expect("write");
        assert_eq!(read_response(&mut stream), 404);
    }
    let (records, ended) = stage.expect_and_end(port(&stream), 11);
    let expected: Vec<_> = (0..10)
        .map(|i| format!("{} GET /latest/meta-data/{i} plain", ["v1", "v2"][i % 2]))
        .collect();
    assert_eq!(briefs(&records[1..]), expected);
    assert_eq!(verdicts(&records[..1]), ["v2-token-request"]);
    let owners: Vec<_> = records.iter().map(|record| &record["process"]["pid"]).collect();
    assert_eq!(owners, [process::id(); 11]);
    assert!(!ended.everything().contains(&token));
}

/// Requests of both versions, numbered, of at least `size` bytes together; and their records in short.
fn many(size: usize) -> (String, Vec<String>) {
    let (mut bytes, mut expected) = (String::new(), Vec::new());
    while bytes.len() < size {
        let path = format!("/latest/meta-data/{}", expected.len());
        let version = if expected.len() % 3 == 0 { "v2" } else { "v1" };
        bytes += &if version == "v2" {
            get_with_token(&path, "t")
        } else {
            get(&path)
        };
        expected.push(format!("{version} GET {path} plain"));
    }
    (bytes, expected)
}

fn one_write(lab: fn() -> anyhow::Result<Lab>, size: usize) {
    let stage = Stage::in_lab(lab().expect("lab")).by_process().watch(&[]);
    let (bytes, expected) = many(size);
    let stream = stage.connect();
    let port = port(&stream);
    // A token that is not valid ends the connection for the server, but all of this has left by then.
    exchange(stream, [bytes.as_bytes()]);
    let (records, ended) = stage.expect_and_end(port, expected.len());
    assert_eq!(briefs(&records), expected);
    assert_eq!(ended.lost(), [""; 0]);
}

#[test]
fn a_write_of_64_kib_full_of_requests() {
    one_write(Lab::local, 64 * 1024);
}

/// Over a link with an MTU of 1500: one packet for the tap, segmented below it.
#[test]
fn a_write_of_64_kib_over_a_cable() {
    one_write(Lab::routed, 64 * 1024);
}

/// The smallest requests there are.
#[test]
fn a_write_of_64_kib_full_of_tiny_requests() {
    let stage = Stage::local().by_process().watch(&[]);
    let stream = stage.connect();
    let port = port(&stream);
    let tiny = "HEAD / HTTP/1.1\n\n";
    let count = 64 * 1024 / tiny.len();
    exchange(stream, [tiny.repeat(count).as_bytes()]);
    let (records, ended) = stage.expect_and_end(port, count);
    assert!(verdicts(&records).iter().all(|verdict| *verdict == "v1"));
    assert_eq!(ended.lost(), [""; 0]);
}

/// More heads in one packet than a run of the tap may look at, and more records than the buffer holds: both are
/// counted, and with `--verbose` the kernel side reports them itself.
#[test]
fn what_is_left_out_of_a_packet_is_counted_and_said() {
    let lab = Lab::local().expect("lab");
    sysctl(&lab.server, "tcp_rmem", "4096 4194304 6291456");
    let stage = Stage::in_lab(lab).by_process().watch(&["--verbose"]);
    let mut stream = stage.connect();
    // Packets have half of the largest window at most, and it grows with what is received, up to the buffer's size.
    let body = "x".repeat(400 * 1024);
    let head = format!("PUT /latest/x HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 405);
    // Each head has three bytes and is not HTTP; the server ends the connection at the first.
    let heads = 21_500;
    stream.write_all("A\n\n".repeat(heads).as_bytes()).expect("write");
    let ended = stage.analyzer.stop();
    let count = |kind: &str| {
        let lost = ended.lost();
        let found = lost
            .iter()
            .find_map(|it| it.strip_prefix(kind)?.strip_prefix(": ")?.parse::<usize>().ok());
        found.unwrap_or(0)
    };
    assert!(count("packet_bound") > 0, "{:?}", ended.lost());
    let records = of_port(&ended.requests(), port(&stream));
    let seen = records.len() + count("request_ring_full");
    assert!(seen > 1_000, "{seen}");
    // Whole heads were seen, or their bytes are among those that were not.
    assert!(
        seen * 3 + count("gap_bytes") >= heads * 3,
        "{seen} seen, {:?}",
        ended.lost()
    );
    assert!(
        ended.stderr.contains("more heads than are looked at"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_body_of_100_kib_is_scanned_and_what_follows_is_judged() {
    let stage = Stage::local().by_process().shared();
    let mut stream = stage.connect();
    let body = "no request line in here\r\n".repeat(4096);
    write!(
        stream,
        "PUT /latest/x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("write");
    assert_eq!(read_response(&mut stream), 405);
    stream.write_all(get("/latest/user-data").as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port(&stream), 2);
    assert_eq!(
        briefs(&records),
        ["v1 PUT /latest/x plain", "v1 GET /latest/user-data user-data"]
    );
}

/// Heads of 15 KiB, each many segments; the first ones do not fit into the congestion window.
#[test]
fn small_segments() {
    let stage = Stage::local().by_process().shared();
    run(&stage.lab.client, "ip", &["link", "set", "lo", "mtu", "600"]);
    let mut stream = stage.connect();
    for (i, token) in ["", "X-aws-ec2-metadata-token: t\r\n"].iter().enumerate() {
        let padding = "c=1; ".repeat(3000);
        write!(stream, "GET /{i} HTTP/1.1\r\nCookie: {padding}\r\n{token}\r\n").expect("write");
        assert_eq!(read_response(&mut stream), [404, 401][i]);
    }
    let records = stage.expect(port(&stream), 2);
    assert_eq!(briefs(&records), ["v1 GET /0 not-imds", "v2 GET /1 not-imds"]);
}

/// One packet in five is lost after the tap has seen it, so that the kernel sends it again, alone or with its
/// neighbours.
#[test]
fn what_is_sent_again_is_no_second_request() {
    let stage = Stage::local().by_process().shared();
    run(
        &stage.lab.client,
        "nft",
        &[
            "add table ip t; add chain ip t i { type filter hook input priority 0; }; \
           add rule ip t i tcp dport 80 tcp flags & syn == 0 numgen random mod 5 == 0 counter drop",
        ],
    );
    let token = put_token(&mut stage.connect());
    let mut expected = vec![];
    let mut streams: Vec<TcpStream> = (0..8).map(|_| stage.connect()).collect();
    let ports: Vec<_> = streams.iter().map(port).collect();
    for round in 0..6 {
        for (stream, port) in streams.iter_mut().zip(&ports) {
            let path = format!("/latest/meta-data/{port}/{round}");
            let request = if round % 2 == 0 {
                get(&path)
            } else {
                get_with_token(&path, &token)
            };
            // In small pieces: they are lost one by one and sent again together.
            imds_analyzer_tests::write_in_pieces(stream, request.as_bytes(), 16);
            let verdict = ["v1", "v2"][round % 2];
            expected.push((*port, format!("{verdict} GET {path} plain")));
        }
        for stream in &mut streams {
            read_response(stream);
        }
    }
    let lost = run(&stage.lab.client, "nft", &["list", "table", "ip", "t"]);
    let lost = String::from_utf8(lost.stdout).expect("text");
    assert!(!lost.contains("packets 0 "), "nothing was lost: {lost}");
    let mut analyzer = stage.analyzer;
    // One more record is for the token.
    analyzer.wait_for(|records| records.len() > expected.len());
    let records = analyzer.records();
    assert_eq!(records.len(), expected.len() + 1, "{:#?}", briefs(&records));
    for port in ports {
        let expected: Vec<_> = expected
            .iter()
            .filter(|it| it.0 == port)
            .map(|it| it.1.clone())
            .collect();
        assert_eq!(briefs(&of_port(&records, port)), expected);
    }
}

#[test]
fn both_endpoints_and_the_mapped_one() {
    let stage = Stage::local().by_process().shared();
    assert!(stage.lab.has_ipv6(), "this host has no IPv6");
    for address in [IMDS_V4, IMDS_V6, "[::ffff:169.254.169.254]:80"] {
        let mut stream = connect(&stage.lab.client, address);
        let path = format!("/latest/{}", port(&stream));
        stream.write_all(get(&path).as_bytes()).expect("write");
        assert_eq!(read_response(&mut stream), 404);
    }
    let records = stage.analyzer.records();
    let seen: Vec<_> = records
        .iter()
        .map(|record| {
            let port = record["source"]["port"].as_u64().expect("a port");
            let path = record["url"]["path"].as_str().expect("a path");
            assert!(path.ends_with(&format!("/{port}")), "{record:#}");
            assert_eq!(record["process"]["pid"], process::id());
            (
                record["destination"]["ip"].as_str().expect("an address"),
                record["imds"]["endpoint"].as_str().expect("an endpoint"),
                record["imds"]["verdict"].as_str().expect("a verdict"),
            )
        })
        .collect();
    let v4 = ("169.254.169.254", "ipv4", "v1");
    assert_eq!(seen, [v4, ("fd00:ec2::254", "ipv6", "v1"), v4]);
}

/// Makes a lab and a connection in it, sends `before`, and only then starts the analyzer. Returns the records of the
/// connection.
fn older(args: &[&str], before: &str, after: impl FnOnce(&mut TcpStream)) -> Vec<serde_json::Value> {
    let turn = Turn::take();
    let lab = Lab::local().expect("lab");
    let _server = serve(&lab);
    let mut stream = connect(&lab.client, IMDS_V4);
    stream.write_all(before.as_bytes()).expect("write");
    let (done, wait) = channel::<()>();
    let (inside, is_inside) = channel();
    thread::scope(|scope| {
        let done = done;
        let namespace = &lab.client;
        // sock_diag finds a namespace by the threads in it.
        scope.spawn(move || {
            namespace.run(move || {
                inside.send(()).expect("waited for");
                wait.recv().expect_err("only closed")
            })
        });
        is_inside.recv().expect("a thread inside");
        let analyzer = Analyzer::watch_in(turn, args);
        after(&mut stream);
        drop(done);
        of_port(&analyzer.stop().requests(), port(&stream))
    })
}

#[test]
fn an_idle_connection_is_older_than_the_analyzer() {
    let records = older(&[], "", |stream| {
        stream.write_all(get("/latest/user-data").as_bytes()).expect("write");
        assert_eq!(read_response(stream), 200);
    });
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"]);
    assert_eq!(records[0]["process"]["pid"], process::id());
    assert_eq!(records[0]["imds"]["owner"], owner_of_older());
}

fn joined_mid_head(args: &[&str], owner: &str) {
    let records = older(args, "GET /latest/user-data HTTP/1.1\r\nHo", |stream| {
        for rest in ["st: imds\r\n\r\n".to_owned(), get("/latest/meta-data/mac")] {
            stream.write_all(rest.as_bytes()).expect("write");
            assert_eq!(read_response(stream), 200);
        }
    });
    assert_eq!(
        briefs(&records),
        ["unknown/midstream - - not-imds", "v1 GET /latest/meta-data/mac network"]
    );
    for record in records {
        assert_eq!(record["process"]["pid"], process::id(), "{}", brief(&record));
        assert_eq!(record["imds"]["owner"], owner, "{}", brief(&record));
    }
}

#[test]
fn a_connection_joined_in_the_middle_of_a_head() {
    joined_mid_head(&[], &owner_of_older());
}

#[test]
fn the_owner_of_an_older_connection_without_sender_hooks() {
    joined_mid_head(&["--owner", "connect"], "sock_diag");
}
