//! Many requests on many connections: nothing is lost, doubled, misjudged or mixed.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use imds_analyzer::lab::{Answered, Lab};
use imds_analyzer_tests::{
    IMDS_V4, Scene, at_load, briefs, connect, get, get_with_token, of_port, port, put_token, read_response,
};

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
    let scene = Scene::of_this_process();
    let token = put_token(&mut scene.connect());
    let ports: Vec<u16> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let mut stream = scene.connect();
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
    assert_eq!(scene.server.answered(), answered);
    let ended = scene.analyzer.stop();
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

/// A byte to and fro over `lo`, as fast as it goes, until told to stop.
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

/// The programs of two sockets are entered in one another on one CPU, from softirq and by preemption.
#[test]
fn two_sockets_on_one_cpu_are_not_mixed() {
    const EACH: usize = 300;
    let scene = Scene::of_this_process();
    let stop = AtomicBool::new(false);
    let barrier = Barrier::new(4);
    let ports: Vec<(u16, &str)> = thread::scope(|scope| {
        let (lab, stop) = (&scene.lab, &stop);
        scope.spawn(move || {
            pin();
            ping_pong(lab, stop);
        });
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (lab, barrier) = (&scene.lab, &barrier);
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
    let tokens = scene.server.tokens();
    let ended = scene.analyzer.stop();
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
