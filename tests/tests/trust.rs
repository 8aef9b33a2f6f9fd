//! Senders without rights that play tricks: each request has one record that names its sender, no request is hidden,
//! and none that the server may read as v1 counts as v2.
//!
//! guests: quickest no-storage

use std::process::Command;

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{Stage, run, sees_senders};
use serde_json::Value;

/// The part that the scripts share: a socket whose option memory is full, heads of both kinds, and a server that takes
/// anything.
const TRICKS: &str = r#"
import mmap, struct
TOKEN = "A" * 54 + "=="
def v1(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()
def v2(path, more=""):
    return v1(path, f"X-aws-ec2-metadata-token: {TOKEN}\r\n{more}")
def address(text):
    return (struct.pack("HHI", socket.AF_INET6, 0, 0) + socket.inet_pton(socket.AF_INET6, text)).ljust(128, b"\0")
def join(s, group, source):
    # MCAST_JOIN_SOURCE_GROUP, at the loopback device
    s.setsockopt(socket.IPPROTO_IPV6, 46, struct.pack("I4x", 1) + address(group) + address(source))
def starve(s):
    for first, last in ((1, 4000), (5000, 5400)):
        for group in range(first, last):
            try: join(s, f"ff35::{group:x}", "fd99::1")
            except OSError: break
        for source in range(2, 600):
            try: join(s, "ff35::1", f"fd99::{source:x}")
            except OSError: break
def starved():
    s = socket.socket(socket.AF_INET6)
    starve(s)
    s.settimeout(10)
    s.connect(("::ffff:169.254.169.254", 80))
    return s
def answer(s):
    s.settimeout(20)
    return s.recv(4096)
"#;

/// The records of a script's calls, which fit the schema.
fn records(script: &str) -> Vec<Value> {
    records_of_at_least(0, script)
}

/// Like [`records`], once there are at least `count`.
fn records_of_at_least(count: usize, script: &str) -> Vec<Value> {
    let mut stage = Stage::shared();
    stage.python(&format!("{TRICKS}{script}"));
    stage.analyzer.wait_for_count(count);
    stage.records()
}

/// The verdict, or `unknown/reason`, of each record, in the order of their paths.
fn judged(records: &[Value]) -> Vec<String> {
    records
        .iter()
        .map(|record| {
            let imds = &record["imds"];
            match imds["reason"].as_str() {
                Some(reason) => format!("unknown/{reason}"),
                None => imds["verdict"].as_str().expect("a verdict").to_owned(),
            }
        })
        .collect()
}

fn all_of(records: &[Value], pid: u32) {
    for record in records {
        assert_eq!(record["process"]["pid"], pid, "{record:#}");
    }
}

/// The kernel charges the data that a program keeps for a socket to the socket's option memory, which its owner can
/// fill.
#[test]
fn a_socket_whose_memory_is_full_is_judged() {
    let stage = Stage::shared();
    let pid = stage.python(&format!(
        "{TRICKS}
s = starved()
for request in (v1(path + '/a'), v2(path + '/b'), v1(path + '/c')):
    s.sendall(request); answer(s)
"
    ));
    let records = stage.records();
    assert_eq!(judged(&records), ["v1", "v2", "v1"]);
    all_of(&records, pid);
}

#[test]
fn a_head_in_pieces_of_a_socket_whose_memory_is_full_is_judged() {
    let records = records(
        "
s = starved(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for byte in v2(path + '/a') + v1(path + '/b'):
    s.sendall(bytes((byte,)))
answer(s)
",
    );
    assert_eq!(judged(&records), ["v2", "v1"]);
}

#[test]
fn many_sockets_whose_memory_is_full_are_judged_each() {
    let records = records(
        "
sockets = [starved() for _ in range(40)]
for number, s in enumerate(sockets):
    s.sendall(v1(f'{path}/{number}')[:-2])
for s in sockets:
    s.sendall(b'\\r\\n'); answer(s)
",
    );
    assert_eq!(judged(&records), ["v1"; 40]);
}

/// A page that the kernel does not own is read again when the packet is sent again.
fn changed(how: &str) -> Vec<Value> {
    // The analyzer holds back bytes in pages of the sender for as long as they may change.
    records_of_at_least(1, &format!(
        "
page = mmap.mmap(-1, 4096)
head = v2(path + '/a')
page[:len(head)] = head
s = socket.socket(socket.AF_INET6)
s.connect(('fd00:ec2::254', 80)); time.sleep(0.05)
# A routing header that the receiver drops: the first transmission is lost.
s.setsockopt(socket.IPPROTO_IPV6, 57, struct.pack('BBBBBBH', 0, 4, 4, 1, 1, 0, 0) + 2 * socket.inet_pton(socket.AF_INET6, 'fd00:ec2::254'))
def change():
    at = head.index(b'X-aws'); page[at:at + 24] = b'X-aws-ec2-metadata-nekot'
def let_through():
    s.setsockopt(socket.IPPROTO_IPV6, 57, b'')
{how}
answer(s)
"
    ))
}

const ZERO_COPY: &str = "
s.setsockopt(socket.SOL_SOCKET, 60, 1)
s.send(memoryview(page)[:len(head)], 0x4000000)
";

#[test]
fn a_page_that_changes_between_two_transmissions() {
    let records = changed(&format!("{ZERO_COPY}\nchange(); let_through()"));
    assert_eq!(judged(&records), ["unknown/changed"]);
    assert_eq!(records[0]["imds"]["sender_pages"], true);
}

#[test]
fn a_page_that_stays_as_it_is() {
    let records = changed(&format!("{ZERO_COPY}\nlet_through()"));
    assert_eq!(judged(&records), ["v2"]);
    assert_eq!(records[0]["imds"]["sender_pages"], true);
}

#[test]
fn a_page_of_a_pipe_that_changes_between_two_transmissions() {
    let records = changed(
        "
r, w = os.pipe()
libc = ctypes.CDLL(None, use_errno=True)
class Vector(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
base = ctypes.addressof(ctypes.c_char.from_buffer(page))
assert libc.vmsplice(w, ctypes.byref(Vector(base, len(head))), 1, 0) == len(head)
assert libc.splice(r, None, s.fileno(), None, ctypes.c_size_t(len(head)), 0) == len(head)
change(); let_through()
",
    );
    assert_eq!(judged(&records), ["unknown/changed"]);
}

#[test]
fn a_page_of_a_file_that_changes_between_two_transmissions() {
    let records = changed(
        "
import tempfile
f = tempfile.TemporaryFile(); f.write(head); f.flush()
os.sendfile(s.fileno(), f.fileno(), 0, len(head))
f.seek(head.index(b'X-aws')); f.write(b'X-aws-ec2-metadata-nekot'); f.flush()
let_through()
",
    );
    assert_eq!(judged(&records), ["unknown/changed"]);
}

/// The first half of a head changes while the second is not there yet.
#[test]
fn a_page_that_changes_inside_an_unfinished_head() {
    let records = changed(
        "
s.setsockopt(socket.SOL_SOCKET, 60, 1)
s.send(memoryview(page)[:len(head) - 2], 0x4000000)
change(); let_through(); time.sleep(1)
s.sendall(b'\\r\\n')
",
    );
    assert_eq!(judged(&records), ["unknown/changed"]);
}

/// A byte sent as urgent is not part of the stream that the server reads.
fn urgent(script: &str) -> Vec<String> {
    judged(&records(&format!(
        "
s = connect(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def urgent(byte): s.send(byte, socket.MSG_OOB)
# The server may wait for the byte that it does not read, or end the connection.
try:
    {}
    s.shutdown(socket.SHUT_WR); answer(s)
except ConnectionError: pass
",
        script.trim().replace('\n', "\n    ")
    )))
}

#[test]
fn an_urgent_byte_inside_the_token_s_name() {
    let seen = urgent(
        "
head = v2(path + '/a'); cut = head.index(b'token:') + 4
s.sendall(head[:cut]); urgent(head[cut:cut + 1]); s.sendall(head[cut + 1:])
",
    );
    assert_eq!(seen, ["unknown/urgent"]);
}

#[test]
fn an_urgent_byte_inside_the_path_and_the_requests_beside_it() {
    let seen = urgent(
        "
s.sendall(v1(path + '/a')); answer(s)
head = v1(path + '/b'); cut = head.index(b'/b') + 2
s.sendall(head[:cut]); urgent(b'x'); s.sendall(head[cut:]); time.sleep(0.1)
s.sendall(v2(path + '/c'))
",
    );
    assert_eq!(seen, ["v1", "unknown/urgent", "v2"]);
}

#[test]
fn an_urgent_line_end_that_makes_a_header() {
    let seen = urgent(
        "
head = v1(path + '/a', 'A: bX-aws-ec2-metadata-token: x\\r\\n'); cut = head.index(b'bX-') + 1
s.sendall(head[:cut]); urgent(b'\\n'); s.sendall(head[cut:])
",
    );
    assert_eq!(seen, ["unknown/urgent"]);
}

#[test]
fn an_urgent_byte_that_ends_a_head() {
    let seen = urgent("head = v2(path + '/a'); s.sendall(head[:-1]); urgent(head[-1:]); s.sendall(b'\\n')");
    assert_eq!(seen[0], "unknown/urgent");
    assert!(!seen.iter().any(|verdict| verdict == "v2"), "{seen:?}");
}

/// The kernel uses the address of a memory map again, for the program after the next.
#[test]
fn a_program_after_two_execs_is_itself() {
    let stage = Stage::shared();
    stage.python(
        "
for i in range(5):
    if not os.fork():
        c = connect(); get(c); c.close()
        os.execv('/bin/sh', ['sh', '-c', f'exec /bin/sh -c \"exec /bin/sh -c \\\\\"exec curl -so /dev/null http://169.254.169.254{path}/second\\\\\"\"'])
    assert os.wait()[1] == 0
",
    );
    let records = stage.records();
    let second: Vec<_> = records
        .iter()
        .filter(|record| {
            record["url"]["path"]
                .as_str()
                .is_some_and(|path| path.ends_with("/second"))
        })
        .collect();
    assert_eq!((records.len(), second.len()), (10, 5));
    for record in second {
        assert_eq!(record["process"]["name"], "curl", "{record:#}");
        assert_eq!(record["process"]["args"][0], "curl", "{record:#}");
    }
}

/// The user and the name are those at the time of the send.
#[test]
fn a_user_and_a_name_that_change_between_two_requests() {
    let records = records(
        "
s = connect(); s.sendall(v1(path + '/a')); answer(s)
open('/proc/self/comm', 'w').write('renamed'); os.setgid(65534); os.setuid(65534)
s.sendall(v1(path + '/b')); answer(s)
",
    );
    let user = |record: &Value| record["user"]["id"].as_str().expect("a user").to_owned();
    assert_eq!(user(&records[0]), "0");
    if sees_senders() {
        assert_eq!(user(&records[1]), "65534", "{:#}", records[1]);
        assert_eq!(records[1]["process"]["name"], "renamed");
    }
}

/// The SYN with the data leaves with the child's send, though the parent connected.
#[test]
fn data_in_a_syn_is_its_sender_s() {
    let lab = Lab::local().expect("lab");
    imds_analyzer_tests::sysctl(&lab.client, "tcp_fastopen", "1543");
    let stage = Stage::in_lab(lab).shared();
    stage.python(&format!(
        "{TRICKS}
s = socket.socket(); s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.connect(('169.254.169.254', 80))
if not os.fork():
    s.sendall(v1(path + '/' + str(os.getpid()))); os._exit(0)
os.wait(); answer(s)
"
    ));
    let record = stage.record();
    let sender = record["url"]["path"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
        .expect("a pid");
    assert_eq!(record["process"]["pid"].to_string(), sender, "{record:#}");
}

/// The route of the packet with the head decides, not the route of the first SYN.
#[test]
fn the_way_of_the_head_is_what_is_local() {
    let lab = Lab::routed().expect("lab");
    let ip = |args: &[&str]| run(&lab.client, "ip", args);
    ip(&["route", "prepend", "169.254.169.254/32", "dev", "lo"]);
    let client = lab.client.clone();
    let stage = Stage::in_lab(lab).shared();
    let script = format!(
        "import socket, subprocess, sys, time
s = socket.socket(); s.setblocking(False); s.connect_ex(('169.254.169.254', 80)); time.sleep(0.2)
subprocess.run(['ip', 'route', 'del', '169.254.169.254/32', 'dev', 'lo'], check=True)
s.setblocking(True); s.settimeout(20)
import select
select.select([], [s], [], 20)
s.sendall(b'GET {}/a HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); assert s.recv(99)
",
        stage.path
    );
    let mut command: Command = client.command(imds_analyzer_tests::PYTHON);
    command.args(["-c", &script]);
    imds_analyzer_tests::output(command);
    let record = stage.record();
    assert_eq!(record["imds"]["local"], false, "{record:#}");
}
