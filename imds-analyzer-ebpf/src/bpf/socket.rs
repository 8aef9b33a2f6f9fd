//! What is known of a socket. It belongs to the socket, never to the CPU: `cgroup_skb` can be entered again on the same
//! CPU from softirq or after preemption. The kernel holds the socket's lock around every packet it sends, so one
//! socket's state has one user at a time, and goes away with the socket.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{LruHashMap, SkStorage},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use imds_analyzer_ebpf::{
    abi::{Loss, Task},
    classify::Classifier,
};

use super::{counters, task::Identity};

/// State of one connection; all zeroes is a socket that has not connected yet.
#[repr(C)]
pub(super) struct Socket {
    /// Address of the kernel's `struct sock`.
    sock: u64,
    /// Who connected; `tgid` 0 where nobody was seen.
    pub(super) connector: Task,
    /// Sequence number of the next byte of the stream.
    pub(super) next_seq: u32,
    /// Initial sequence number, to tell a repeated SYN from a new connection.
    pub(super) initial_seq: u32,
    /// Head of which an unfinished-notice was sent, and which part of it was known then.
    pub(super) noted_seq: u32,
    pub(super) noted: u8,
    /// `next_seq` is meaningful.
    pub(super) synced: u8,
    /// Connected before the tool was there.
    pub(super) old: u8,
    pub(super) reserved: u8,
    pub(super) ends: Ends,
    pub(super) classifier: Classifier,
}

/// The two ends of a connection, as [`imds_analyzer_ebpf::abi::Request`] has them.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Ends {
    pub(super) cookie: u64,
    pub(super) net_ns: u32,
    pub(super) flags: u16,
    pub(super) family: u8,
    pub(super) reserved: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) packet_destination: [u8; 16],
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) packet_port: u16,
    pub(super) reserved2: u16,
}

impl Socket {
    #[inline(always)]
    pub(super) fn set_sock(&mut self, sk: *mut bpf_sock) {
        // SAFETY: a reference's own field.
        unsafe { ptr::write_volatile(&raw mut self.sock, sk as u64) };
    }

    /// Address of the kernel's `struct sock`, as a number.
    #[inline(always)]
    pub(super) fn sock(&self) -> u64 {
        // VERIFIER: what is loaded from a map is a number; the pointer that was stored could not be computed with.
        // SAFETY: a reference's own field.
        unsafe { ptr::read_volatile(&raw const self.sock) }
    }
}

/// [`Socket::noted`].
pub(super) mod noted {
    pub(crate) const NO: u8 = 0;
    pub(crate) const YES: u8 = 1;
    /// With the request line.
    pub(crate) const LINE: u8 = 2;
}

#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// The state of `sk`, made if there is none.
#[inline(always)]
pub(super) fn of<'a>(sk: *mut bpf_sock) -> Option<&'a mut Socket> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null.
    let socket = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), BPF_SK_STORAGE_GET_F_CREATE.into()) };
    // SAFETY: null or the socket's own storage; the socket's lock makes this the only reference.
    let socket = unsafe { socket.cast::<Socket>().as_mut() };
    if socket.is_none() {
        counters::add(Loss::SocketState, 1);
    }
    socket
}

/// The state of `sk` if it has any.
#[inline(always)]
pub(super) fn existing<'a>(sk: *mut bpf_sock) -> Option<&'a mut Socket> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: as in `of`.
    let socket = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), 0) };
    // SAFETY: as in `of`.
    unsafe { socket.cast::<Socket>().as_mut() }
}

/// Forgets all about `sk`: it connects again.
#[inline(always)]
pub(super) fn forget(sk: *mut bpf_sock) {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null. An error means that there was nothing to forget.
    unsafe { bpf_sk_storage_delete(map, sk.cast()) };
}

/// Who is about to write from which sequence number on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Note {
    pub(super) task: Task,
    pub(super) seq: u32,
    pub(super) reserved: u32,
}

/// Changes of sender remembered: bytes can wait in the socket's queue while several processes write.
pub(super) const NOTES: usize = 8;

/// The latest senders of one socket, kept by the address of its `struct sock` because not every sender hook has the
/// socket's storage. An address is used again; the cookie tells whose it is.
#[repr(C)]
pub(super) struct Senders {
    pub(super) cookie: u64,
    /// The process announced last.
    announced_start: u64,
    announced_exec: u64,
    announced_tgid: u32,
    /// How many notes were ever taken; the latest is at `(count - 1) % NOTES`.
    pub(super) count: u32,
    pub(super) notes: [Note; NOTES],
}

impl Senders {
    #[inline(always)]
    pub(super) fn is_announced(&self, process: &Identity) -> bool {
        self.announced_tgid == process.tgid
            && self.announced_start == process.start
            && self.announced_exec == process.exec
    }

    #[inline(always)]
    pub(super) fn set_announced(&mut self, process: &Identity) {
        self.announced_tgid = process.tgid;
        self.announced_start = process.start;
        self.announced_exec = process.exec;
    }
}

#[btf_map]
static SENDERS: LruHashMap<u64, Senders, 4096> = LruHashMap::new();

/// What a new entry is copied from: it is too large for the stack.
// SAFETY: integers alone, for which zeroes are valid.
static NO_SENDERS: Senders = unsafe { core::mem::zeroed() };

/// The senders of the socket at `sock` whose cookie is `cookie`. An entry without cookie was made before the socket had
/// one; a socket that connected since would have replaced it.
#[inline(always)]
pub(super) fn senders<'a>(sock: u64, cookie: u64) -> Option<&'a mut Senders> {
    let senders = SENDERS.get_ptr_mut(sock)?;
    // SAFETY: a map's value; programs that write it hold the socket's lock.
    let senders = unsafe { &mut *senders };
    (senders.cookie == cookie || senders.cookie == 0).then_some(senders)
}

/// An empty entry for the socket at `sock`.
#[inline(always)]
pub(super) fn new_senders<'a>(sock: u64, cookie: u64) -> Option<&'a mut Senders> {
    if SENDERS.insert(sock, &NO_SENDERS, 0).is_err() {
        counters::add(Loss::SocketState, 1);
        return None;
    }
    let senders = senders(sock, cookie)?;
    senders.cookie = cookie;
    Some(senders)
}

const _: () = assert!(NOTES.is_power_of_two());
