//! Records, offsets, loss kinds and names that both sides use.
//!
//! Layout is `repr(C)` without padding bytes; sizes are asserted below, so the compiler catches a change.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Maximum bytes of masked head that travel with a request.
pub use crate::classify::CAPTURE_MAX;
use crate::classify::{Method, PathClass, Reason, Verdict};

pub mod exchange;
pub mod legacy;
pub mod rehearsal;

/// Names of the programs in the object, as user space loads them.
pub mod program {
    pub const EGRESS: &str = "imds_egress";
    pub const INGRESS: &str = "imds_ingress";
    pub const CONNECT4: &str = "imds_connect4";
    pub const CONNECT6: &str = "imds_connect6";
    pub const RELEASE: &str = "imds_release";
    pub const TP_BTF: &str = "imds_tp_btf";
    pub const FENTRY: &str = "imds_fentry";
    pub const KPROBE: &str = "imds_kprobe";
    /// In a rehearsal, these run instead of the programs at the same hooks.
    pub const REHEARSE_EGRESS: &str = "imds_rehearse_egress";
    pub const REHEARSE_INGRESS: &str = "imds_rehearse_ingress";
    pub const REHEARSE_RELEASE: &str = "imds_rehearse_release";

    /// The function that the sender hooks are attached to, and the tracepoint of the same name.
    pub const SENDER: &str = "tcp_sendmsg_locked";
}

/// Names of the maps in the object.
pub mod map {
    pub const RECORDS: &str = "RECORDS";
    pub const LOSS: &str = "LOSS";
    /// [`super::rehearsal::Choice`]s and their values.
    pub const CHOICE: &str = "CHOICE";
}

/// Names of the constants in the modern object that user space writes before load.
pub mod constant {
    /// An [`super::Offsets`].
    pub const OFFSETS: &str = "OFFSETS";
    /// A [`super::Budget`].
    pub const BUDGET: &str = "BUDGET";
    /// A `u32`: 1 to track the answers on each connection, 0 not to.
    pub const ANSWERS: &str = "ANSWERS";
    /// The point at which digests of payload are evaluated: a random `u32` below 2^31 - 1.
    pub const DIGEST_KEY: &str = "DIGEST_KEY";
    /// A [`super::rehearsal::Rehearsal`].
    pub const REHEARSAL: &str = "REHEARSAL";
}

/// Maximum bytes of argv that the kernel side reads: its first page.
pub const ARGV_MAX: usize = 4096;
/// The argv of most processes fits here, and their announcement takes so much less of the ring buffer.
pub const ARGV_SHORT: usize = 512;
/// Maximum number of ancestors that the kernel side records; user space continues longer chains from /proc.
pub const ANCESTORS_MAX: usize = 24;
/// The capture of most heads fits here.
pub const CAPTURE_SHORT: usize = 256;
/// Maximum bytes of paths that travel with an announced process: the names of all three paths.
pub const PATHS_MAX: usize = 1024;
/// Bytes that must be free for a name, or else its path is left out: `NAME_MAX` of Linux and a NUL.
pub const NAME_MAX: usize = 256;
/// Length of the kernel's `comm`, `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;

/// What follows a [`Header`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RecordKind {
    /// An [`Owner`] and its argv.
    Owner = 1,
    /// A [`Request`] and its capture.
    Request = 2,
    /// Like [`RecordKind::Request`], for a head that is not finished yet: a later record with the same socket and
    /// sequence number replaces it.
    Pending = 3,
    /// A [`legacy::Send`] and its bytes.
    Send = 4,
    /// A [`legacy::ForkOrExec`].
    ForkOrExec = 5,
    /// A [`legacy::Packet`] and its bytes, from the IP header on.
    Packet = 6,
    /// A [`Request`] that stands for `head_len` bytes of the stream from `seq` on, which were judged and then sent
    /// again with other bytes: heads in that range are [`Reason::Changed`].
    Changed = 7,
    /// An [`exchange::Answer`].
    Answer = 8,
    /// An [`exchange::Attempt`].
    Attempt = 9,
    /// A [`rehearsal::Refusal`].
    Refusal = 10,
}

impl RecordKind {
    pub const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Owner,
            2 => Self::Request,
            3 => Self::Pending,
            4 => Self::Send,
            5 => Self::ForkOrExec,
            6 => Self::Packet,
            7 => Self::Changed,
            8 => Self::Answer,
            9 => Self::Attempt,
            10 => Self::Refusal,
            _ => return None,
        })
    }
}

/// The hook that identified the owner of a socket or the sender of a request; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OwnerHook {
    /// The connecting process, from the cgroup connect hooks.
    Connect = 1,
    /// The sender's context, tp_btf `tcp_sendmsg_locked`.
    TpBtf = 2,
    /// The sender's context, fentry `tcp_sendmsg_locked`.
    Fentry = 3,
    /// The sender's context, kprobe `tcp_sendmsg_locked`.
    Kprobe = 4,
    /// Found by user space: the socket is older than the tool.
    SockDiag = 5,
    /// The task that was running when the SYN left: the last resort, if no other hook saw the socket.
    Egress = 6,
}

impl OwnerHook {
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::TpBtf,
        Self::Fentry,
        Self::Kprobe,
        Self::SockDiag,
        Self::Egress,
    ];

    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Connect,
            2 => Self::TpBtf,
            3 => Self::Fentry,
            4 => Self::Kprobe,
            5 => Self::SockDiag,
            6 => Self::Egress,
            _ => return None,
        })
    }

    /// The value of `imds.owner`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::TpBtf => "tp_btf",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::SockDiag => "sock_diag",
            Self::Egress => "egress",
        }
    }
}

/// Starts every record.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub time: u64,
    /// A [`RecordKind`].
    pub kind: u16,
    /// Valid bytes of variable data (argv or capture) after the fixed part.
    pub data_len: u16,
    /// Always 0.
    pub reserved: u32,
}

/// A process and its thread that acted. `tgid` is 0 if the process is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// When the process started: `start_boottime` of its group leader, ns since boot.
    pub start: u64,
    /// Changes when the process executes another program, and never repeats; otherwise opaque. The kernel's
    /// `self_exec_id`, which counts a process's execs, if it can be read.
    pub exec: u64,
    /// Id of the cgroup v2; 0 if there is none or the hook cannot read it.
    pub cgroup: u64,
    /// Process id and thread id, in the initial pid namespace.
    pub tgid: u32,
    pub tid: u32,
    /// Real user and group id, in the initial user namespace.
    pub uid: u32,
    pub gid: u32,
    /// Inode number of the pid namespace.
    pub pid_ns: u32,
    /// An [`OwnerHook`], 0 when `tgid` is 0.
    pub hook: u8,
    pub reserved: [u8; 3],
    /// Name of the process (its group leader's `comm`) and of the thread, NUL padded.
    pub comm: [u8; COMM_LEN],
    pub thread_comm: [u8; COMM_LEN],
}

/// One ancestor; a list of ancestors begins with the parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ancestor {
    /// Like [`Task::start`].
    pub start: u64,
    pub tgid: u32,
    pub uid: u32,
    pub comm: [u8; COMM_LEN],
}

/// A process seen connecting or sending, with the facts that are lost when it exits. `paths_room` bytes of [`Paths`]
/// follow, then `data_len` bytes of argv, as the process holds it: NUL-separated.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Owner {
    pub header: Header,
    /// Address of the kernel's `struct sock`, a key only.
    pub sock: u64,
    /// The socket's cookie, as `SO_COOKIE` and sock_diag give it; 0 when not known.
    pub cookie: u64,
    pub task: Task,
    /// Inode number of the socket's network namespace.
    pub net_ns: u32,
    /// Length of the whole argv in the process, in bytes; more than `data_len` when it was cut.
    pub argv_len: u32,
    pub ancestors_len: u32,
    /// [`PATHS_MAX`], or 0 if no paths are read.
    pub paths_room: u32,
    pub executable: Executable,
    /// The user who logged in and the session, both according to audit; `u32::MAX` if there is none.
    pub login_uid: u32,
    pub login_session: u32,
    pub paths: Paths,
    pub ancestors: [Ancestor; ANCESTORS_MAX],
}

/// The file that a process executes (`mm->exe_file`) and the namespaces it runs in, which a path alone does not prove.
/// All zeroes if the kernel side did not read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Executable {
    /// Inode number, and the device in the format of the kernel's `dev_t` (20 bits of minor number).
    pub inode: u64,
    pub device: u32,
    /// Owner in the initial user namespace, and `i_mode`.
    pub uid: u32,
    pub mode: u32,
    /// Inode numbers of the process's mount and user namespace.
    pub mount_ns: u32,
    pub user_ns: u32,
    pub reserved: u32,
}

/// Where each path of a process ends in the bytes that follow its [`Owner`]: first the executable's, then the working
/// directory's, then the cgroup's. Each path begins with its innermost name, and each name ends with a NUL:
/// `python3\0bin\0usr\0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Paths {
    pub executable_end: u16,
    pub working_directory_end: u16,
    pub cgroup_end: u16,
    /// [`path_flags`].
    pub flags: u16,
}

/// Bits of [`Paths::flags`]. A path without its bit was not read up to its root and is not valid.
pub mod path_flags {
    pub const EXECUTABLE: u16 = 1;
    pub const WORKING_DIRECTORY: u16 = 1 << 1;
    pub const CGROUP: u16 = 1 << 2;
    /// The file or directory has been removed since.
    pub const EXECUTABLE_DELETED: u16 = 1 << 3;
    pub const WORKING_DIRECTORY_DELETED: u16 = 1 << 4;
}

/// An [`Owner`] with room for `N` bytes of argv.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OwnerRecord<const N: usize> {
    pub owner: Owner,
    pub names: [u8; PATHS_MAX],
    pub argv: [u8; N],
}

/// One request head and the verdict on it. `data_len` bytes of capture follow: the request line and the header lines
/// whose values may be shown, as [`crate::classify::Capture`] describes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    pub header: Header,
    pub sock: u64,
    pub cookie: u64,
    /// The sender of the head's first byte.
    pub task: Task,
    /// TCP sequence number of the head's first byte.
    pub seq: u32,
    /// Length of the head, as far as it was seen.
    pub head_len: u32,
    /// A [`Verdict`], a [`Reason`] (0 for none), a [`Method`] and a [`PathClass`].
    pub verdict: u8,
    pub reason: u8,
    pub method: u8,
    pub path_class: u8,
    /// [`crate::classify::facts`].
    pub facts: u16,
    /// [`request_flags`].
    pub flags: u16,
    pub net_ns: u32,
    /// 4 or 6: what `source`, `destination` and `packet_destination` hold (IPv4 in the first four bytes).
    pub family: u8,
    pub reserved: [u8; 3],
    pub source: [u8; 16],
    /// The socket's peer: what the sender connected to.
    pub destination: [u8; 16],
    /// The destination in the packet's header, which differs if netfilter rewrote it.
    pub packet_destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    pub packet_port: u16,
    pub reserved2: u16,
    /// Number of the request on its connection, from 0 on; valid with [`request_flags::NUMBERED`].
    pub index: u32,
    pub reserved3: u32,
}

/// A [`Request`] with room for `N` bytes of capture.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RequestRecord<const N: usize> {
    pub request: Request,
    pub capture: [u8; N],
}

/// Bits of [`Request::flags`].
pub mod request_flags {
    /// The packet leaves through the loopback device of its network namespace: the peer is an address of this host.
    pub const LOCAL: u16 = 1;
    /// The socket was connected before the tool could see it.
    pub const OLD_SOCKET: u16 = 1 << 1;
    /// The bytes were read from the sender's memory, not off the packet.
    pub const SEND_TAP: u16 = 1 << 2;
    /// Bytes of the head are in pages that the sender can still write: MSG_ZEROCOPY, vmsplice, splice, sendfile.
    pub const SENDER_PAGES: u16 = 1 << 3;
    /// The request's answer can be told from others: an [`super::exchange::Answer`] with its index follows.
    pub const NUMBERED: u16 = 1 << 4;
    /// The request was kept back in a rehearsal: user space answers it.
    pub const REHEARSED: u16 = 1 << 5;
    /// In a dry run: the request would have been kept back.
    pub const WOULD: u16 = 1 << 6;
    /// A rehearsal knew that the caller is chosen, and let the request through on purpose.
    pub const EXEMPT: u16 = 1 << 7;
}

/// How much of the ring buffer one user may fill, in records of a class; all zeroes if there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Budget {
    /// Time that a record costs, in us.
    pub cost: u32,
    /// Time that can be saved up, in us.
    pub depth: u32,
}

/// Where fields are in this kernel's structs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offsets {
    // match-struct task_struct: flags real_parent group_leader pid tgid start_boottime comm mm cred thread_pid
    pub task_flags: u32,
    pub task_real_parent: u32,
    pub task_group_leader: u32,
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_start_boottime: u32,
    pub task_comm: u32,
    pub task_mm: u32,
    pub task_cred: u32,
    pub task_thread_pid: u32,
    // match-struct cred: uid gid
    pub cred_uid: u32,
    pub cred_gid: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    pub upid_size: u32,
    pub upid_ns: u32,
    pub pid_namespace_inum: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    // match-struct sock_common: skc_daddr skc_dport skc_family skc_v6_daddr skc_net skc_cookie
    pub sock_daddr: u32,
    pub sock_dport: u32,
    pub sock_family: u32,
    pub sock_v6_daddr: u32,
    pub sock_net: u32,
    pub sock_cookie: u32,
    pub net_inum: u32,
    pub tcp_sock_write_seq: u32,
    // Offsets from here on are 0 on kernels without the field: user space looks for the facts that depend on it.
    // match-struct task_struct: loginuid sessionid fs cgroups
    pub task_loginuid: u32,
    pub task_sessionid: u32,
    pub task_fs: u32,
    pub task_cgroups: u32,
    // match-struct mm_struct: exe_file
    pub mm_exe_file: u32,
    pub file_path: u32,
    pub fs_pwd: u32,
    pub path_mnt: u32,
    pub path_dentry: u32,
    // match-struct dentry: d_parent d_name d_hash
    pub dentry_parent: u32,
    pub dentry_name: u32,
    pub dentry_hash: u32,
    // match-struct mount: mnt mnt_parent mnt_mountpoint
    pub mount_vfsmount: u32,
    pub mount_parent: u32,
    pub mount_mountpoint: u32,
    pub vfsmount_root: u32,
    pub css_set_dfl_cgrp: u32,
    /// Offset of the pointer for the v1 hierarchy that is read instead of v2; 0 if v2 is read.
    pub css_set_subsys: u32,
    pub css_cgroup: u32,
    // match-struct cgroup: kn
    pub cgroup_kn: u32,
    // match-struct kernfs_node: name parent
    pub kernfs_name: u32,
    pub kernfs_parent: u32,
    // match-struct task_struct: self_exec_id nsproxy
    pub task_self_exec_id: u32,
    pub task_nsproxy: u32,
    pub nsproxy_mnt_ns: u32,
    pub mnt_namespace_inum: u32,
    // match-struct cred: user_ns
    pub cred_user_ns: u32,
    pub user_namespace_inum: u32,
    // match-struct file: f_inode
    pub file_inode: u32,
    // match-struct inode: i_ino i_uid i_mode i_sb
    pub inode_number: u32,
    pub inode_uid: u32,
    pub inode_mode: u32,
    pub inode_super_block: u32,
    pub super_block_device: u32,
    // match-struct sk_buff: head end
    pub skb_head: u32,
    pub skb_end: u32,
    /// Flags of a packet's pages (`flags` from 5.12 on, `tx_flags` before), and the mask of the bits that say that a
    /// page is still the sender's.
    pub shared_info_flags: u32,
    pub shared_info_mask: u32,
    // match-struct sock: sk_lock
    pub sock_lock_owned: u32,
    pub tcp_sock_is_mptcp: u32,
}

/// The losses that the kernel side counts, one slot each in the per-CPU map [`map::LOSS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer had no room for a request: one request not reported.
    RequestRing = 0,
    /// The ring buffer had no room for a process: its requests are reported with less known about it.
    OwnerRing = 1,
    /// The ring buffer had no room for the notice of an unfinished head.
    PendingRing = 2,
    /// No memory for a connection's state, and no room in the spare table: its requests are `unknown`, reason
    /// `no-state`.
    SocketState = 3,
    /// Stream bytes that never passed the hook: requests in them are not seen.
    GapBytes = 4,
    /// A packet held more heads or bytes than one run may look at; the rest counts as a gap.
    PacketBound = 5,
    /// A packet of an IMDS socket that could not be read as TCP.
    PacketShape = 6,
    /// More changes of sender were in flight on one socket than are remembered.
    SenderQueue = 7,
    /// A field of the task could not be read; what depends on it is left out.
    TaskRead = 8,
    /// argv could not be read, or only in part.
    ArgvRead = 9,
    /// v1 requests over their user's budget: not reported.
    BudgetV1 = 10,
    /// Other requests over their user's budget: not reported.
    BudgetOther = 11,
    /// Processes and unfinished heads over their user's budget: requests are reported with less known about them.
    BudgetNotice = 12,
    /// The send tap could not keep the data it needs about a send, or could not hand it over: a gap in the stream.
    SendState = 13,
    /// Connections whose own memory has no room for their state, which is in the spare table instead.
    SpareState = 14,
    /// Notes on other connections evicted the notes about the senders on a connection: its requests name the process
    /// that connected instead.
    SenderNotes = 15,
    /// The ring buffer had no room for the notice of an answer: the answer to its request is not known.
    AnswerRing = 16,
    /// No memory to follow the answers on a connection: the answers to its requests are not known.
    AnswerState = 17,
    /// Connections on which the count of answers broke: the answers to later requests are not known.
    AnswerStreams = 18,
    /// The ring buffer had no room for a connection that carried no request.
    AttemptRing = 19,
    /// The ring buffer had no room for news of a rehearsal: a call was let through, or its connection ends later.
    RefusalRing = 20,
}

impl Loss {
    pub const ALL: [Self; 21] = [
        Self::RequestRing,
        Self::OwnerRing,
        Self::PendingRing,
        Self::SocketState,
        Self::GapBytes,
        Self::PacketBound,
        Self::PacketShape,
        Self::SenderQueue,
        Self::TaskRead,
        Self::ArgvRead,
        Self::BudgetV1,
        Self::BudgetOther,
        Self::BudgetNotice,
        Self::SendState,
        Self::SpareState,
        Self::SenderNotes,
        Self::AnswerRing,
        Self::AnswerState,
        Self::AnswerStreams,
        Self::AttemptRing,
        Self::RefusalRing,
    ];
}

impl Request {
    /// The verdict, or `None` for a byte that is not a verdict.
    pub const fn verdict(&self) -> Option<Verdict> {
        Verdict::from_raw(self.verdict)
    }

    pub const fn reason(&self) -> Option<Reason> {
        Reason::from_raw(self.reason)
    }

    pub const fn method(&self) -> Option<Method> {
        Method::from_raw(self.method)
    }

    pub const fn path_class(&self) -> Option<PathClass> {
        PathClass::from_raw(self.path_class)
    }
}

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<Task>() == 80);
    assert!(size_of::<Ancestor>() == 32);
    assert!(size_of::<Paths>() == 8);
    assert!(size_of::<Executable>() == 32);
    assert!(size_of::<Owner>() == 16 + 16 + 80 + 24 + 32 + 8 + 32 * ANCESTORS_MAX);
    assert!(PATHS_MAX <= u16::MAX as usize);
    assert!(size_of::<Request>() == 16 + 16 + 80 + 24 + 48 + 16);
};
