//! What is known of a socket. It belongs to the socket, never to the CPU: `cgroup_skb` can be entered again on the same
//! CPU from softirq or after preemption. The kernel holds the socket's lock around every packet it sends, so one
//! socket's state has one user at a time.
//!
//! The state is in the socket's own storage and goes away with it. That storage is charged to the socket's option memory
//! (`sk_omem_alloc`, net.core.optmem_max), which its owner can fill, and Linux 7.x has none to give on a CPU without
//! cmpxchg16b (`kmalloc_nolock`): then the state is in a table by cookie, whose memory is there from the start and whose
//! least recently used entry makes room for the next.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{LruHashMap, SkStorage},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use imds_analyzer_ebpf::{
    abi::{Loss, Task},
    classify::Classifier,
};

use super::{counters, skb::Skb, task::Identity};

/// State of one connection; all zeroes is a socket that has not connected yet.
#[repr(C)]
pub(super) struct Socket {
    /// Address of the kernel's `struct sock`.
    sock: u64,
    /// Address of the packet in hand, as a number.
    pub(super) skb: u64,
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
    /// A packet held pages of the sender's own; from the one that began at `pages_seq` on, bytes that are sent again are
    /// compared with what was judged.
    pub(super) pages: u8,
    pub(super) pages_seq: u32,
    /// Where the last such packet ended.
    pub(super) pages_end: u32,
    /// An urgent byte was sent, just before this sequence number.
    pub(super) urgent_seq: u32,
    pub(super) urgent: u8,
    /// Bytes before `local_seq` were judged in packets to an address of this host.
    pub(super) local: u8,
    pub(super) reserved: u16,
    pub(super) local_seq: u32,
    /// How many packets are in `judged`, modulo 2^32.
    pub(super) judged_count: u32,
    pub(super) judged: [Judged; JUDGED],
    pub(super) ends: Ends,
    pub(super) classifier: Classifier,
}

/// Payload that was judged while the sender could still write it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Judged {
    pub(super) seq: u32,
    pub(super) len: u32,
    pub(super) digest: u32,
    pub(super) reserved: u32,
}

/// Packets remembered for comparison. What is sent again of an older one is taken for changed.
pub(super) const JUDGED: usize = 8;

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

/// States of sockets whose storage has no room, by cookie.
#[btf_map]
static SPARE: LruHashMap<u64, Socket, 1024> = LruHashMap::new();

/// A new entry of the spare table is a copy of this: it is too large for the stack.
// SAFETY: integers alone, for which zeroes are valid.
static NEW: Socket = unsafe { core::mem::zeroed() };

/// The state of `sk`, the socket of the program's context `ctx`; made if there is none.
#[inline(always)]
pub(super) fn of<'a>(sk: *mut bpf_sock, ctx: *mut c_void) -> Option<&'a mut Socket> {
    if let Some(socket) = existing(sk, ctx) {
        return Some(socket);
    }
    if let Some(socket) = storage(sk, BPF_SK_STORAGE_GET_F_CREATE) {
        return Some(socket);
    }
    counters::add(Loss::SpareState, 1);
    let cookie = cookie(ctx);
    if SPARE.insert(cookie, &NEW, 0).is_err() {
        counters::add(Loss::SocketState, 1);
        return None;
    }
    spare(cookie)
}

/// The state of `sk`, the socket of the program's context `ctx`, if it has any.
#[inline(always)]
pub(super) fn existing<'a>(sk: *mut bpf_sock, ctx: *mut c_void) -> Option<&'a mut Socket> {
    match storage(sk, 0) {
        Some(socket) => Some(socket),
        None => spare(cookie(ctx)),
    }
}

/// The state of the socket that a packet belongs to, if it has any.
#[inline(always)]
pub(super) fn of_packet<'a>(skb: Skb) -> Option<&'a mut Socket> {
    let sk = skb.full_sock();
    if sk.is_null() {
        return None;
    }
    existing(sk, skb.0.cast())
}

/// Forgets all about `sk`, the socket of the program's context `ctx`: it connects again.
#[inline(always)]
pub(super) fn forget(sk: *mut bpf_sock, ctx: *mut c_void) {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null. An error means that there was nothing to forget.
    unsafe { bpf_sk_storage_delete(map, sk.cast()) };
    // As there.
    let _ = SPARE.remove(cookie(ctx));
}

#[inline(always)]
fn storage<'a>(sk: *mut bpf_sock, flags: u32) -> Option<&'a mut Socket> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null.
    let socket = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags.into()) };
    // SAFETY: null or the socket's own storage; the socket's lock makes this the only reference.
    unsafe { socket.cast::<Socket>().as_mut() }
}

#[inline(always)]
fn spare<'a>(cookie: u64) -> Option<&'a mut Socket> {
    let socket = SPARE.get_ptr_mut(cookie)?;
    // SAFETY: a map's value; programs that write it hold the lock of the socket with this cookie.
    Some(unsafe { &mut *socket })
}

#[inline(always)]
fn cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: the program's own context.
    unsafe { bpf_get_socket_cookie(ctx) }
}

/// Who is about to write from which sequence number on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Note {
    pub(super) task: Task,
    pub(super) seq: u32,
    pub(super) reserved: u32,
}

/// Changes of sender remembered, and one place for the next: bytes can wait in the socket's queue while several processes
/// write.
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

    /// True if the latest note is on this process.
    #[inline(always)]
    pub(super) fn is_last(&self, process: &Identity) -> bool {
        let last = &self.notes[self.count.wrapping_sub(1) as usize & (NOTES - 1)].task;
        self.count > 0 && process.is_of(last)
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

const _: () = {
    assert!(NOTES.is_power_of_two());
    assert!(JUDGED.is_power_of_two());
};
