//! What came back: the status of each request, why a call had no token, and connections without a request.
//!
//! guests: quickest
//! not-legacy: each_request_has_what_came_back pipelined_requests_and_those_on_one_connection an_answer_to_nothing_makes_the_rest_unseen a_hop_limit_of_one_is_the_cause_behind_a_router loss_and_reordering_give_no_request_anothers_answer twenty_thousand_requests_have_each_its_status connections_without_a_request_are_told a_connection_that_is_not_answered_is_a_timeout

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by it; figures are for whoever reads the log"
)]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::lab::{Lab, NetNs, Tokens};
use imds_analyzer_tests::{
    Analyzer, IMDS_V4, PUT_TOKEN, PYTHON, Stage, cable, connect, get, get_with_token, ip, is_legacy, lack, maps_of,
    needs, of_port, port, read_response, sysctl,
};
use serde_json::Value;

/// What a scripted IMDS does about a request.
enum Reaction {
    /// Sends these, each in a packet of its own.
    Send(Vec<Vec<u8>>),
    /// As [`Self::Send`], with this TTL in the packets.
    WithTtl(i32, Vec<Vec<u8>>),
    Silence,
    Close,
    Reset,
}

fn reply(status: u16) -> Reaction {
    Reaction::Send(vec![
        format!("HTTP/1.1 {status} Some Reason\r\nContent-Length: 2\r\n\r\nok").into_bytes(),
    ])
}

/// An IMDS that does what a test says for the head of each request.
fn serve(namespace: &NetNs, react: impl Fn(&str) -> Reaction + Send + Sync + 'static) {
    let listener = namespace
        .run(|| TcpListener::bind(IMDS_V4))
        .expect("namespace")
        .expect("a port");
    let react = Arc::new(react);
    // It ends with this process: its namespace has no other use.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, react) = (stream.expect("a connection"), Arc::clone(&react));
            thread::spawn(move || answer(stream, &*react));
        }
    });
}

fn answer(mut stream: TcpStream, react: &dyn Fn(&str) -> Reaction) {
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let reaction = react(std::str::from_utf8(&head).expect("UTF-8"));
            if let Reaction::WithTtl(ttl, _) = &reaction {
                imds_analyzer_tests::set_option(&stream, libc::IPPROTO_IP, libc::IP_TTL, *ttl);
            }
            match reaction {
                Reaction::Send(pieces) | Reaction::WithTtl(_, pieces) => {
                    for piece in pieces {
                        if stream.write_all(&piece).is_err() {
                            return;
                        }
                    }
                }
                Reaction::Silence => {}
                Reaction::Close => return,
                Reaction::Reset => return reset(&stream),
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend(&buffer[..count]),
        }
    }
}

/// Makes the end of a connection a reset.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    imds_analyzer_tests::set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, linger);
}

/// Reads an answer with a Content-Length as clients do, as much as there is at a time; its status.
fn read_at_once(stream: &mut TcpStream) -> u16 {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("an answer");
        assert_ne!(count, 0, "{text}");
        text += std::str::from_utf8(&buffer[..count]).expect("UTF-8");
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() == length.expect("a length").parse::<usize>().expect("a number") {
                return text[9..12].parse().expect("a status");
            }
        }
    }
}

/// The last part of a path, which says what to do about it: `/latest/meta-data/404`.
fn wanted(head: &str) -> &str {
    let path = head.split(' ').nth(1).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

fn by_path(head: &str) -> Reaction {
    match wanted(head) {
        "silence" => Reaction::Silence,
        "close" => Reaction::Close,
        "reset" => Reaction::Reset,
        "continue" => Reaction::Send(vec![
            b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ]),
        "bytes" => Reaction::Send(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc"
                .iter()
                .map(|byte| vec![*byte])
                .collect(),
        ),
        "chunked" => Reaction::Send(vec![
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHTTP/\r\n".to_vec(),
            b"0\r\n\r\n".to_vec(),
        ]),
        "garbage" => Reaction::Send(vec![b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()]),
        status => reply(status.parse().unwrap_or(200)),
    }
}

/// An analyzer of this process's requests, and a scripted IMDS.
fn stage(react: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> (Analyzer, Lab) {
    let analyzer = Analyzer::watch(&["--pid", &std::process::id().to_string()]);
    let lab = Lab::local().expect("lab");
    serve(&lab.server, react);
    (analyzer, lab)
}

fn path(what: &str) -> String {
    format!("/latest/meta-data/{what}")
}

/// Answer and status of a record, in short.
fn answer_of(record: &Value) -> String {
    let answer = record["imds"]["answer"].as_str().expect("an answer");
    match record["http"]["response"]["status_code"].as_u64() {
        Some(status) => format!("{answer} {status}"),
        None => answer.to_owned(),
    }
}

fn answers_of(records: &[Value]) -> Vec<String> {
    records.iter().map(answer_of).collect()
}

#[test]
fn each_request_has_what_came_back() {
    let (mut analyzer, lab) = stage(by_path);
    let cases = [
        ("200", "answered 200", "success"),
        ("400", "answered 400", "failure"),
        ("401", "answered 401", "failure"),
        ("403", "answered 403", "failure"),
        ("404", "answered 404", "failure"),
        ("503", "answered 503", "failure"),
        ("continue", "answered 200", "success"),
        ("bytes", "answered 404", "failure"),
        ("chunked", "answered 200", "success"),
        ("silence", "none", "failure"),
        ("close", "none", "failure"),
        ("reset", "none", "failure"),
        ("garbage", "unseen", "unknown"),
    ];
    let begin = Instant::now();
    let streams: Vec<_> = cases
        .iter()
        .map(|(what, ..)| {
            let mut stream = connect(&lab.client, IMDS_V4);
            stream.write_all(get(&path(what)).as_bytes()).expect("write");
            (port(&stream), stream)
        })
        .collect();
    analyzer.wait_for(|records| records.len() >= cases.len());
    assert!(begin.elapsed() >= Duration::from_secs(5), "silence is awaited");
    let ended = analyzer.stop();
    for ((what, answer, outcome), (port, _)) in cases.iter().zip(&streams) {
        let [record] = &of_port(&ended.requests(), *port)[..] else {
            panic!("{what}: one record was expected")
        };
        assert_eq!(answer_of(record), *answer, "{what}: {record:#}");
        assert_eq!(record["event"]["outcome"], *outcome, "{what}");
        let is_answered = answer.starts_with("answered");
        assert_eq!(record["event"]["duration"].is_u64(), is_answered, "{what}");
        // The loopback device takes none away.
        assert_eq!(record["imds"]["hop_limit"] == 64, is_answered, "{what}");
    }
    let summary = ended.of_kind("imds-analyzer-summary").pop().expect("a summary");
    let answers = &summary["imds"]["summary"]["local_v1_answers"];
    let expected = serde_json::json!({ "succeeded": 3, "rejected": 1, "failed": 5, "none": 3, "unseen": 1 });
    assert_eq!(*answers, expected, "{summary:#}");
}

/// As clients do it, on every tap: a request, then its answer in one read or several.
#[test]
fn each_request_whose_answer_is_read_has_its_status() {
    let (mut analyzer, lab) = stage(by_path);
    let mut expected = Vec::new();
    let mut stream = connect(&lab.client, IMDS_V4);
    for status in [200, 401, 404, 503] {
        stream
            .write_all(get(&path(&status.to_string())).as_bytes())
            .expect("write");
        assert_eq!(read_at_once(&mut stream), status);
        expected.push(format!("answered {status}"));
    }
    // The head by itself first, as wget does, with a look at it before.
    stream.write_all(get(&path("403")).as_bytes()).expect("write");
    let mut head = [0; 64];
    let peeked = stream.peek(&mut head).expect("an answer");
    stream.read_exact(&mut head[..peeked - 2]).expect("its head");
    stream.read_exact(&mut head[..2]).expect("its body");
    expected.push("answered 403".to_owned());
    // A last one, which has no answer.
    stream.write_all(get(&path("close")).as_bytes()).expect("write");
    assert_eq!(stream.read(&mut head).expect("the end"), 0);
    expected.push("none".to_owned());
    let port = port(&stream);
    drop(stream);
    analyzer.wait_for(|records| records.len() >= expected.len());
    let records = analyzer.records();
    assert_eq!(answers_of(&of_port(&records, port)), expected, "{records:#?}");
}

#[test]
fn pipelined_requests_and_those_on_one_connection() {
    let (mut analyzer, lab) = stage(by_path);
    let statuses = ["200", "404", "401", "503", "403"];
    let mut pipelined = connect(&lab.client, IMDS_V4);
    let heads: String = statuses.iter().map(|status| get(&path(status))).collect();
    pipelined.write_all(heads.as_bytes()).expect("write");
    let mut kept = connect(&lab.client, IMDS_V4);
    let many: Vec<&str> = statuses.iter().cycle().take(10).copied().collect();
    for status in &many {
        kept.write_all(get(&path(status)).as_bytes()).expect("write");
        read_response(&mut kept);
    }
    analyzer.wait_for(|records| records.len() >= 15);
    let records = analyzer.records();
    let expected = |statuses: &[&str]| -> Vec<String> { statuses.iter().map(|it| format!("answered {it}")).collect() };
    assert_eq!(answers_of(&of_port(&records, port(&pipelined))), expected(&statuses));
    assert_eq!(answers_of(&of_port(&records, port(&kept))), expected(&many));
}

#[test]
fn an_answer_to_nothing_makes_the_rest_unseen() {
    let (mut analyzer, lab) = stage(|head| match wanted(head) {
        "two" => {
            let Reaction::Send(one) = reply(200) else {
                return Reaction::Silence;
            };
            Reaction::Send([one.clone(), one].concat())
        }
        _ => by_path(head),
    });
    let mut stream = connect(&lab.client, IMDS_V4);
    stream.write_all(get(&path("two")).as_bytes()).expect("write");
    read_response(&mut stream);
    read_response(&mut stream);
    stream.write_all(get(&path("404")).as_bytes()).expect("write");
    analyzer.wait_for(|records| records.len() >= 2);
    let records = analyzer.records();
    assert_eq!(
        answers_of(&of_port(&records, port(&stream))),
        ["answered 200", "unseen"]
    );
}

/// As many as the server counted.
#[test]
fn twenty_thousand_requests_have_each_its_status() {
    const CONNECTIONS: usize = 8;
    /// What is asked for, and the status that it gets; 400 and 401 would end the connection.
    const CALLS: [(&str, u16); 4] = [
        ("ami-id", 200),
        ("nothing", 404),
        ("instance-id", 200),
        ("none/such", 404),
    ];
    let each = imds_analyzer_tests::at_load(2_500, 200);
    let mut analyzer = Analyzer::watch(&["--pid", &std::process::id().to_string()]);
    let lab = Lab::local().expect("lab");
    let server = imds_analyzer_tests::serve(&lab);
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let lab = &lab;
            scope.spawn(move || {
                let mut stream = connect(&lab.client, IMDS_V4);
                for request in 0..each {
                    let (what, status) = CALLS[(request * 7 + connection) % CALLS.len()];
                    stream.write_all(get(&path(what)).as_bytes()).expect("write");
                    assert_eq!(read_response(&mut stream), status);
                }
            });
        }
    });
    let count = CONNECTIONS * each;
    analyzer.wait_or_go_on(|records| records.len() >= count);
    let ended = analyzer.stop();
    let records = ended.requests();
    assert_eq!((records.len(), ended.lost()), (count, Vec::new()));
    for record in &records {
        let path = record["url"]["path"].as_str().expect("a path");
        let expected = if path.contains("/no") { 404 } else { 200 };
        let answer = answer_of(record);
        // Where packets of a connection pass each other on two slow CPUs.
        if !(imds_analyzer_tests::is_guest() && answer == "unseen") {
            assert_eq!(answer, format!("answered {expected}"), "{record:#}");
        }
    }
    let answered = server.answered();
    assert_eq!(
        answered.with_token + answered.without_token,
        count as u64,
        "{answered:?}"
    );
}

#[test]
fn without_answers_nothing_is_awaited() {
    let analyzer = Analyzer::watch(&["--no-answers", "--pid", &std::process::id().to_string()]);
    let lab = Lab::local().expect("lab");
    serve(&lab.server, by_path);
    let mut analyzer = analyzer;
    let mut stream = connect(&lab.client, IMDS_V4);
    stream.write_all(get(&path("silence")).as_bytes()).expect("write");
    drop(connect(&lab.client, IMDS_V4));
    analyzer.wait_for(|records| records.len() == 1);
    let ended = analyzer.stop();
    assert_eq!(answers_of(&ended.requests()), ["unseen"]);
    assert_eq!(ended.of_kind("imds-attempt").len(), 0);
}

#[test]
fn connections_without_a_request_are_told() {
    let own = std::process::id().to_string();
    let analyzer = Analyzer::watch(&["--pid", &own]);
    let refusing = Lab::local().expect("lab");
    let serving = Lab::local().expect("lab");
    serve(&serving.server, by_path);
    let empty = NetNs::new().expect("a namespace");

    let refused = refusing.client.run(|| TcpStream::connect(IMDS_V4)).expect("namespace");
    assert_eq!(
        refused.expect_err("nobody listens").kind(),
        ErrorKind::ConnectionRefused
    );
    let unreachable = empty.run(|| TcpStream::connect(IMDS_V4)).expect("namespace");
    assert_eq!(unreachable.expect_err("no route").kind(), ErrorKind::NetworkUnreachable);
    let closed = connect(&serving.client, IMDS_V4);
    thread::sleep(Duration::from_millis(20));
    drop(closed);
    // Closed in two steps, and nothing is left of it but its end.
    let shut = connect(&serving.client, IMDS_V4);
    shut.shutdown(Shutdown::Write).expect("shut down");
    drop(shut);

    let ended = analyzer.stop();
    assert_eq!(ended.requests(), Vec::<Value>::new());
    let attempts = ended.of_kind("imds-attempt");
    let seen: Vec<_> = attempts
        .iter()
        .map(|it| it["imds"]["attempt"].as_str().expect("a word"))
        .collect();
    assert_eq!(seen, ["refused", "unreachable", "closed", "closed"], "{attempts:#?}");
    for attempt in &attempts {
        imds_analyzer_tests::fits_schema(attempt);
        assert_eq!(attempt["process"]["pid"], std::process::id(), "{attempt:#}");
        assert_eq!(attempt["event"]["outcome"], "failure");
        assert_eq!(attempt["destination"]["ip"], "169.254.169.254");
        assert_eq!(
            attempt["source"].is_object(),
            attempt["imds"]["attempt"] != "unreachable",
            "{attempt:#}"
        );
    }
    let waited = attempts[2]["event"]["duration"].as_u64().expect("a duration");
    assert!(waited >= 20_000_000, "{waited}");
    assert_eq!(ended.lost(), Vec::<String>::new());
}

#[test]
fn a_connection_that_is_not_answered_is_a_timeout() {
    let analyzer = Analyzer::watch(&["--pid", &std::process::id().to_string()]);
    // Nobody is behind this device.
    let namespace = NetNs::new().expect("a namespace");
    for args in [
        &["link", "add", "v0", "type", "veth", "peer", "name", "v1"][..],
        &["addr", "add", "169.254.1.1/16", "dev", "v0"],
        &["link", "set", "v0", "up"],
        &["link", "set", "v1", "up"],
    ] {
        imds_analyzer_tests::run(&namespace, "ip", args);
    }
    let error = namespace
        .run(|| TcpStream::connect_timeout(&IMDS_V4.parse().expect("an address"), Duration::from_millis(300)))
        .expect("namespace")
        .expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let attempts = analyzer.stop().of_kind("imds-attempt");
    let [attempt] = &attempts[..] else {
        panic!("one was expected: {attempts:#?}")
    };
    assert_eq!(attempt["imds"]["attempt"], "timeout");
}

/// Cause, and id of the remedy.
fn judged(record: &Value) -> [&str; 2] {
    let imds = &record["imds"];
    [&imds["cause"], &imds["remedy"]["id"]].map(|it| it.as_str().unwrap_or("-"))
}

/// Runs a script against an IMDS that does so for each token request.
fn fall_back(token: fn() -> Reaction) -> Value {
    let (mut analyzer, lab) = stage(move |head| match head.starts_with("PUT ") {
        true => token(),
        false => by_path(head),
    });
    let patience = match token() {
        Reaction::Silence => Duration::from_millis(200),
        _ => imds_analyzer_tests::patience(),
    };
    let mut asking = connect(&lab.client, IMDS_V4);
    asking.set_read_timeout(Some(patience)).expect("time-out");
    asking.write_all(PUT_TOKEN.as_bytes()).expect("write");
    // As SDKs do: whatever comes, or nothing, the call follows.
    let _ = asking.read(&mut [0; 1024]);
    drop(asking);
    let mut stream = connect(&lab.client, IMDS_V4);
    stream.write_all(get(&path("200")).as_bytes()).expect("write");
    read_response(&mut stream);
    analyzer.wait_for(|records| records.iter().any(|record| record["imds"]["verdict"] == "v1"));
    let records = analyzer.records();
    let found = records.into_iter().find(|record| record["imds"]["verdict"] == "v1");
    found.expect("a v1 call")
}

#[test]
fn why_a_caller_fell_back() {
    for (token, expected) in [
        (
            (|| Reaction::Silence) as fn() -> Reaction,
            ["token-unanswered", "hop-limit"],
        ),
        (|| reply(403), ["token-refused", "token-refused"]),
        (|| reply(503), ["token-refused", "token-refused"]),
        (|| reply(200), ["token-unused", "unknown"]),
    ] {
        let record = fall_back(token);
        assert_eq!(judged(&record), expected, "{record:#}");
    }
}

/// A namespace behind the lab's client, which routes for it, as a host does for its containers.
fn pod(lab: &Lab) -> NetNs {
    let pod = NetNs::new().expect("a namespace");
    cable([(&lab.client, "pod0", "10.124.0.1/24"), (&pod, "eth0", "10.124.0.2/24")]);
    ip(&pod, "route add default via 10.124.0.1");
    ip(&lab.server, "route add 10.124.0.0/24 via 10.123.0.1");
    sysctl(&lab.client, "ip_forward", "1");
    pod
}

/// Asks for a token in `namespace`; true if something came back.
fn asks(namespace: &NetNs) -> bool {
    let mut stream = connect(namespace, IMDS_V4);
    stream
        .set_read_timeout(Some(Duration::from_millis(500) * imds_analyzer_tests::slowness()))
        .expect("time-out");
    stream.write_all(PUT_TOKEN.as_bytes()).expect("write");
    stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
}

/// A host and a pod behind it ask for tokens, whose answers leave IMDS with this TTL (`HttpPutResponseHopLimit`); then
/// the pod calls, with a token if it has one. The records of the pod.
fn with_hop_limit(ttl: i32) -> (bool, Vec<Value>) {
    let mut analyzer = Analyzer::watch(&["--pid", &std::process::id().to_string()]);
    let lab = Lab::routed().expect("lab");
    let pod = pod(&lab);
    serve(&lab.server, move |head| {
        if head.starts_with("PUT ") {
            let token = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntoken".to_vec();
            Reaction::WithTtl(ttl, vec![token])
        } else {
            by_path(head)
        }
    });
    assert!(asks(&lab.client), "the host is one hop away");
    let has_token = asks(&pod);
    let mut stream = connect(&pod, IMDS_V4);
    let request = match has_token {
        true => get_with_token(&path("200"), "token"),
        false => get(&path("200")),
    };
    stream.write_all(request.as_bytes()).expect("write");
    assert_eq!(read_at_once(&mut stream), 200);
    analyzer.wait_for(|records| records.len() >= 3);
    let of_pod = |record: &Value| record["source"]["ip"] == "10.124.0.2";
    (has_token, analyzer.records().into_iter().filter(of_pod).collect())
}

#[test]
fn a_hop_limit_of_one_is_the_cause_behind_a_router() {
    let (has_token, records) = with_hop_limit(1);
    assert!(!has_token);
    let v1 = records.iter().find(|record| record["imds"]["version"] == "v1");
    let v1 = v1.unwrap_or_else(|| panic!("{records:#?}"));
    assert_eq!(judged(v1), ["token-unanswered", "hop-limit"], "{v1:#}");
    // The TTL that the host's own answer had left.
    assert_eq!(v1["imds"]["token_hop_limit"], 1, "{v1:#}");
    assert_eq!(v1["imds"]["netns"], "other");

    let (has_token, records) = with_hop_limit(2);
    assert!(has_token);
    let versions: Vec<_> = records.iter().map(|record| record["imds"]["version"].clone()).collect();
    assert_eq!(versions, ["v2", "v2"], "{records:#?}");
}

#[test]
fn what_curl_and_a_bad_token_get() {
    let stage = Stage::watch(&[]);
    stage.curl(&[]);
    stage.curl(&["-H", "X-aws-ec2-metadata-token: "]);
    stage.curl(&["-H", "X-aws-ec2-metadata-token: none-that-was-given"]);
    let records = stage.records();
    let seen: Vec<_> = records
        .iter()
        .map(|record| {
            let [cause, remedy] = judged(record);
            format!(
                "{cause} {remedy} {}",
                record["imds"]["client"]["name"].as_str().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            "no-token-request shell-script curl",
            "empty-variable empty-variable curl",
            "token-rejected token-rejected curl"
        ]
    );
    assert!(records[0]["imds"]["client"]["version"].is_string(), "{:#}", records[0]);
}

/// A script that says nothing of itself, in an environment with an old SDK.
#[test]
fn the_library_inside_a_caller_is_found() {
    let mut stage = Stage::watch(&[]);
    let venv = tempfile::tempdir().expect("a directory");
    let package = venv
        .path()
        .join("lib/python3.9/site-packages/botocore-1.12.253.dist-info");
    std::fs::create_dir_all(package).expect("a package");
    let script = venv.path().join("bin/app");
    std::fs::create_dir_all(venv.path().join("bin")).expect("a directory");
    // It lives on for a while: a process that is gone has no files.
    let call = "import socket, sys, time\n\
        s = socket.create_connection(('169.254.169.254', 80))\n\
        s.sendall(b'GET ' + sys.argv[1].encode() + b' HTTP/1.1\\r\\nHost: imds\\r\\n\\r\\n')\n\
        assert s.recv(4096)\n\
        time.sleep(0.5)\n";
    std::fs::write(&script, call).expect("a script");
    // A look that takes longer than a call may wait is known at a later one.
    let mut calls = 0;
    let record = loop {
        stage.run(PYTHON, &[script.to_str().expect("UTF-8"), &stage.path]);
        calls += 1;
        let records = stage.analyzer.wait_for(|records| records.len() >= calls);
        let last = records.last().cloned().expect("a record");
        if last["imds"]["client"].is_object() || calls == 10 {
            break last;
        }
    };
    let client = &record["imds"]["client"];
    assert_eq!(
        [&client["name"], &client["version"], &client["source"]],
        ["botocore", "1.12.253", "dist-info"],
        "{record:#}"
    );
    assert_eq!(judged(&record), ["no-token-request", "botocore-upgrade"]);
    let program = &record["imds"]["program"];
    assert_eq!(program["path"], script.to_str().expect("UTF-8"), "{record:#}");
    assert!(program["package"].is_null() && program["state"].is_null(), "{program}");
}

#[test]
fn where_tokens_are_required_a_call_without_is_rejected() {
    let own = std::process::id().to_string();
    let analyzer = Analyzer::watch(&["--pid", &own, "--fail-on", "rejected"]);
    let lab = Lab::local().expect("lab");
    let options = imds_analyzer::lab::Options {
        tokens: Tokens::Required,
    };
    let _server = imds_analyzer::lab::Server::start(&lab.server, options).expect("IMDS");
    let mut stream = connect(&lab.client, IMDS_V4);
    stream.write_all(get(&path("ami-id")).as_bytes()).expect("write");
    read_at_once(&mut stream);
    let ended = analyzer.stop();
    assert_eq!(answers_of(&ended.requests()), ["answered 401"]);
    assert_eq!(ended.code, Some(0), "local calls do not count: {ended:#?}");
}

/// Packets of both directions are lost, late and out of order, on two connections and two CPUs: an answer is the
/// request's own, or not told.
#[test]
fn loss_and_reordering_give_no_request_anothers_answer() {
    const CALLS: usize = 60;
    const STATUSES: [u16; 5] = [200, 401, 403, 404, 503];
    let (analyzer, lab) = {
        let analyzer = Analyzer::watch(&["--pid", &std::process::id().to_string()]);
        let lab = Lab::routed().expect("lab");
        serve(&lab.server, by_path);
        (analyzer, lab)
    };
    for namespace in [&lab.client, &lab.server] {
        let netem = "qdisc add dev imds0 root netem delay 2ms 2ms loss 4% reorder 30% 50% duplicate 4%";
        let output = namespace.command("tc").args(netem.split(' ')).output().expect("tc");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        needs!(lack("netem", output.status.success(), said));
    }
    let ports: Vec<u16> = thread::scope(|scope| {
        let caller = |cpu: usize| {
            let lab = &lab;
            scope.spawn(move || {
                run_on(cpu);
                let mut stream = connect(&lab.client, IMDS_V4);
                for call in 0..CALLS {
                    let status = STATUSES[(call + cpu) % STATUSES.len()];
                    let request = get(&path(&status.to_string()));
                    stream.write_all(request.as_bytes()).expect("write");
                    assert_eq!(read_at_once(&mut stream), status);
                }
                port(&stream)
            })
        };
        [caller(0), caller(1)]
            .map(|caller| caller.join().expect("a caller"))
            .into()
    });
    let ended = analyzer.stop();
    let requests = ended.requests();
    let mut answered = 0;
    for port in ports {
        let records = of_port(&requests, port);
        assert_eq!(records.len(), CALLS, "{records:#?}");
        for record in &records {
            let path = record["url"]["path"].as_str().expect("a path");
            let own = format!("answered {}", path.rsplit('/').next().expect("a part"));
            let answer = answer_of(record);
            assert!(answer == own || answer == "unseen", "{answer}: {record:#}");
            answered += usize::from(answer == own);
        }
    }
    println!("{answered} of {} requests have an answer", 2 * CALLS);
    assert!(answered > 0);
}

/// Keeps this thread on one CPU.
fn run_on(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("a CPU");
}

/// Neither a token nor credentials of an answer are anywhere in what comes out.
#[test]
fn what_is_in_answers_stays_in_the_kernel() {
    const SECRET: &str = "AQAEAFxAnswerSecret0123456789abcdefghijklmnopqrstuv";
    let (mut analyzer, lab) = stage(|head| {
        let body = format!("{{\"Token\": \"{SECRET}\", \"SecretAccessKey\": \"{SECRET}\"}}");
        let text = format!(
            "HTTP/1.1 200 OK\r\nX-Token: {SECRET}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let pieces = if wanted(head) == "bytes" {
            text.bytes().map(|byte| vec![byte]).collect()
        } else {
            vec![text.into_bytes()]
        };
        Reaction::Send(pieces)
    });
    let streams = ["bytes", "whole"].map(|what| {
        let mut stream = connect(&lab.client, IMDS_V4);
        let request = get_with_token(&path(what), SECRET);
        stream.write_all(request.as_bytes()).expect("write");
        read_at_once(&mut stream);
        stream
    });
    analyzer.wait_for(|records| records.len() >= 2);
    // The maps, while the connections are open.
    let maps = maps_of("imds_", &streams);
    // The send tap keeps nothing of a request there.
    let has_request = maps.windows(6).any(|window| window == b"/whole");
    assert!(
        !maps.is_empty() && has_request != is_legacy(),
        "{} bytes of maps",
        maps.len()
    );
    for part in [&SECRET[..12], &SECRET[20..32]] {
        let found = maps.windows(part.len()).any(|window| window == part.as_bytes());
        assert!(!found, "{part} is in a map");
    }
    drop(streams);
    let everything = analyzer.stop().everything();
    assert!(everything.contains("answered"), "{everything}");
    for part in [&SECRET[..12], &SECRET[20..32]] {
        assert!(!everything.contains(part), "{everything}");
    }
}
