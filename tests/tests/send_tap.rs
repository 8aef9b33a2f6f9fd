//! The send tap of the object for old kernels: bytes in the sender's memory, bytes that are not, and what the tap
//! leaves behind. If the kernel has no kprobes, the analyzer says so.
//!
//! guests: send-tap

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    fs,
    io::{self, IoSlice, Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    process::{self, Command},
    ptr,
    sync::{
        atomic::{AtomicU8, Ordering},
        mpsc::channel,
    },
    thread,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, EXEC_TWICE, IMDS_V4, Lack, Stage, Urgent, binary, brief, connect, fast_open_connect_names_the_sender,
    get, get_with_token, imds_analyzer, lack, needs, port, process as process_of, read_response, run, run_to_end,
    send_with, serve, set_option, silent_peer, until,
};
use serde_json::Value;

const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const PATH: &str = "/latest/user-data";
const V1: &str = "v1 GET /latest/user-data user-data";

/// The lack of kprobes. If there are none, `check` must say so.
fn kprobes() -> Option<Lack> {
    let check = imds_analyzer(&["check", "--object", "legacy"]);
    let symbols = fs::read_to_string("/proc/kallsyms").expect("kallsyms");
    if symbols.lines().any(|line| line.ends_with(" register_kprobe")) {
        assert_eq!(check.code, Some(0), "{check:#?}");
        return None;
    }
    assert_eq!(check.code, Some(4), "{check:#?}");
    let mut lines = check.stdout.lines();
    let line = lines.find(|line| line.contains("Missing: kprobe events"));
    lack("kprobes", false, line.unwrap_or_else(|| panic!("{check:#?}")))
}

/// Answers have tests of their own: here a request is written at once, and not when it is answered.
const OPTIONS: [&str; 3] = ["--object", "legacy", "--no-answers"];

fn stage() -> Stage {
    Stage::local().by_process().watch(&OPTIONS)
}

/// All records of one connection in short, after waiting for `count` of them.
fn seen(stage: Stage, port: u16, count: usize) -> Vec<String> {
    let of_port = |records: &[Value]| -> Vec<String> {
        let own = records.iter().filter(|record| record["source"]["port"] == port);
        own.inspect(|record| assert_eq!(record["imds"]["tap"], "send", "{record:#}"))
            .inspect(|record| assert_eq!(record["process"]["pid"], process::id(), "{record:#}"))
            .map(brief)
            .collect()
    };
    let Stage {
        mut analyzer,
        lab: _lab,
        server: _server,
        ..
    } = stage;
    analyzer.wait_or_go_on(|records| of_port(records).len() >= count);
    of_port(&analyzer.stop().requests())
}

#[test]
fn segments_of_any_number_and_none() {
    needs!(kprobes());
    let stage = stage();
    let mut stream = stage.connect();
    let head = get(PATH);
    let (first, rest) = head.split_at(7);
    let empty = IoSlice::new(b"");
    let sent = stream.write_vectored(&[
        empty,
        IoSlice::new(first.as_bytes()),
        empty,
        empty,
        IoSlice::new(rest.as_bytes()),
        empty,
    ]);
    assert_eq!(sent.expect("writev"), head.len());
    read_response(&mut stream);
    // More segments than the tap looks at: it knows that there is a gap, and gives no verdict on half a head.
    let bytes: Vec<IoSlice<'_>> = head.as_bytes().chunks(1).map(IoSlice::new).collect();
    assert_eq!(stream.write_vectored(&bytes).expect("writev"), head.len());
    read_response(&mut stream);
    // After a gap the tap is certain again from the first empty line on.
    send_whole(&mut stream, &head);
    send_whole(&mut stream, &head);
    let records = seen(stage, port(&stream), 4);
    let [before, cut, doubtful, after] = records.as_slice() else {
        panic!("four were expected: {records:#?}")
    };
    assert_eq!((before.as_str(), after.as_str()), (V1, V1));
    assert!(cut.starts_with("unknown/gap "), "{cut}");
    assert!(doubtful.starts_with("unknown/gap "), "{doubtful}");
}

#[test]
fn a_large_body_and_what_follows_it() {
    needs!(kprobes());
    let stage = stage();
    let mut stream = stage.connect();
    // Less than the limit for copying one send, but in many pieces.
    let body = "no request line\r\n".repeat(6000);
    let head = format!("PUT {PATH} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    stream
        .write_all(format!("{head}{body}{}", get(PATH)).as_bytes())
        .expect("write");
    let records = seen(stage, port(&stream), 2);
    assert_eq!(records, ["v1 PUT /latest/user-data user-data", V1]);
}

#[test]
fn pages_that_nobody_has_touched() {
    needs!(kprobes());
    let stage = stage();
    let mut stream = stage.connect();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(get(PATH).as_bytes()).expect("write");
    // SAFETY: a new mapping of an open file.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    // SAFETY: the mapping has that many bytes of the file.
    let sent = unsafe { libc::send(stream.as_raw_fd(), page, get(PATH).len(), 0) };
    assert_eq!(sent, get(PATH).len() as isize);
    read_response(&mut stream);
    // SAFETY: nobody uses the mapping any more.
    unsafe { libc::munmap(page, 4096) };
    assert_eq!(seen(stage, port(&stream), 1), [V1]);
}

/// A connection with small buffers. Its peer reads only when the test tells it to.
fn slow_peer() -> (Analyzer, Lab, TcpStream, TcpStream) {
    let analyzer = Analyzer::watch(&[&OPTIONS[..], &["--pid", &process::id().to_string()]].concat());
    let lab = Lab::local().expect("lab");
    let listener = lab
        .server
        .run(|| std::net::TcpListener::bind(IMDS_V4))
        .expect("namespace")
        .expect("bind");
    set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    let stream = connect(&lab.client, IMDS_V4);
    let (peer, _) = listener.accept().expect("accept");
    set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, 4608);
    (analyzer, lab, stream, peer)
}

#[test]
fn only_what_the_socket_took_counts() {
    needs!(kprobes());
    let (analyzer, _lab, mut stream, mut peer) = slow_peer();
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    let requests = get(PATH).repeat(300);
    let mut left = requests.as_bytes();
    let mut refused = 0;
    while !left.is_empty() {
        match stream.write(left) {
            Ok(taken) => left = &left[taken..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                refused += 1;
                let mut buffer = [0; 16384];
                assert_ne!(peer.read(&mut buffer).expect("read"), 0);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the socket took all at once");
    let scene_port = port(&stream);
    drop(stream);
    let ended = {
        let mut analyzer = analyzer;
        analyzer.wait_or_go_on(|records| records.len() >= 300);
        analyzer.stop()
    };
    let records: Vec<_> = ended
        .requests()
        .iter()
        .filter(|record| record["source"]["port"] == scene_port)
        .map(brief)
        .collect();
    assert_eq!(records.len(), 300, "{:?}", ended.lost());
    assert!(records.iter().all(|record| record == V1));
}

/// A thread changes the bytes while the send waits for room, so nobody can say which bytes were sent.
#[test]
fn bytes_that_change_while_they_are_sent() {
    needs!(kprobes());
    let (analyzer, _lab, stream, mut peer) = slow_peer();
    let own_port = port(&stream);

    // The last part of a send that is longer than the buffers.
    let filler = format!(
        "PUT {PATH} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{}",
        " ".repeat(100_000)
    );
    let head = get_with_token(PATH, "x").into_bytes();
    let bytes: Vec<AtomicU8> = filler.bytes().chain(head.iter().copied()).map(AtomicU8::new).collect();
    let (begun, sender) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            // By number, because glibc has a name for it only since 2.30.
            // SAFETY: no arguments.
            let thread = unsafe { libc::syscall(libc::SYS_gettid) };
            begun.send(thread as i32).expect("waited for");
            // SAFETY: the bytes outlive the call; AtomicU8 has the layout of u8.
            let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            assert_eq!(sent, bytes.len() as isize);
        });
        let sender = sender.recv().expect("a thread");
        let sender = process_of(process::id()).task_from_tid(sender).expect("a thread");
        until("the send sleeps", || sender.stat().expect("a thread").state == 'S');
        let name = bytes.len() - head.len() + get(PATH).len() - 2;
        bytes[name].store(b'y', Ordering::Relaxed);
        let mut rest = bytes.len();
        let mut buffer = [0; 16384];
        while rest > 0 {
            rest -= peer.read(&mut buffer).expect("read");
        }
    });
    drop(stream);
    let mut analyzer = analyzer;
    analyzer.wait_or_go_on(|records| records.len() >= 2);
    let ended = analyzer.stop();
    let records: Vec<_> = ended
        .requests()
        .iter()
        .filter(|record| record["source"]["port"] == own_port)
        .map(brief)
        .collect();
    assert_eq!(records.len(), 2, "{records:#?}");
    assert!(records[1].starts_with("unknown/changed "), "{records:#?}");
}

/// The pages of a file are not in the sender's memory: one record says that something was sent.
#[test]
fn a_file_that_is_sent_is_unreadable() {
    needs!(kprobes());
    let stage = stage();
    let mut stream = stage.connect();
    let mut file = tempfile::tempfile().expect("a file");
    let head = get(PATH);
    file.write_all(head.as_bytes()).expect("write");
    let mut offset = 0;
    // SAFETY: both descriptors are open, and the offset outlives the call.
    let sent = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut offset, head.len()) };
    assert_eq!(sent, head.len() as isize);
    read_response(&mut stream);
    send_whole(&mut stream, &head);
    let records = seen(stage, port(&stream), 2);
    assert_eq!(records, ["unknown/unreadable - - not-imds", V1]);
}

/// A receiver may leave an urgent byte out, or the one behind it.
#[test]
fn urgent_bytes() {
    needs!(kprobes());
    let mut analyzer = Analyzer::watch(&[&OPTIONS[..], &["--pid", &process::id().to_string()]].concat());
    let lab = Lab::local().expect("lab");
    let _peer = silent_peer(&lab);
    let tricks = Urgent::all();
    let streams: Vec<TcpStream> = tricks.iter().map(|_| connect(&lab.client, IMDS_V4)).collect();
    tricks
        .iter()
        .zip(&streams)
        .for_each(|(trick, stream)| trick.send(stream));
    let count = tricks.iter().map(|trick| trick.expected.len()).sum();
    analyzer.wait_or_go_on(|records| records.len() >= count);
    let records = analyzer.stop().requests();
    for (trick, stream) in tricks.iter().zip(&streams) {
        let own = records.iter().filter(|record| record["source"]["port"] == port(stream));
        let own = own.inspect(|record| assert_eq!(record["process"]["pid"], process::id(), "{record:#}"));
        trick.check(&own.map(brief).collect::<Vec<_>>());
    }
}

/// A send that waits for room leaves in parts, and each part ends with an urgent byte, wherever that is.
#[test]
fn an_urgent_send_that_waits() {
    needs!(kprobes());
    let (mut analyzer, _lab, stream, mut peer) = slow_peer();
    let own_port = port(&stream);
    let heads = get_with_token(PATH, "x").repeat(200);
    thread::scope(|scope| {
        scope.spawn(|| send_with(&stream, heads.as_bytes(), libc::MSG_OOB));
        let mut buffer = [0; 16384];
        // The peer does not get the urgent bytes.
        let mut rest = heads.len() - 100;
        while rest > 0 {
            rest = rest.saturating_sub(peer.read(&mut buffer).expect("read"));
        }
    });
    drop(stream);
    let of_port = |records: &[Value]| -> Vec<String> {
        let own = records.iter().filter(|record| record["source"]["port"] == own_port);
        own.map(brief).collect()
    };
    analyzer.wait_or_go_on(|records| of_port(records).len() >= 200);
    let briefs = of_port(&analyzer.stop().requests());
    assert_eq!(briefs.len(), 200);
    assert!(
        briefs.iter().all(|brief| brief.starts_with("unknown/urgent ")),
        "{briefs:#?}"
    );
}

/// With MSG_ZEROCOPY the pages stay the sender's: the tap reads them once more, and marks the record.
#[test]
fn pages_that_stay_the_sender_s_are_marked() {
    needs!(kprobes());
    let stage = stage();
    let mut stream = stage.connect();
    for flags in [0, libc::MSG_ZEROCOPY, 0] {
        send_with(&stream, get(PATH).as_bytes(), flags);
        read_response(&mut stream);
    }
    let Stage { mut analyzer, .. } = stage;
    let own_port = port(&stream);
    let is_own = |record: &&Value| record["source"]["port"] == own_port;
    analyzer.wait_or_go_on(|records| records.iter().filter(is_own).count() >= 3);
    let records = analyzer.stop().requests();
    let marks: Vec<bool> = records
        .iter()
        .filter(is_own)
        .map(|record| record["imds"]["sender_pages"] == true)
        .collect();
    assert_eq!(marks, [false, true, false], "{records:#?}");
}

/// The process that connects sends nothing. The process that sends opens the connection, and the record names it.
#[test]
fn fast_open_connect() {
    needs!(kprobes());
    fast_open_connect_names_the_sender(Analyzer::watch(&OPTIONS));
}

/// After two execs a program's memory map may be at the address of the first program's, but it is another program.
#[test]
fn a_program_after_two_others() {
    needs!(kprobes());
    let mut analyzer = Analyzer::watch(&OPTIONS);
    let lab = Lab::local().expect("lab");
    let _server = serve(&lab);
    run(&lab.client, "python3", &["-c", EXEC_TWICE, "169.254.169.254"]);
    let of = |records: &[Value], path: &str| -> Vec<Value> {
        let own = records.iter().filter(|record| record["url"]["original"] == path);
        own.cloned().collect()
    };
    analyzer.wait_or_go_on(|records| of(records, "/latest/second").len() >= 5);
    let records = analyzer.stop().requests();
    for (path, program) in [("/latest/first", "python3"), ("/latest/second", "curl")] {
        let own = of(&records, path);
        assert_eq!(own.len(), 5, "{records:#?}");
        for record in own {
            assert_eq!(record["process"]["args"][0], program, "{record:#}");
        }
    }
}

fn send_whole(stream: &mut TcpStream, head: &str) {
    stream.write_all(head.as_bytes()).expect("write");
    read_response(stream);
}

/// Kprobes outlive a process that is killed; the next analyzer removes them.
#[test]
fn a_killed_predecessor_leaves_nothing_behind_for_long() {
    needs!(kprobes());
    let there = fs::exists(EVENTS).expect("tracefs");
    needs!(lack("kprobe-events", there, format!("{EVENTS} is not there")));
    let own = |pid: u32| {
        let events = fs::read_to_string(EVENTS).expect("kprobe_events");
        events.matches(&format!("imds_analyzer/p{pid}_")).count()
    };
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]).args(OPTIONS);
    let first = Analyzer::start(command);
    let killed = first.pid();
    assert_ne!(own(killed), 0);
    let ended = first.stop_by(libc::SIGKILL);
    assert_eq!(ended.code, None);
    assert_ne!(own(killed), 0, "the kernel has removed them: the sweep is not needed");
    let second = stage();
    assert_eq!(own(killed), 0);
    let pid = second.analyzer.pid();
    let mut stream = second.connect();
    send_whole(&mut stream, &get(PATH));
    assert_eq!(seen(second, port(&stream), 1), [V1]);
    assert_eq!(own(pid), 0);
}

/// If BTF describes tasks wrongly, the analyzer learns from the kernel's own events who started whom: a parent that is
/// gone before its child sends anything is not in /proc.
#[test]
fn tasks_that_cannot_be_read() {
    needs!(kprobes());
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    // Two names of the same length change places, so that the parent seems to be where a number is.
    let mut types = fs::read(btf).expect("BTF");
    let [parent, number] = [b"\0real_parent\0", b"\0static_prio\0"].map(|name| {
        let place = types.windows(name.len()).position(|bytes| bytes == name);
        place.expect("a name")
    });
    types[parent + 1..][..11].copy_from_slice(b"static_prio");
    types[number + 1..][..11].copy_from_slice(b"real_parent");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), types).expect("write");
    let with_btf = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(format!("mount --bind \"$0\" {} && exec \"$@\"", btf.display()))
            .arg(file.path())
            .arg(binary())
            .args(args)
            // The analyzer must see this BTF, and must not trust it.
            .env_remove("NO_BTF");
        command
    };
    let check = run_to_end(&mut with_btf(&["check", "--object", "legacy"]));
    assert!(check.stdout.contains("fork and exec events"), "{check:#?}");

    let mut analyzer = Analyzer::start(with_btf(&[&["watch", "--format", "json"], &OPTIONS[..]].concat()));
    let lab = Lab::local().expect("lab");
    let _server = serve(&lab);
    let wait = "while read -r pid name state parent rest </proc/$$/stat && [ $parent = $0 ]; do :; done";
    let script = format!("sh -c '{wait}; exec curl -s -o /dev/null $1' $$ $0 &");
    let mut command = lab.client.command("sh");
    let mut parent = command
        .args(["-c", &script, &format!("http://{IMDS_V4}{PATH}")])
        .spawn()
        .expect("sh");
    assert!(parent.wait().expect("our own child").success());
    analyzer.wait_for_count(1);
    let records = analyzer.stop().requests();
    let [record] = records.as_slice() else {
        panic!("one was expected: {records:#?}")
    };
    assert_eq!(brief(record), V1);
    assert_eq!(record["process"]["name"], "curl", "{record:#}");
    let chain: Vec<_> = record["process"]["ancestors"]
        .as_array()
        .expect("ancestors")
        .iter()
        .map(|ancestor| ancestor["pid"].as_u64().expect("a pid"))
        .collect();
    assert_eq!(chain[..2], [parent.id(), process::id()].map(u64::from), "{record:#}");
    assert_eq!(chain.last(), Some(&1), "{record:#}");
}

/// Without type information the analyzer learns where things are, and sees the same.
#[test]
fn without_btf() {
    needs!(kprobes());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg(
            "if [ -e /sys/kernel/btf/vmlinux ]; then mount --bind /dev/null /sys/kernel/btf/vmlinux; fi; exec \"$0\" watch --object legacy --no-answers --format json --pid \"$1\"",
        )
        .arg(binary())
        .arg(process::id().to_string());
    let analyzer = Analyzer::start(command);
    let stage = Stage::local().beside(analyzer);
    let mut stream = stage.connect();
    send_whole(&mut stream, &get(PATH));
    assert_eq!(seen(stage, port(&stream), 1), [V1]);
}
