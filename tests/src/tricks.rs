//! Ways to make a receiver read other bytes than a watcher sees.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use imds_analyzer::lab::Lab;
use serde_json::Value;

use crate::{Analyzer, IMDS_V4, get, get_with_token, run, serve, sysctl};

const PATH: &str = "/latest/user-data";

/// A stream of heads with urgent bytes in it.
pub struct Urgent {
    pub name: &'static str,
    /// The bytes of each send; true if it has MSG_OOB.
    pub sends: Vec<(Vec<u8>, bool)>,
    /// [`crate::brief`] of each record, or the beginning of it.
    pub expected: Vec<&'static str>,
}

impl Urgent {
    pub fn send(&self, stream: &TcpStream) {
        for (bytes, urgent) in &self.sends {
            send_with(stream, bytes, if *urgent { libc::MSG_OOB } else { 0 });
        }
    }

    /// Fails unless `briefs` are as expected.
    pub fn check(&self, briefs: &[String]) {
        let matches = briefs.len() == self.expected.len()
            && briefs
                .iter()
                .zip(&self.expected)
                .all(|(brief, expected)| brief.starts_with(expected));
        assert!(matches, "{}: {briefs:#?}", self.name);
    }

    /// Urgent bytes in a token's name and in a path, at the edges of a head, in one send with the bytes before them,
    /// and in a body, where bytes are counted.
    pub fn all() -> Vec<Self> {
        const V1: &str = "v1 GET /latest/user-data user-data";
        const URGENT: &str = "unknown/urgent ";
        let (v1, v2) = (get(PATH), get_with_token(PATH, "x"));
        let in_second = |name, at: usize, expected: &[&'static str]| {
            let (before, rest) = v2.split_at(at);
            let (byte, behind) = rest.split_at(1);
            Self {
                name,
                sends: vec![
                    (format!("{v1}{before}").into_bytes(), false),
                    (byte.into(), true),
                    (format!("{behind}{v1}{v1}").into_bytes(), false),
                ],
                expected: expected.to_vec(),
            }
        };
        let place = |what: &str| v2.find(what).expect("a part of the head");
        let usual = [V1, URGENT, V1, V1];
        let body = format!("PUT {PATH} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        let pipelined = format!("{v1}{v2}");
        let (most, last) = pipelined.split_at(pipelined.len() - 1);
        vec![
            in_second("in the token's name", place("-token") + 5, &usual),
            in_second("in the path", place("user-data"), &usual),
            in_second("in the token", place("x\r\n"), &usual),
            in_second("its first byte", 0, &usual),
            // The byte after it may be the urgent one, too.
            in_second("its last byte", v2.len() - 1, &[V1, URGENT, URGENT, V1]),
            Self {
                name: "the last byte of two heads in one send",
                sends: vec![
                    (pipelined.clone().into_bytes(), true),
                    (v1.clone().into_bytes(), false),
                    (v1.clone().into_bytes(), false),
                ],
                expected: vec![V1, URGENT, URGENT, V1],
            },
            Self {
                name: "two urgent bytes",
                sends: vec![
                    (most[..v1.len() + 10].into(), true),
                    (most[v1.len() + 10..].into(), true),
                    (format!("{last}{v1}").into_bytes(), false),
                ],
                expected: vec![V1, URGENT, URGENT],
            },
            Self {
                name: "in a body",
                sends: vec![
                    (body[..body.len() - 1].into(), false),
                    (body[body.len() - 1..].into(), true),
                    (format!("{v1}{v1}").into_bytes(), false),
                ],
                expected: vec!["v1 PUT ", URGENT, V1],
            },
        ]
    }
}

/// A listener at the address of IMDS that never answers.
pub fn silent_peer(lab: &Lab) -> TcpListener {
    lab.server
        .run(|| TcpListener::bind(IMDS_V4))
        .expect("namespace")
        .expect("bind")
}

/// send(2) of all `bytes`.
pub fn send_with(stream: &TcpStream, bytes: &[u8], flags: i32) {
    // SAFETY: the bytes live for the call.
    let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    assert_eq!(sent, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Connects with TCP_FASTOPEN_CONNECT, which sends nothing yet, and lets a child send the bytes that open the
/// connection. Arguments: the address, and the bytes to send. Prints the child's pid.
const FAST_OPEN_CONNECT: &str = "
import os, socket, sys
s = socket.socket()
s.setsockopt(6, 30, 1)
s.connect((sys.argv[1], 80))
pid = os.fork()
if not pid:
    s.sendall(sys.argv[2].encode())
    os._exit(0)
os.waitpid(pid, 0)
print(pid)
s.settimeout(10)
s.recv(100)
";

/// A process that calls IMDS, executes a shell that does not, and from there curl, whose memory map may be at the
/// address of the first program's. Argument: the address.
pub const EXEC_TWICE: &str = "
import os, socket, sys
for _ in range(5):
    pid = os.fork()
    if not pid:
        s = socket.create_connection((sys.argv[1], 80))
        s.sendall(b'GET /latest/first HTTP/1.0\\r\\n\\r\\n')
        s.recv(100)
        s.close()
        os.execv('/bin/sh', ['sh', '-c', 'exec curl -s -o /dev/null http://%s/latest/second' % sys.argv[1]])
    os.waitpid(pid, 0)
";

/// Runs [`FAST_OPEN_CONNECT`] under `analyzer`: the record must name the process that sends, not the one that connects.
pub fn fast_open_connect_names_the_sender(mut analyzer: Analyzer) {
    let lab = Lab::local().expect("lab");
    let _server = serve(&lab);
    sysctl(&lab.client, "tcp_fastopen", "5");
    let request = get("/latest/fast-open");
    let output = run(
        &lab.client,
        "python3",
        &["-c", FAST_OPEN_CONNECT, "169.254.169.254", &request],
    );
    let child: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a pid");
    let is_own = |record: &&Value| record["url"]["original"] == "/latest/fast-open";
    analyzer.wait_or_go_on(|records| records.iter().any(|record| is_own(&record)));
    let records = analyzer.stop().requests();
    let own: Vec<_> = records.iter().filter(is_own).collect();
    assert_eq!(own.len(), 1, "{records:#?}");
    assert_eq!(own[0]["process"]["pid"], child, "{:#}", own[0]);
}
