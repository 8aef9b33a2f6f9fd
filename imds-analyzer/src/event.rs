//! One request as the rest of the program sees it: what was asked, the verdict, and who asked.
//!
//! Everything in here is safe to write out: secrets are masked where the fields are made ([`crate::secrets`]), text is
//! valid UTF-8 and bounded. Escaping for a terminal is left to the text sink.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use imds_analyzer_ebpf::{
    abi::OwnerHook,
    classify::{PathClass, Reason, Verdict},
};

/// A judged request and its caller.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: SystemTime,
    pub verdict: Verdict,
    /// Why the verdict is `unknown`.
    pub reason: Option<Reason>,
    pub path_class: PathClass,
    pub tap: Tap,
    /// Where `process` comes from; `None` exactly when nobody is known.
    pub owner: Option<OwnerHook>,
    pub net_ns: NetNs,
    /// The peer is an address of this host itself.
    pub local: bool,
    /// X-Forwarded-For is present.
    pub forwarded: bool,
    pub http: HttpRequest,
    pub source: SocketAddr,
    /// The socket's peer.
    pub destination: SocketAddr,
    /// What the packet said, where netfilter rewrote it.
    pub packet_destination: Option<SocketAddr>,
    /// Shared: many requests come from one process.
    pub process: Option<Arc<Process>>,
    /// The thread that sent, where it is another than the main one.
    pub thread: Option<Thread>,
}

impl Event {
    /// What callers are told apart by; `unknown` where nobody is known.
    pub fn caller(&self) -> &str {
        self.process.as_ref().map_or("unknown", |process| &process.caller)
    }

    /// `imds.endpoint`: a mapped IPv4 address is IPv4.
    pub fn endpoint(&self) -> &'static str {
        match self.destination.ip().to_canonical() {
            IpAddr::V4(_) => "ipv4",
            IpAddr::V6(_) => "ipv6",
        }
    }
}

/// How the bytes were seen, `imds.tap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Off the packets.
    Wire,
    /// From the sender's memory.
    Send,
}

impl Tap {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Send => "send",
        }
    }
}

/// The socket's network namespace, `imds.netns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetNs {
    Host,
    Other,
}

impl NetNs {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Other => "other",
        }
    }
}

/// What is known of the request's head; fields are absent where it was cut before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: Option<String>,
    /// The request target as sent, with secrets masked.
    pub target: Option<String>,
    /// The path of `target`: without query, and without scheme and authority.
    pub path: Option<String>,
    /// `1.1`, `1.0`, `0.9`.
    pub version: Option<&'static str>,
    pub user_agent: Option<String>,
}

/// The process that sent the request, as `settings.args` allows to show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// What callers are told apart by, the same from one run of the program to the next.
    pub caller: String,
    pub executable: Option<String>,
    /// Masked; empty where nothing could be read.
    pub args: Vec<String>,
    /// `args` is not all there was.
    pub args_truncated: bool,
    pub start: Option<SystemTime>,
    pub working_directory: Option<String>,
    /// The parent first, pid 1 last.
    pub ancestors: Vec<Ancestor>,
    pub user: User,
    pub group_id: Option<u32>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    pub container: Option<Container>,
    /// Pod uid.
    pub pod: Option<String>,
}

/// One of [`Process::ancestors`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ancestor {
    pub pid: u32,
    pub name: String,
    pub executable: Option<String>,
    /// Masked.
    pub args: Vec<String>,
    pub user_id: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub id: Option<u32>,
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub id: u32,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub runtime: Option<String>,
}
