//! One request as the rest of the program sees it: what was asked, the verdict, and who asked.
//!
//! Everything in here is safe to write out: secrets are masked where the fields are made ([`crate::secrets`]), and text
//! is valid UTF-8 and bounded. Escaping for a terminal is left to the text sink.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::{
    abi::{OwnerHook, exchange::Outcome},
    classify::{PathClass, Reason, Verdict},
};

mod judgement;

pub use self::judgement::{Advice, Cause, Client, ClientSource, FileState, Judgement, Package, Program, Risk};
use crate::vocabulary::vocabulary;

/// A judged request and its caller.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: SystemTime,
    pub verdict: Verdict,
    /// Why the verdict is `unknown`.
    pub reason: Option<Reason>,
    pub path_class: PathClass,
    pub tap: Tap,
    /// The source of `process`. `None` exactly when no process is known.
    pub owner: Option<OwnerHook>,
    pub net_ns: NetNs,
    /// True if the peer is an address of this host.
    pub local: bool,
    /// True if this repeats another request that was seen: a rootless network helper repeated a container's call.
    pub relay: bool,
    /// True if X-Forwarded-For is present.
    pub forwarded: bool,
    /// True if the head breaks the grammar of HTTP.
    pub malformed: bool,
    /// True if the sender could still change bytes of the head in memory after they were judged.
    pub sender_pages: bool,
    pub rehearsal: Rehearsal,
    pub http: HttpRequest,
    pub answer: Answer,
    pub judgement: Judgement,
    pub source: SocketAddr,
    /// The socket's peer.
    pub destination: SocketAddr,
    /// The destination in the packet, if netfilter rewrote it.
    pub packet_destination: Option<SocketAddr>,
    /// Shared, because many requests come from one process.
    pub process: Option<Arc<Process>>,
    /// The thread that sent the request, if it is not the main thread.
    pub thread: Option<Thread>,
}

impl Event {
    /// The key that identifies a caller; `unknown` if no process is known.
    pub fn caller(&self) -> &str {
        self.process.as_ref().map_or("unknown", |process| &process.caller)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.destination)
    }

    /// True if a rehearsal answered the request in place of IMDS. IMDS answers a request that was kept back if the
    /// rehearsal ends first.
    pub fn is_rehearsed(&self) -> bool {
        self.rehearsal == Rehearsal::KeptBack && self.answer.status() == Some(UNAUTHORIZED)
    }
}

/// What a rehearsal does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rehearsal {
    #[default]
    Nothing,
    /// It keeps the request back, to answer it in place of IMDS.
    KeptBack,
    /// Were it not a dry run, it would.
    Would,
    /// Its caller is chosen, but it lets the request through on purpose.
    Exempt,
}

/// The status of an answer to a call without a valid token, where tokens are required.
pub const UNAUTHORIZED: u16 = 401;

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    Answered(Reply),
    /// No answer came within 5 s or before the connection ended.
    None,
    /// Nobody can tell if the request was answered.
    #[default]
    Unseen,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// From the last byte of the request to the first one of the status line.
    pub duration: Duration,
    /// TTL (IPv4) or hop limit (IPv6) of the packet with the status line, as it arrived; `None` on the send tap.
    pub hop_limit: Option<u8>,
}

impl Answer {
    /// The word in records, `imds.answer`.
    pub const fn word(self) -> AnswerWord {
        match self {
            Self::Answered(_) => AnswerWord::Answered,
            Self::None => AnswerWord::None,
            Self::Unseen => AnswerWord::Unseen,
        }
    }

    pub const fn reply(self) -> Option<Reply> {
        match self {
            Self::Answered(reply) => Some(reply),
            Self::None | Self::Unseen => None,
        }
    }

    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Answered(reply) => Some(reply.status),
            Self::None | Self::Unseen => None,
        }
    }
}

impl Reply {
    /// True if the status is 2xx.
    pub const fn is_success(self) -> bool {
        self.status / 100 == 2
    }
}

vocabulary! {
    /// `imds.answer`.
    pub enum AnswerWord {
        Answered = "answered",
        None = "none",
        Unseen = "unseen",
    }
}

/// A connection to IMDS that ended without a byte of a request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When the connection was begun.
    pub time: SystemTime,
    pub outcome: Outcome,
    pub duration: Duration,
    /// The source of `process`. `None` exactly when no process is known.
    pub owner: Option<OwnerHook>,
    pub net_ns: NetNs,
    /// True if the peer is an address of this host.
    pub local: bool,
    /// `None` if the kernel had not chosen a source address.
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    pub process: Option<Arc<Process>>,
    /// The thread that connected, if it is not the main thread.
    pub thread: Option<Thread>,
}

impl Attempt {
    /// The key that identifies a caller; `unknown` if no process is known.
    pub fn caller(&self) -> &str {
        self.process.as_ref().map_or("unknown", |process| &process.caller)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.destination)
    }
}

vocabulary! {
    /// How the bytes were seen, `imds.tap`.
    pub enum Tap {
        /// From the packets.
        Wire = "wire",
        /// From the sender's memory.
        Send = "send",
    }
}

vocabulary! {
    /// The socket's network namespace, `imds.netns`.
    pub enum NetNs {
        Host = "host",
        Other = "other",
    }
}

vocabulary! {
    /// Which address of the metadata service was called, `imds.endpoint`.
    pub enum Endpoint {
        /// 169.254.169.254, also as an IPv4-mapped IPv6 address.
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
    }
}

impl Endpoint {
    /// Treats an IPv4-mapped address as IPv4.
    fn of(destination: SocketAddr) -> Self {
        match destination.ip().to_canonical() {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

vocabulary! {
    /// `http.version`.
    pub enum HttpVersion {
        Http09 = "0.9",
        Http10 = "1.0",
        Http11 = "1.1",
    }
}

/// The known parts of the request's head. Fields after the point where the head was cut are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: Option<String>,
    /// The request target as sent, with secrets masked.
    pub target: Option<String>,
    /// The path of `target`: without query, and without scheme and authority.
    pub path: Option<String>,
    pub version: Option<HttpVersion>,
    pub user_agent: Option<String>,
}

/// The process that sent the request, with as much of its arguments as `settings.args` allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// The key that identifies a caller: `program` and the place it runs in. It is the same in every run of the
    /// program.
    pub caller: String,
    /// The executable, or the script of an interpreter. If the executable is not known, the process name in brackets.
    /// If another program runs a tool, `script > tool`.
    pub program: String,
    /// The script or program before ` > ` in `program`.
    pub run_by: Option<String>,
    /// True for a rootless network helper, which makes calls for others.
    pub network_helper: bool,
    /// The main source of the facts.
    pub source: Source,
    pub executable: Option<String>,
    /// True if the kernel says that `executable` belongs to the system: the process is in the mount and user namespace
    /// of pid 1, and the file is owned by root and not writable for anyone else. Rules match no other executable.
    pub executable_trusted: bool,
    /// True if the process is in another user namespace than pid 1: root in there can make the kernel name any file as
    /// the executable (PR_SET_MM_MAP).
    pub executable_claimed: bool,
    /// Masked; empty if they could not be read.
    pub args: Vec<String>,
    /// True if `args` is incomplete.
    pub args_truncated: bool,
    pub start: Option<SystemTime>,
    /// The directory at the time when the process was announced.
    pub working_directory: Option<String>,
    /// The parent first, pid 1 last. A parent that has exited since is kept if it had been seen.
    pub ancestors: Vec<Ancestor>,
    pub user: User,
    pub group_id: Option<u32>,
    /// The user who logged in, even after sudo or su; `None` outside of logins.
    pub login: Option<Login>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// The unit of this host's own systemd: `unit`, unless that unit is inside a container. Rules match this unit.
    pub system_unit: Option<String>,
    pub slice: Option<String>,
    /// Unit and slice with names that a user chose: below a user's own systemd, or below a cgroup that belongs to a
    /// user.
    pub user_unit: Option<String>,
    pub user_slice: Option<String>,
    /// Id of the login session.
    pub session: Option<String>,
    /// Named by the system. A name that a user can choose never gets here.
    pub container: Option<Container>,
    pub orchestrator: Option<Orchestrator>,
    /// The container that a user's cgroup claims to be, without name and image. Its id may be that of another
    /// container.
    pub user_container: Option<Container>,
}

vocabulary! {
    /// The source of the facts on a process, `process.source`.
    #[derive(Default)]
    pub enum Source {
        /// Read in the kernel while the process connected or sent. /proc only adds facts.
        #[default]
        Kernel = "kernel",
        /// Read from /proc afterwards, because the process had not been announced.
        Proc = "proc",
    }
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

/// Arguments as one text, separated by spaces.
pub fn command_line(args: &[String]) -> impl fmt::Display + '_ {
    fmt::from_fn(|f| {
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(arg)?;
        }
        Ok(())
    })
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub id: Option<u32>,
    pub name: Option<String>,
}

/// The kernel audit's record of a login, kept through sudo and su.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    pub user: User,
    /// Number of the audit session.
    pub session: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub id: u32,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub runtime: Option<Runtime>,
    /// `None` if the runtime's own files on this host do not have it.
    pub name: Option<String>,
    pub image: Option<String>,
}

impl Container {
    /// The container's name. Without one, as much of its id as `docker ps` shows.
    pub fn short_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.get(..12).unwrap_or(&self.id))
    }
}

vocabulary! {
    /// `container.runtime`.
    pub enum Runtime {
        Docker = "docker",
        Containerd = "containerd",
        CriO = "cri-o",
        Podman = "podman",
        Lxc = "lxc",
        Nspawn = "systemd-nspawn",
    }
}

/// The orchestrator that placed the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orchestrator {
    pub platform: Platform,
    /// Pod uid, or task id.
    pub id: String,
    pub qos: Option<Qos>,
    /// The pod's name, if the runtime's own files have it; for a task, its family.
    pub name: Option<String>,
    pub namespace: Option<String>,
    /// ECS cluster.
    pub cluster: Option<String>,
}

impl Orchestrator {
    /// An orchestrator of which only the id is known.
    pub const fn new(platform: Platform, id: String) -> Self {
        Self {
            platform,
            id,
            qos: None,
            name: None,
            namespace: None,
            cluster: None,
        }
    }
}

vocabulary! {
    /// `orchestrator.type`.
    pub enum Platform {
        Kubernetes = "kubernetes",
        Ecs = "ecs",
    }
}

impl Platform {
    /// The word for the unit in which the platform runs containers.
    pub const fn workload(self) -> Workload {
        match self {
            Self::Kubernetes => Workload::Pod,
            Self::Ecs => Workload::Task,
        }
    }
}

vocabulary! {
    /// `orchestrator.resource.type`.
    pub enum Workload {
        Pod = "pod",
        Task = "task",
    }
}

vocabulary! {
    /// Quality of service class of a pod, `kubernetes.qos`.
    pub enum Qos {
        Guaranteed = "guaranteed",
        Burstable = "burstable",
        BestEffort = "besteffort",
    }
}
