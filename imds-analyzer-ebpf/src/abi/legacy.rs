//! The records of the legacy object: pieces of a send as they were read from the sender's memory, and packets.
//!
//! A send is read twice, when it begins and when it has ended, each time in pieces of at most [`PIECE_MAX`] bytes.
//! Times are in nanoseconds of `CLOCK_MONOTONIC`: kernels before 5.8 give programs no other clock.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{COMM_LEN, Header, Offsets, Task};

/// Names of the programs in the legacy object, as user space loads them.
pub mod program {
    pub const SEND: &str = "imds_send";
    pub const PAGES: &str = "imds_pages";
    pub const SENT: &str = "imds_sent";
    pub const CONNECT: &str = "imds_connect";
    pub const SHUTDOWN: &str = "imds_shutdown";
    pub const CLOSE: &str = "imds_close";
    pub const WAIT: &str = "imds_wait";
    pub const RECEIVE: &str = "imds_receive";
    pub const RECEIVED: &str = "imds_received";
    /// Attached while offsets are learnt.
    pub const CALIBRATE: &str = "imds_calibrate";
    /// Attached to `sched_process_fork` and `sched_process_exec` if task structs cannot be read.
    pub const FORK: &str = "imds_fork";
    pub const EXEC: &str = "imds_exec";
    /// Not attached: the other programs continue in them by tail call.
    pub const OWNER: &str = "imds_owner";
    pub const COPY: &str = "imds_copy";
    /// Attached if packets are asked for.
    pub const PACKET: &str = "imds_packet";
}

/// Names of the maps in the legacy object. The map of losses has the same name as in the modern object.
pub mod map {
    pub const RECORDS: &str = "RECORDS";
    pub const SETTINGS: &str = "SETTINGS";
    pub const STAGES: &str = "STAGES";
    pub const CALIBRATION: &str = "CALIBRATION";
}

/// Indices of programs in the map [`map::STAGES`].
pub mod stage {
    pub const OWNER: u32 = 0;
    pub const COPY: u32 = 1;
}

/// Maximum bytes of a send in one record.
pub const PIECE_MAX: usize = 4096;
/// Maximum bytes of a packet in one record. The size of a perf record is a u16 (`perf_event_header`), and a packet is
/// hardly ever larger than half of a window that was not scaled.
pub const PACKET_MAX: u32 = 60 * 1024;

/// Indices in the map [`map::CALIBRATION`], of [`SLOT`] bytes each.
pub mod slot {
    /// The current task, in [`TASK_LEN`] pieces.
    pub const TASK: u32 = 0;
    pub const TASK_LEN: u32 = 12;
    pub const SOCK: u32 = 12;
    pub const MSGHDR: u32 = 13;
    pub const IOVEC: u32 = 14;
    pub const NET: u32 = 15;
    /// [`super::Settings::dump`].
    pub const DUMP: u32 = 16;
    pub const DUMP_LEN: u32 = 4;
    /// The result of `bpf_get_current_pid_tgid` (the thread and its process in the first pid namespace), and the sock's
    /// address.
    pub const NUMBERS: u32 = DUMP + DUMP_LEN;
    pub const LEN: u32 = NUMBERS + 1;
}

pub const SLOT: usize = 1024;

/// When a piece was read, and the events between sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The socket begins to connect.
    Connect = 1,
    /// A send begins.
    Begin = 2,
    /// A send has ended; `result` says how.
    End = 3,
    /// Nothing more will be sent.
    Shutdown = 4,
    /// The socket is closed.
    Close = 5,
    /// The first bytes since the last send were received; `result` is the status in the status line that they begin
    /// with, 0 if they are anything else.
    Received = 6,
}

impl Phase {
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Connect,
            2 => Self::Begin,
            3 => Self::End,
            4 => Self::Shutdown,
            5 => Self::Close,
            6 => Self::Received,
            _ => return None,
        })
    }
}

/// Bits of [`Send::flags`].
pub mod send_flags {
    /// The last byte that the socket takes is urgent (`MSG_OOB`).
    pub const URGENT: u32 = 1;
    /// The bytes stay in pages that the sender can still write: MSG_ZEROCOPY, sendfile, splice, vmsplice.
    pub const SENDER_PAGES: u32 = 1 << 1;
    /// The send waited for room, or it is not known whether it did: bytes that the socket took earlier may have left
    /// already.
    pub const WAITED: u32 = 1 << 2;
}

/// One piece of a send, or an event between sends. `data_len` bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Send {
    pub header: Header,
    /// Address of the kernel's `struct sock`, a key only.
    pub sock: u64,
    /// The socket's cookie; 0 as long as it has none.
    pub cookie: u64,
    /// The sender. What the kernel side could not read is 0.
    pub task: Task,
    /// Number of the send on its socket, from 1 on; a send whose number is missing was lost.
    pub number: u32,
    /// Bytes of the send before this piece.
    pub offset: u32,
    /// Bytes after the `data_len` ones that could not be read.
    pub missing: u32,
    /// Bytes the socket took, or an error; meaningful at the end.
    pub result: i32,
    /// TCP sequence number of the next byte written.
    pub seq: u32,
    pub net_ns: u32,
    /// [`send_flags`].
    pub flags: u32,
    /// A [`Phase`].
    pub phase: u8,
    /// 4 or 6, as in [`super::Request`].
    pub family: u8,
    /// Addresses and port of the sock, in network order.
    pub source_port: u16,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// A packet that leaves a socket whose peer is IMDS. Its first `data_len` bytes follow, from the IP header on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    pub header: Header,
    /// The socket's cookie.
    pub cookie: u64,
    /// Bytes of the whole packet.
    pub len: u32,
    /// Index of the device it leaves through.
    pub ifindex: u32,
}

/// A process starts another one, or executes a program.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForkOrExec {
    pub header: Header,
    /// The process.
    pub tgid: u32,
    /// The thread that the process started: the first one of a new process, or another one of its own. 0 if it executes
    /// a program.
    pub child: u32,
    pub uid: u32,
    pub reserved: u32,
    /// Name of the thread that acts; the new name if it executes a program.
    pub comm: [u8; COMM_LEN],
}

/// A [`Send`] with room for its bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SendRecord {
    pub send: Send,
    pub data: [u8; PIECE_MAX],
    /// The verifier needs a mask to bound a length, and [`PIECE_MAX`] itself must pass that mask.
    pub unused: [u8; PIECE_MAX],
}

/// Settings of the legacy object's programs, in a map. An offset of 0 in a task's structs means that it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    pub offsets: Offsets,
    // match-struct sock_common: skc_num skc_rcv_saddr skc_v6_rcv_saddr
    pub sock_num: u32,
    pub sock_rcv_saddr: u32,
    pub sock_v6_rcv_saddr: u32,
    // match-struct msghdr: msg_name msg_flags msg_iter
    pub msg_name: u32,
    pub msg_flags: u32,
    // match-struct iov_iter: iter_type iov_offset iov nr_segs ubuf; from the msghdr's start
    pub iter_type: u32,
    pub iter_offset: u32,
    pub iter_segments: u32,
    pub iter_segment_count: u32,
    pub iter_buffer: u32,
    /// Values of the iterator's type, in the bits of `tag_mask`; [`NO_TAG`] for a kind that this kernel does not have.
    pub tag_mask: u32,
    pub tag_iovec: u32,
    pub tag_kvec: u32,
    pub tag_buffer: u32,
    /// The peer to look for: addresses and port in network order.
    pub target_v4: u32,
    pub target_v6: [u32; 4],
    pub target_port: u32,
    /// Offset of `child_pid` in the record of the tracepoint sched_process_fork.
    pub fork_child: u32,
    /// The [`send_flags`] of every send, for facts that programs cannot see on this kernel.
    pub send_flags: u32,
    pub reserved: u32,
    /// The first bytes of the name of the thread whose sends are dumped for calibration, and the addresses of other
    /// kernel memory to dump with them.
    pub calibrate: u64,
    pub dump: [u64; slot::DUMP_LEN as usize],
}

/// A value that no byte has.
pub const NO_TAG: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<Send>() == 16 + 16 + 80 + 24 + 8 + 32);
    assert!(size_of::<Packet>() == 16 + 16);
    assert!(PACKET_MAX <= u16::MAX as u32);
    assert!(PIECE_MAX.is_power_of_two());
    assert!(size_of::<Settings>().is_multiple_of(8));
};
