//! Many requests, and many processes: nothing is lost, doubled, misjudged or mixed.
//!
//! guests: load

#![expect(clippy::print_stderr, reason = "figures and reasons are for whoever reads the log")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{self, Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use imds_analyzer::lab::{Answered, Lab};
use imds_analyzer_tests::{
    IMDS_V4, Stage, at_load, briefs, connect, get, get_with_token, of_port, parent, port, put_token, read_response,
};
use serde_json::Value;

/// Cuts `bytes` at places that look random and are the same each time.
fn pieces(bytes: &[u8], seed: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = seed as u32 * 2 + 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, left) = rest.split_at(rest.len().min(1 + (state >> 16) as usize % 60));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

#[test]
fn twenty_thousand_requests_on_eight_connections() {
    const THREADS: usize = 8;
    let each = at_load(2_500, 500);
    let stage = Stage::local().by_process().watch(&[]);
    let token = put_token(&mut stage.connect());
    let ports: Vec<u16> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let mut stream = stage.connect();
                let token = &token;
                scope.spawn(move || {
                    for i in 0..each {
                        let path = format!("/latest/meta-data/{i}");
                        let request = if i % 2 == 0 {
                            get(&path)
                        } else {
                            get_with_token(&path, token)
                        };
                        for piece in pieces(request.as_bytes(), i) {
                            stream.write_all(piece).expect("write");
                        }
                        assert_eq!(read_response(&mut stream), 404);
                    }
                    port(&stream)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client"))
            .collect()
    });
    let half = (THREADS * each / 2) as u64;
    let answered = Answered {
        token_requests: 1,
        with_token: half,
        without_token: half,
        malformed: 0,
    };
    assert_eq!(stage.server.answered(), answered);
    let ended = stage.analyzer.stop();
    assert_eq!(ended.lost(), [""; 0]);
    let mut by_port: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let records = ended.requests();
    for record in &records {
        let port = record["source"]["port"].as_u64().expect("a port");
        by_port
            .entry(port)
            .or_default()
            .push(imds_analyzer_tests::brief(record));
    }
    let expected: Vec<_> = (0..each)
        .map(|i| format!("{} GET /latest/meta-data/{i} plain", ["v1", "v2"][i % 2]))
        .collect();
    for port in ports {
        assert!(by_port[&port.into()] == expected, "port {port}");
    }
    assert_eq!(records.len(), THREADS * each + 1);
    assert!(!ended.everything().contains(&token));
}

/// Moves the calling thread to the first CPU.
fn pin() {
    // SAFETY: plain data, all zeroes is no CPU.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is in range.
    unsafe { libc::CPU_SET(0, &mut set) };
    // SAFETY: a set of its size.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    assert_eq!(result, 0);
}

/// Sends a byte back and forth over `lo`, as fast as it goes, until told to stop.
fn ping_pong(lab: &Lab, stop: &AtomicBool) {
    let (mut near, mut far) = lab
        .client
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
            (near, listener.accept().expect("a connection").0)
        })
        .expect("namespace");
    thread::scope(|scope| {
        scope.spawn(move || {
            pin();
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        while !stop.load(Ordering::Relaxed) {
            let mut byte = [1];
            near.write_all(&byte).expect("write");
            near.read_exact(&mut byte).expect("read");
        }
        near.shutdown(Shutdown::Both).expect("shutdown");
    });
}

/// On one CPU the programs of two sockets run inside each other, from softirq and by preemption.
#[test]
fn two_sockets_on_one_cpu_are_not_mixed() {
    const EACH: usize = 300;
    let stage = Stage::local().by_process().watch(&[]);
    let stop = AtomicBool::new(false);
    let barrier = Barrier::new(4);
    let ports: Vec<(u16, &str)> = thread::scope(|scope| {
        let (lab, stop) = (&stage.lab, &stop);
        scope.spawn(move || {
            pin();
            ping_pong(lab, stop);
        });
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (lab, barrier) = (&stage.lab, &barrier);
                scope.spawn(move || {
                    pin();
                    let token = put_token(&mut connect(&lab.client, IMDS_V4));
                    let mut stream = connect(&lab.client, IMDS_V4);
                    let port = port(&stream);
                    barrier.wait();
                    for i in 0..EACH {
                        let path = format!("/latest/{port}/{i}");
                        let request = if client % 2 == 0 {
                            get(&path)
                        } else {
                            get_with_token(&path, &token)
                        };
                        for piece in pieces(request.as_bytes(), i + client) {
                            stream.write_all(&piece[..piece.len().min(3)]).expect("write");
                            stream.write_all(&piece[piece.len().min(3)..]).expect("write");
                        }
                        assert_eq!(read_response(&mut stream), 404);
                    }
                    (port, ["v1", "v2"][client % 2])
                })
            })
            .collect();
        let ports = clients.into_iter().map(|client| client.join()).collect::<Vec<_>>();
        stop.store(true, Ordering::Relaxed);
        ports.into_iter().map(|port| port.expect("a client")).collect()
    });
    let tokens = stage.server.tokens();
    let ended = stage.analyzer.stop();
    assert_eq!(ended.lost(), [""; 0]);
    let records = ended.requests();
    assert_eq!(records.len(), 4 * EACH + 4);
    for (port, verdict) in ports {
        let expected: Vec<_> = (0..EACH)
            .map(|i| format!("{verdict} GET /latest/{port}/{i} plain"))
            .collect();
        let seen = briefs(&of_port(&records, port));
        assert!(seen == expected, "{port}: {seen:#?}");
    }
    let everything = ended.everything();
    assert!(tokens.iter().all(|token| !everything.contains(&token[..20])));
}

/// Not a test: [`short_lived`] runs this very program again, as a client.
#[test]
#[ignore = "a client, run by other tests"]
fn client_process() {
    let Ok(index) = env::var("IMDS_CLIENT") else { return };
    // SAFETY: the parent made descriptor 0 the namespace; only this thread moves.
    assert_eq!(unsafe { libc::setns(0, libc::CLONE_NEWNET) }, 0);
    let mut stream = TcpStream::connect(IMDS_V4).expect("connect");
    stream
        .write_all(get(&format!("/latest/{}/{index}", process::id())).as_bytes())
        .expect("write");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("read");
    // SAFETY: ends at once, without the test harness.
    unsafe { libc::_exit(0) };
}

/// Runs `count` processes, `width` at a time, that send one request each and end.
fn short_lived(count: usize, width: usize) {
    let stage = Stage::local().of_all().watch(&[]);
    let program = env::current_exe().expect("this program");
    let started: Vec<(u32, usize)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..width)
            .map(|worker| {
                let (lab, program) = (&stage.lab, &program);
                scope.spawn(move || {
                    let mut started = Vec::new();
                    for index in (worker..count).step_by(width) {
                        let namespace = fs::File::open(lab.client.path()).expect("namespace");
                        let mut child = Command::new(program)
                            .args(["--ignored", "--exact", "client_process", "--test-threads=1", "--skip"])
                            .arg(format!("index-{index}"))
                            .env("IMDS_CLIENT", index.to_string())
                            .stdin(Stdio::from(namespace))
                            .stdout(Stdio::null())
                            .spawn()
                            .expect("a client");
                        let pid = child.id();
                        assert!(child.wait().expect("our own child").success());
                        started.push((pid, index));
                    }
                    started
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a worker"))
            .collect()
    });
    let ended = stage.analyzer.stop();
    let mut chain = vec![process::id()];
    while *chain.last().expect("not empty") != 1 {
        chain.push(parent(chain[chain.len() - 1]));
    }
    let mut by_path: BTreeMap<String, Value> = BTreeMap::new();
    for record in ended.requests() {
        let path = record["url"]["path"].as_str().unwrap_or_default().to_owned();
        assert!(by_path.insert(path, record).is_none(), "a request is doubled");
    }
    let (mut with_argv, mut with_chain, mut missing) = (0, 0, BTreeSet::new());
    for (pid, index) in &started {
        let Some(record) = by_path.get(&format!("/latest/{pid}/{index}")) else {
            missing.insert(index);
            continue;
        };
        assert_eq!(record["process"]["pid"], *pid, "{record:#}");
        assert_eq!(record["imds"]["verdict"], "v1", "{record:#}");
        let last = record["process"]["args"].as_array().and_then(|args| args.last());
        with_argv += usize::from(last.is_some_and(|last| *last == format!("index-{index}")));
        let ancestors = record["process"]["ancestors"].as_array().cloned().unwrap_or_default();
        let ancestors: Vec<_> = ancestors
            .iter()
            .map(|ancestor| ancestor["pid"].as_u64().unwrap_or(0) as u32)
            .collect();
        with_chain += usize::from(ancestors == chain);
    }
    eprintln!(
        "{count} processes: {} records, {with_argv} with argv, {with_chain} with the full chain",
        count - missing.len()
    );
    assert!(missing.is_empty(), "no record of {missing:?}");
    assert_eq!((with_argv, with_chain), (count, count));
    assert_eq!(ended.lost(), [""; 0]);
}

#[test]
fn two_hundred_processes_one_after_the_other() {
    short_lived(200, 1);
}

#[test]
fn five_hundred_processes_eight_at_a_time() {
    short_lived(500, 8);
}
