//! The wire tap's test before the tool reports ready: this process connects to a fake IMDS of its own, in a network
//! namespace of its own, and compares the records with what it sent.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use imds_analyzer_ebpf::{
    abi::{OwnerHook, Request},
    classify::Verdict,
    target,
};

use crate::{
    decode::{self, Record},
    host::{
        namespace::{NetNs, in_first_pid_namespace},
        netlink::Netlink,
    },
};

/// How long the test may take: the records are available when the send returns, unless something is in their way.
const DEADLINE: Duration = Duration::from_secs(2);
/// Time until the test sends again: a flood of other records may have left no room for these.
const TRY: Duration = Duration::from_millis(500);
/// Limit on the other processes' records that are kept during the test; more than the ring buffer holds at once.
const EARLY_MAX: usize = 1 << 16;
/// The answers that the fake IMDS sends, and their statuses.
const ANSWERS: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const STATUSES: [u16; 2] = [200, 404];
/// Pause between two reads of the ring buffer.
const PAUSE: Duration = Duration::from_millis(1);

/// Why the tap is not reliable.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "self-test: cannot send a request: {0:#} (a network namespace needs CAP_SYS_ADMIN and user.max_net_namespaces above 0)"
    )]
    Place(anyhow::Error),
    #[error(
        "self-test: did not see its own request within {} s: a program at another cgroup may drop it, or this is not the host's cgroup root",
        DEADLINE.as_secs()
    )]
    Unseen,
    #[error("self-test: judged its own request {found} instead of {expected}")]
    Verdict { expected: &'static str, found: String },
    #[error("self-test: saw its own request without the path")]
    Path,
    #[error("self-test: saw its own token unmasked")]
    Token,
    /// The bytes are right, but the sender is not.
    #[error("self-test: did not identify the sender of its own request: {0}")]
    Owner(String),
    /// The requests are right, but their answers are not.
    #[error("self-test: did not see the answers to its own requests: {0}")]
    Answers(String),
}

/// The place of the test. Creating it takes longer than the test itself, and does not need the tap.
pub struct Place {
    namespace: NetNs,
    listener: TcpListener,
}

impl Place {
    pub fn new() -> Result<Self, Failure> {
        let new = || {
            let namespace = NetNs::new()?;
            let address = Ipv4Addr::from(target::IPV4);
            let listen = || {
                Netlink::open()?.add_address("lo", address.into(), 32)?;
                // Lets a process without root bind the port. If this write fails, so does the bind, which reports it.
                let opened = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
                let listener = TcpListener::bind((address, target::PORT));
                listener.inspect_err(|_| tracing::debug!("ports for all: {opened:?}"))
            };
            let listener = namespace.run(listen)?.context("a port to listen on")?;
            anyhow::Ok(Self { namespace, listener })
        };
        new().map_err(Failure::Place)
    }

    /// The namespace, in which a fake IMDS listens.
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Sends a v1 and a v2 request, the first in two pieces, and reads `records` until both have arrived, and with
    /// `answers` their answers too. Returns how long it took. Appends the records of other processes to `early`, in
    /// their order.
    pub fn prove(
        &self,
        records: &mut RingBuf<MapData>,
        owner: OwnerHook,
        answers: bool,
        early: &mut Vec<Vec<u8>>,
    ) -> Result<Duration, Failure> {
        let started = Instant::now();
        let mut cookies = Vec::new();
        loop {
            match self.attempt(records, owner, answers, &mut cookies, early) {
                Err(Failure::Unseen) if started.elapsed() < DEADLINE && early.len() < EARLY_MAX => {}
                result => return result.map(|()| started.elapsed()),
            }
        }
    }

    fn attempt(
        &self,
        records: &mut RingBuf<MapData>,
        owner: OwnerHook,
        answers: bool,
        cookies: &mut Vec<u64>,
        early: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let (nonce, token) = (random(), random());
        let path = format!("/latest/meta-data/{nonce}");
        let (cookie, (_client, mut server)) = self
            .send(&[
                "GET /latest/meta-data/",
                &format!("{nonce} HTTP/1.1\r\nHost: imds\r\n\r\n"),
                &format!("GET {path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"),
            ])
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Unseen,
                _ => Failure::Place(anyhow::Error::from(error).context("the connection")),
            })?;
        cookies.push(cookie);
        if answers {
            server
                .write_all(ANSWERS.as_bytes())
                .map_err(|error| Failure::Place(error.into()))?;
        }
        let (mut seen, mut answered) = (Vec::new(), Vec::new());
        let expected: &[u16] = if answers { &STATUSES } else { &[] };
        while seen.len() < 2 || answered.len() < expected.len() {
            while early.len() < EARLY_MAX
                && let Some(bytes) = records.next()
            {
                match decode::decode(&bytes) {
                    Ok(Record::Answer(answer)) if answer.cookie == cookie => answered.push(answer.status),
                    Ok(Record::Answer(answer)) if cookies.contains(&answer.cookie) => {}
                    Ok(Record::Request(request, capture)) if request.cookie == cookie => {
                        seen.push((request, String::from_utf8_lossy(capture).into_owned()));
                    }
                    Ok(Record::Request(request, _) | Record::Pending(request, _))
                        if cookies.contains(&request.cookie) => {}
                    Ok(Record::Owner(announced, ..)) if cookies.contains(&announced.cookie) => {}
                    // The session counts records that cannot be decoded.
                    _ => early.push(bytes.to_vec()),
                }
            }
            if seen.len() < 2 || answered.len() < expected.len() {
                if started.elapsed() > TRY {
                    break;
                }
                thread::sleep(PAUSE);
            }
        }
        if seen.len() < 2 {
            return Err(Failure::Unseen);
        }
        for ((request, capture), expected) in seen.iter().zip([Verdict::V1, Verdict::V2]) {
            check(request, capture, expected, &path, &token)?;
        }
        for (request, _) in &seen {
            check_owner(request, owner)?;
        }
        if answered == expected {
            Ok(())
        } else {
            Err(Failure::Answers(format!("expected {expected:?}, saw {answered:?}")))
        }
    }

    /// Sends each piece in a packet of its own on a new connection. Returns the cookie of its socket, and both of its
    /// ends.
    fn send(&self, pieces: &[&str]) -> io::Result<(u64, (TcpStream, TcpStream))> {
        let address = SocketAddr::from((target::IPV4, target::PORT));
        let connect = || TcpStream::connect_timeout(&address, DEADLINE);
        let mut client = self.namespace.run(connect).map_err(io::Error::other)??;
        client.set_nodelay(true)?;
        client.set_write_timeout(Some(DEADLINE))?;
        let (server, _) = self.listener.accept()?;
        let cookie = rustix::net::sockopt::socket_cookie(&client)?;
        for piece in pieces {
            client.write_all(piece.as_bytes())?;
        }
        Ok((cookie, (client, server)))
    }
}

fn check(request: &Request, capture: &str, expected: Verdict, path: &str, token: &str) -> Result<(), Failure> {
    if request.verdict() != Some(expected) {
        let found = request.verdict().unwrap_or(Verdict::Unknown).as_str();
        return Err(Failure::Verdict {
            expected: expected.as_str(),
            found: match request.reason() {
                Some(reason) => format!("{found}/{}", reason.as_str()),
                None => found.to_owned(),
            },
        });
    }
    if capture.contains(token) {
        return Err(Failure::Token);
    }
    if !capture.starts_with(&format!("GET {path} ")) {
        return Err(Failure::Path);
    }
    Ok(())
}

fn check_owner(request: &Request, owner: OwnerHook) -> Result<(), Failure> {
    let task = &request.task;
    let hook = OwnerHook::from_raw(task.hook).map_or("nobody", OwnerHook::as_str);
    if hook != owner.as_str() {
        return Err(Failure::Owner(format!("{} did not see it, {hook} did", owner.as_str())));
    }
    // In a pid namespace this process has a different id.
    if in_first_pid_namespace() && task.tgid != std::process::id() {
        return Err(Failure::Owner(format!(
            "process {} instead of {}",
            task.tgid,
            std::process::id()
        )));
    }
    Ok(())
}

/// A word that no other process sends.
fn random() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

    use imds_analyzer_ebpf::abi::Task;
    use zerocopy::FromZeros as _;

    use super::*;

    fn request(verdict: Verdict, hook: OwnerHook, tgid: u32) -> Request {
        let mut request = Request::new_zeroed();
        request.verdict = verdict as u8;
        request.task = Task {
            tgid,
            hook: hook as u8,
            ..Task::default()
        };
        request
    }

    #[test]
    fn a_request_is_held_against_what_was_sent() {
        let (path, token) = ("/latest/meta-data/1", "secret");
        let v1 = request(Verdict::V1, OwnerHook::Connect, 1);
        let result = |capture: &str, expected| check(&v1, capture, expected, path, token);
        assert!(result("GET /latest/meta-data/1 HTTP/1.1\n", Verdict::V1).is_ok());
        assert!(matches!(
            result("GET /latest/meta-data/1 HTTP/1.1\n", Verdict::V2),
            Err(Failure::Verdict { expected: "v2", .. })
        ));
        assert!(matches!(
            result("GET /latest/meta-data/12 HTTP/1.1\n", Verdict::V1),
            Err(Failure::Path)
        ));
        assert!(matches!(
            result("GET /latest/meta-data/1 HTTP/1.1\nA: secret\n", Verdict::V1),
            Err(Failure::Token)
        ));
    }

    #[test]
    fn the_sender_is_this_process_and_was_seen_by_the_hook() {
        let own = std::process::id();
        let result = |hook, tgid| check_owner(&request(Verdict::V1, hook, tgid), OwnerHook::TpBtf);
        assert!(result(OwnerHook::TpBtf, own).is_ok());
        assert!(matches!(result(OwnerHook::Connect, own), Err(Failure::Owner(_))));
        assert_eq!(
            result(OwnerHook::TpBtf, own + 1).is_err(),
            in_first_pid_namespace(),
            "another process"
        );
    }

    #[test]
    fn no_two_words_are_the_same() {
        assert_ne!(random(), random());
        assert_eq!(random().len(), 32);
    }
}
