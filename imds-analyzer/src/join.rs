//! Wire records and owners become events, each request exactly once.
//!
//! A head that a packet left unfinished is noticed by the kernel side and kept here: if its end does not come within
//! [`HEAD_TIMEOUT`] it is reported `unknown`, and its end, should it still come, is not reported again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::{
    abi::{OwnerHook, Request, Task, request_flags},
    classify::{self, PathClass, Reason, Verdict, facts},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    event::{Event, NetNs, Tap, Thread},
    http,
    process::{
        Resolver,
        sockets::{ExistingSocket, find_existing},
    },
    sanitize,
};

mod relay;

use self::relay::Relays;

/// How long a head may be unfinished.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Unfinished heads remembered; beyond that the oldest is reported early.
const PENDING_MAX: usize = 4096;
/// Heads reported by time-out whose end may still come.
const REPORTED_MAX: usize = 4096;

/// A head, by its socket and the sequence number of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct HeadKey {
    cookie: u64,
    sock: u64,
    seq: u32,
}

impl HeadKey {
    fn of(request: &Request) -> Self {
        Self {
            cookie: request.cookie,
            sock: request.sock,
            seq: request.seq,
        }
    }
}

/// The stage between decoding and the sinks.
pub struct Join {
    resolver: Resolver,
    pending: HashMap<HeadKey, (Request, Vec<u8>)>,
    /// The keys of `pending` by the time their notice came, and when that was in ns since boot.
    deadlines: VecDeque<(u64, HeadKey)>,
    reported: HashSet<HeadKey>,
    reported_order: VecDeque<HeadKey>,
    relays: Relays,
    /// Sockets older than the tool, by cookie.
    existing: HashMap<u64, ExistingSocket>,
    /// The cookie last looked for in vain: a look goes through all of /proc, and a connection has many requests.
    not_found: Option<u64>,
    /// Ends of heads that had been reported by time-out.
    late_heads: u64,
    /// Requests of which nobody knows the process.
    ownerless: u64,
    /// Looks that failed in searches for the owners of older sockets.
    search_failures: u64,
}

impl Join {
    pub fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            pending: HashMap::new(),
            deadlines: VecDeque::new(),
            reported: HashSet::new(),
            reported_order: VecDeque::new(),
            relays: Relays::default(),
            existing: HashMap::new(),
            not_found: None,
            late_heads: 0,
            ownerless: 0,
            search_failures: 0,
        }
    }

    pub fn resolver(&mut self) -> &mut Resolver {
        &mut self.resolver
    }

    /// Looks for sockets that are connected to IMDS already. Called once the hooks are in place, so that none is
    /// missed in between.
    pub fn find_existing_sockets(&mut self) {
        match find_existing() {
            Ok(found) => {
                self.search_failures += found.failures;
                self.existing
                    .extend(found.sockets.into_iter().map(|socket| (socket.cookie, socket)));
            }
            Err(error) => {
                self.search_failures += 1;
                tracing::warn!("sockets that were open before cannot be found: {error:#}");
            }
        }
    }

    /// What went wrong or was left out here and in the resolver, by kind.
    pub fn counters(&self) -> [(&'static str, u64); 5] {
        let resolver = self.resolver.counters();
        // A process that may not be looked at is common; it matters when someone was looked for in vain.
        let search_failures = if self.ownerless > 0 { self.search_failures } else { 0 };
        [
            ("requests_without_process", self.ownerless),
            ("socket_search_failures", search_failures),
            ("late_heads", self.late_heads),
            ("process_read_failures", resolver.failures),
            ("processes_unannounced", resolver.unannounced),
        ]
    }

    /// A judged head.
    pub fn request(&mut self, request: &Request, capture: &[u8]) -> Option<Event> {
        let key = HeadKey::of(request);
        self.pending.remove(&key);
        if self.reported.remove(&key) {
            self.late_heads += 1;
            return None;
        }
        Some(self.event(request, capture))
    }

    /// A head that has begun. Returns another one that has to be reported to make room for it.
    pub fn unfinished(&mut self, request: &Request, capture: &[u8]) -> Option<Event> {
        let key = HeadKey::of(request);
        if self.pending.insert(key, (*request, capture.to_vec())).is_none() {
            self.deadlines.push_back((request.header.time, key));
        }
        if self.pending.len() > PENDING_MAX {
            self.next_expired(u64::MAX, Reason::Unfinished)
        } else {
            None
        }
    }

    /// How long until a head times out.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        while let Some((begun, key)) = self.deadlines.front() {
            if self.pending.contains_key(key) {
                return Some((Duration::from_nanos(*begun) + HEAD_TIMEOUT).saturating_sub(since_boot()));
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// The next head that has timed out by now.
    pub fn expired(&mut self) -> Option<Event> {
        let timeout = HEAD_TIMEOUT.as_nanos() as u64;
        self.next_expired(
            (since_boot().as_nanos() as u64).saturating_sub(timeout),
            Reason::Timeout,
        )
    }

    /// All heads that are still unfinished, at the end of a run.
    pub fn unfinished_at_end(&mut self) -> Option<Event> {
        self.next_expired(u64::MAX, Reason::Unfinished)
    }

    fn next_expired(&mut self, begun_until: u64, reason: Reason) -> Option<Event> {
        loop {
            let (begun, key) = *self.deadlines.front()?;
            if begun > begun_until {
                return None;
            }
            self.deadlines.pop_front();
            let Some((mut request, capture)) = self.pending.remove(&key) else {
                continue;
            };
            request.verdict = Verdict::Unknown as u8;
            request.reason = reason as u8;
            self.remember_reported(key);
            return Some(self.event(&request, &capture));
        }
    }

    fn remember_reported(&mut self, key: HeadKey) {
        if self.reported.insert(key) {
            self.reported_order.push_back(key);
        }
        while self.reported_order.len() > REPORTED_MAX {
            if let Some(oldest) = self.reported_order.pop_front() {
                self.reported.remove(&oldest);
            }
        }
    }

    fn event(&mut self, request: &Request, capture: &[u8]) -> Event {
        let reason = request.reason();
        let verdict = request.verdict().unwrap_or(Verdict::Unknown);
        let http = http::parse(capture, request.facts, reason);
        let path_class = match (reason, &http.target) {
            // Found by scanning: the kernel side saw a line, not a target.
            (Some(Reason::Framing | Reason::Gap | Reason::Midstream), Some(target)) => {
                classify::path_class(target.as_bytes())
            }
            _ => request.path_class().unwrap_or(PathClass::NotImds),
        };
        let (process, owner) = self.owner(request);
        let host_net_ns = self.resolver.host_net_ns();
        let is_helper = process.as_ref().is_some_and(|process| process.network_helper);
        let relay = is_helper && self.relays.is_relayed(request, capture);
        if !is_helper && Some(request.net_ns) != host_net_ns {
            self.relays.sent(request, capture);
        }
        let destination = address(request.family, request.destination, request.destination_port);
        let packet_destination = address(request.family, request.packet_destination, request.packet_port);
        Event {
            time: wall_clock(request.header.time),
            verdict,
            reason,
            path_class,
            tap: if request.flags & request_flags::SEND_TAP != 0 {
                Tap::Send
            } else {
                Tap::Wire
            },
            owner,
            net_ns: if Some(request.net_ns) == host_net_ns {
                NetNs::Host
            } else {
                NetNs::Other
            },
            local: request.flags & request_flags::LOCAL != 0,
            relay,
            forwarded: request.facts & facts::FORWARDED != 0,
            malformed: request.facts & facts::MALFORMED != 0,
            sender_pages: request.flags & request_flags::SENDER_PAGES != 0,
            http,
            source: address(request.family, request.source, request.source_port),
            destination,
            packet_destination: (packet_destination != destination).then_some(packet_destination),
            thread: thread(&request.task),
            process,
        }
    }

    /// The process behind a request: from the kernel's notes, or, for a socket older than the tool, from a search.
    fn owner(&mut self, request: &Request) -> (Option<std::sync::Arc<crate::event::Process>>, Option<OwnerHook>) {
        if let Some(process) = self.resolver.resolve(&request.task) {
            return (Some(process), OwnerHook::from_raw(request.task.hook));
        }
        if !self.existing.contains_key(&request.cookie) && self.not_found != Some(request.cookie) {
            self.find_existing_sockets();
            if !self.existing.contains_key(&request.cookie) {
                self.not_found = Some(request.cookie);
            }
        }
        let holder = self
            .existing
            .get(&request.cookie)
            .and_then(|socket| socket.holders.first().copied());
        match holder.and_then(|pid| self.resolver.from_pid(pid)) {
            Some(process) => (Some(process), Some(OwnerHook::SockDiag)),
            None => {
                self.ownerless += 1;
                (None, None)
            }
        }
    }
}

/// The thread, where it is not the process's first.
fn thread(task: &Task) -> Option<Thread> {
    (task.tgid != 0 && task.tid != task.tgid).then(|| Thread {
        id: task.tid,
        name: sanitize::comm(&task.thread_comm),
    })
}

fn address(family: u8, bytes: [u8; 16], port: u16) -> SocketAddr {
    let [a, b, c, d, ..] = bytes;
    let ip = if family == 6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    SocketAddr::new(ip, port)
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// The wall clock's time at `boot_time` ns since boot, by what both clocks say now.
fn wall_clock(boot_time: u64) -> SystemTime {
    let age = since_boot().saturating_sub(Duration::from_nanos(boot_time));
    let now = SystemTime::now();
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests;
