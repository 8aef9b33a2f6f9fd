//! The wire tap of the legacy object, which passes packets on to user space and judges them there. It is used only on
//! request. If the kernel cannot pass packets on, the analyzer names that as the reason.
//!
//! guests: packets

#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by it; figures and reasons are for whoever reads the log"
)]

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    process::{self, Command},
    ptr, slice,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, IMDS_V4, Lack, Service, Stage, Urgent, binary, briefs, connect, fast_open_connect_names_the_sender, get,
    get_with_token, imds_analyzer, lab_with_imds, lack, needs, of_path, of_port, port, programs_in_the_kernel,
    put_token, read_response, run, send, send_with, serve, set_option, silent_peer, until,
};
use serde_json::Value;

const PATH: &str = "/latest/user-data";
/// The program at the root of cgroup2.
const PROGRAM: &str = "imds_packet";
const ARGS: [&str; 2] = ["--object", "legacy-wire"];

/// The feature that this kernel lacks for this tap: kprobes, or programs on packets that write to a perf buffer (5.4).
/// `check` must say so.
fn packets() -> Option<Lack> {
    let check = imds_analyzer(&[&["check"][..], &ARGS].concat());
    if check.code == Some(0) {
        assert!(check.stdout.contains(PROGRAM), "{check:#?}");
        return None;
    }
    assert_eq!(check.code, Some(4), "{check:#?}");
    let why = ["Missing: kprobe events", "cannot forward packets to user space"];
    let line = check
        .stdout
        .lines()
        .find(|line| why.iter().any(|why| line.contains(why)));
    let line = line.unwrap_or_else(|| panic!("{check:#?}"));
    let send_tap = imds_analyzer(&["check", "--object", "legacy"]);
    assert!(send_tap.code == Some(0) || line.contains(why[0]), "{check:#?}");
    gone();
    lack("packets", false, line)
}

/// Waits until none of our programs is left; the kernel frees them when it has time.
fn gone() {
    until("our programs to go", || programs_in_the_kernel(PROGRAM).is_empty());
}

fn watch() -> Command {
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]).args(ARGS);
    command
}

fn start() -> Analyzer {
    Analyzer::start(watch())
}

/// Bytes that are not in the sender's memory are in the packet.
#[test]
fn a_file_that_is_sent_is_judged() {
    needs!(packets());
    let stage = Stage::local().beside(start());
    let mut stream = stage.connect();
    let token = put_token(&mut stream);
    let mut file = tempfile::tempfile().expect("a file");
    let head = get_with_token(PATH, &token);
    file.write_all(head.as_bytes()).expect("write");
    file.rewind().expect("seek");
    // SAFETY: both descriptors are open; there is no offset to write to.
    let sent = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), ptr::null_mut(), head.len()) };
    assert_eq!(sent, head.len() as isize);
    assert_eq!(read_response(&mut stream), 200);
    let (records, ended) = stage.expect_and_end(port(&stream), 2);
    assert_eq!(briefs(&records)[1], "v2 GET /latest/user-data user-data");
    for record in &records {
        assert_eq!(record["imds"]["tap"], "wire", "{record:#}");
        assert_eq!(record["imds"]["owner"], "kprobe", "{record:#}");
        assert_eq!(record["process"]["pid"], process::id(), "{record:#}");
    }
    assert_eq!(ended.lost(), [""; 0]);
    assert!(!ended.everything().contains(&token));
    gone();
}

/// Two programs are attached side by side, and one goes without the other.
#[test]
fn nobody_s_program_is_replaced() {
    needs!(packets());
    let stage = Stage::local().beside(start());
    let mut other = Analyzer::start_another(watch());
    assert_eq!(programs_in_the_kernel(PROGRAM).len(), 2);
    let mut stream = stage.connect();
    let port = port(&stream);
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    other.wait_for(|records| of_port(records, port).len() == 1);
    assert_eq!(of_port(&other.stop().requests(), port).len(), 1);
    until("one of them to go", || programs_in_the_kernel(PROGRAM).len() == 1);
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port, 2);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"; 2]);
}

/// Before 5.7 the program of a killed analyzer stays until the next analyzer comes.
#[test]
fn a_killed_predecessor_leaves_nothing_behind_for_long() {
    needs!(packets());
    let first = start();
    let ended = first.stop_by(libc::SIGKILL);
    assert_eq!(ended.code, None);
    let left = programs_in_the_kernel(PROGRAM);
    eprintln!("{} programs left", left.len());
    let stage = Stage::local().beside(start());
    until("the old one to go", || {
        let now = programs_in_the_kernel(PROGRAM);
        now.len() == 1 && now.is_disjoint(&left)
    });
    let mut stream = stage.connect();
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port(&stream), 1);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"]);
    gone();
}

/// The daemon uses this tap if it is configured, also after it has dropped its rights, and detaches the program when it
/// stops: without links that needs a right.
#[test]
fn the_daemon_uses_it_if_that_is_configured() {
    needs!(packets());
    let (lab, _server) = lab_with_imds();
    let mut service = Service::start("object = \"legacy-wire\"\n[log]\n");
    assert_eq!(programs_in_the_kernel(PROGRAM).len(), 1);
    send(&lab, PATH, 1);
    let records = service.wait_for("the call", |records| of_path(records, PATH) == 1);
    let is_call = |record: &&Value| record["event"]["action"] == "imds-request" && record["url"]["path"] == PATH;
    let request = records.iter().find(is_call);
    let request = request.expect("the call");
    assert_eq!(request["imds"]["verdict"], "v1", "{request:#}");
    assert_eq!(request["imds"]["tap"], "wire", "{request:#}");
    assert_eq!(request["imds"]["owner"], "kprobe", "{request:#}");
    assert_eq!(request["process"]["pid"], process::id(), "{request:#}");
    service.stop();
    gone();
}

/// A receiver may leave an urgent byte out, or the one behind it.
#[test]
fn urgent_bytes() {
    needs!(packets());
    let mut analyzer = start();
    let lab = Lab::local().expect("lab");
    let _peer = silent_peer(&lab);
    let tricks = Urgent::all();
    let streams: Vec<_> = tricks.iter().map(|_| connect(&lab.client, IMDS_V4)).collect();
    tricks
        .iter()
        .zip(&streams)
        .for_each(|(trick, stream)| trick.send(stream));
    let count = tricks.iter().map(|trick| trick.expected.len()).sum();
    analyzer.wait_or_go_on(|records| records.len() >= count);
    let records = analyzer.stop().requests();
    for (trick, stream) in tricks.iter().zip(&streams) {
        let own = of_port(&records, port(stream));
        assert!(
            own.iter().all(|record| record["process"]["pid"] == process::id()),
            "{own:#?}"
        );
        trick.check(&briefs(&own));
    }
    gone();
}

/// The first packets are lost, and the kernel sends again what the page then holds: with MSG_ZEROCOPY, by sendfile from
/// a file that is written to, and by vmsplice.
#[test]
fn bytes_that_change_before_they_are_sent_again() {
    needs!(packets());
    type Way = fn(&TcpStream, &Page);
    let ways: [(&str, Way); 3] = [
        ("zero copy", |stream, page| {
            set_option(stream, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
            send_with(stream, page.bytes(), libc::MSG_ZEROCOPY);
        }),
        ("sendfile", |stream, page| {
            // SAFETY: both descriptors are open; there is no offset to write to.
            let sent = unsafe { libc::sendfile(stream.as_raw_fd(), page.file.as_raw_fd(), ptr::null_mut(), page.len) };
            assert_eq!(sent, page.len as isize);
        }),
        ("vmsplice", |stream, page| {
            let (reader, writer) = io::pipe().expect("a pipe");
            let part = libc::iovec {
                iov_base: page.address.cast(),
                iov_len: page.len,
            };
            // SAFETY: the page outlives the connection.
            let given = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const part, 1, 0) };
            assert_eq!(given, page.len as isize);
            let null = ptr::null_mut();
            // SAFETY: both descriptors are open; there are no offsets to write to.
            let sent = unsafe { libc::splice(reader.as_raw_fd(), null, stream.as_raw_fd(), null, page.len, 0) };
            assert_eq!(sent, page.len as isize);
        }),
    ];
    let mut analyzer = start();
    let lab = Lab::local().expect("lab");
    let _server = serve(&lab);
    let nft = |rules: &str| run(&lab.client, "nft", &[rules]);
    for (name, way) in ways {
        let mut stream = connect(&lab.client, IMDS_V4);
        let page = Page::new(&get_with_token(PATH, "x"));
        nft(
            "add table ip t; add chain ip t i { type filter hook input priority 0; }; \
             add rule ip t i tcp dport 80 counter drop",
        );
        way(&stream, &page);
        page.replace("X-aws-ec2-metadata-token", "X-aws-ec2-metadata-nekot");
        nft("delete table ip t");
        // The server answers the request although it has no token by now.
        assert_eq!(read_response(&mut stream), 200, "{name}");
        let port = port(&stream);
        let changed = |records: &[Value]| {
            let own = of_port(records, port);
            briefs(&own).iter().any(|brief| brief.starts_with("unknown/changed "))
        };
        let records = analyzer.wait_for(changed);
        let own = of_port(&records, port);
        assert!(
            own.iter().all(|record| record["process"]["pid"] == process::id()),
            "{name}: {own:#?}"
        );
        assert!(
            own.iter().any(|record| record["imds"]["sender_pages"] == true),
            "{name}: {own:#?}"
        );
    }
    drop(analyzer.stop());
    gone();
}

/// A shared mapping of one page of a file.
struct Page {
    file: File,
    address: *mut u8,
    len: usize,
}

impl Page {
    fn new(text: &str) -> Self {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("write");
        file.rewind().expect("seek");
        // SAFETY: a new mapping of an open file.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self {
            file,
            address: address.cast(),
            len: text.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has that many bytes until it ends; nobody writes them while they are borrowed.
        unsafe { slice::from_raw_parts(self.address, self.len) }
    }

    fn replace(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        let found = self
            .bytes()
            .windows(from.len())
            .position(|bytes| bytes == from.as_bytes());
        let place = found.expect("a part of the text");
        // SAFETY: within the mapping.
        let at = unsafe { self.address.add(place) };
        // SAFETY: the mapping has that many bytes there, because `to` is as long as `from`.
        unsafe { ptr::copy_nonoverlapping(to.as_ptr(), at, to.len()) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nobody uses the mapping any more.
        unsafe { libc::munmap(self.address.cast(), 4096) };
    }
}

/// The process that connects sends nothing. The process that sends opens the connection, and the record names it.
#[test]
fn fast_open_connect() {
    needs!(packets());
    fast_open_connect_names_the_sender(start());
    gone();
}
