//! One request as the rest of the program sees it: what was asked, the verdict, and who asked.
//!
//! Everything in here is safe to write out: secrets are masked where the fields are made ([`crate::secrets`]), text is
//! valid UTF-8 and bounded. Escaping for a terminal is left to the text sink.

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

pub use self::judgement::{Advice, Cause, Client, ClientSource, Judgement, Risk};
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
    /// Where `process` comes from; `None` exactly when nobody is known.
    pub owner: Option<OwnerHook>,
    pub net_ns: NetNs,
    /// The peer is an address of this host itself.
    pub local: bool,
    /// It repeats another request that was seen: a rootless network helper made a container's call for it.
    pub relay: bool,
    /// X-Forwarded-For is present.
    pub forwarded: bool,
    /// The head breaks the grammar of HTTP.
    pub malformed: bool,
    /// Bytes of the head were in memory that the sender could still change after they were judged.
    pub sender_pages: bool,
    pub http: HttpRequest,
    pub answer: Answer,
    pub judgement: Judgement,
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

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.destination)
    }
}

/// What came back of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    Answered(Reply),
    /// 5 s passed, or the connection ended, without an answer.
    None,
    /// Whether it was answered cannot be told.
    #[default]
    Unseen,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// From the last byte of the request to the first one of the status line.
    pub duration: Duration,
    /// TTL of the IP packet with the status line, or its hop limit, as it arrived.
    pub hop_limit: u8,
}

impl Answer {
    /// The contract's word.
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
    /// A status of 2xx.
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
    /// When it was begun.
    pub time: SystemTime,
    pub outcome: Outcome,
    pub duration: Duration,
    /// Where `process` comes from; `None` exactly when nobody is known.
    pub owner: Option<OwnerHook>,
    pub net_ns: NetNs,
    /// The peer is an address of this host itself.
    pub local: bool,
    /// Absent if no address was chosen.
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    pub process: Option<Arc<Process>>,
    /// The thread that connected, where it is another than the main one.
    pub thread: Option<Thread>,
}

impl Attempt {
    /// What callers are told apart by; `unknown` where nobody is known.
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
        /// Off the packets.
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
        /// 169.254.169.254, mapped into IPv6 too.
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
    }
}

impl Endpoint {
    /// A mapped IPv4 address is IPv4.
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

/// What is known of the request's head; fields are absent where it was cut before them.
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

/// The process that sent the request, as `settings.args` allows to show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// What callers are told apart by, the same from one run of the program to the next: `program`, and the place it
    /// runs in.
    pub caller: String,
    /// The executable, or the script of an interpreter; the name in brackets where the executable is not known. A tool
    /// that another program runs is `script > tool`.
    pub program: String,
    /// The script or program before ` > ` in `program`.
    pub run_by: Option<String>,
    /// It is a rootless network helper, which makes the calls of others.
    pub network_helper: bool,
    /// Where what is known comes from in the first place.
    pub source: Source,
    pub executable: Option<String>,
    /// The kernel says that `executable` is the system's: in the mount and user namespace of pid 1, and a file that root
    /// owns and nobody else may write. Rules go by no other one.
    pub executable_trusted: bool,
    /// The process is in another user namespace than pid 1: root there can make the kernel name any file as the
    /// executable (PR_SET_MM_MAP).
    pub executable_claimed: bool,
    /// Masked; empty where nothing could be read.
    pub args: Vec<String>,
    /// `args` is not all there was.
    pub args_truncated: bool,
    pub start: Option<SystemTime>,
    /// As of when the process was announced.
    pub working_directory: Option<String>,
    /// The parent first, pid 1 last. A parent that has exited since is kept where it had been seen.
    pub ancestors: Vec<Ancestor>,
    pub user: User,
    pub group_id: Option<u32>,
    /// Who logged in, whatever user they have become since; `None` outside of logins.
    pub login: Option<Login>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// The unit of this host's own systemd: `unit`, unless that is one inside of a container. Rules go by it.
    pub system_unit: Option<String>,
    pub slice: Option<String>,
    /// Unit and slice as a user has named them: below a user's own systemd, or below a cgroup that belongs to a user.
    pub user_unit: Option<String>,
    pub user_slice: Option<String>,
    /// Id of the login session.
    pub session: Option<String>,
    /// Named by the system: nothing that a user can name gets here.
    pub container: Option<Container>,
    pub orchestrator: Option<Orchestrator>,
    /// The container that a user's cgroup says it is, without name and image. Its id may be that of any other.
    pub user_container: Option<Container>,
}

vocabulary! {
    /// Where the facts on a process come from, `process.source`.
    #[derive(Default)]
    pub enum Source {
        /// Read in the kernel while the process connected or sent; /proc only adds to them.
        #[default]
        Kernel = "kernel",
        /// Read in /proc afterwards: the process had not been announced.
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

/// What the kernel's audit remembers of a login, through sudo and su.
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
    /// Where the runtime's own files on this host have it.
    pub name: Option<String>,
    pub image: Option<String>,
}

impl Container {
    /// Its name, else as much of its id as `docker ps` shows.
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

/// What placed the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orchestrator {
    pub platform: Platform,
    /// Pod uid, or task id.
    pub id: String,
    pub qos: Option<Qos>,
    /// Of the pod, where the runtime's own files have it; of the task, its family.
    pub name: Option<String>,
    pub namespace: Option<String>,
    /// ECS cluster.
    pub cluster: Option<String>,
}

impl Orchestrator {
    /// Of which the id is known.
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
    /// What the platform runs containers in.
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
