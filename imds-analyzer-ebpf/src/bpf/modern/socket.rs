//! What is known of a socket. It belongs to the socket, never to the CPU: `cgroup_skb` can be entered again on the same
//! CPU from softirq or after preemption. The kernel holds the socket's lock around every packet it sends, so one
//! socket's state has one user at a time.
//!
//! The state is in the socket's own storage and goes away with it. That storage is charged to the socket's option memory
//! (`sk_omem_alloc`, net.core.optmem_max), which its owner can fill, and Linux 7.x has none to give on a CPU without
//! cmpxchg16b (`kmalloc_nolock`): then the state is in a table by cookie, whose memory is there from the start and whose
//! least recently used entry makes room for the next.
//!
//! Programs here are global functions that call each other and look the same socket up, so its state has shared references
//! only, and fields that are changed through them ([`Cell`]).

use core::{cell::Cell, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{LruHashMap, SkStorage},
    helpers::generated::{bpf_get_socket_cookie, bpf_map_update_elem, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use imds_analyzer_ebpf::abi::{Loss, Task};

use super::{
    classifier::ClassifierCell,
    task::{self, Identity},
};
use crate::bpf::common::{counters, skb::Skb};

/// State of one connection; all zeroes is a socket that has not connected yet.
#[repr(C)]
pub(super) struct Socket {
    /// Address of the kernel's `struct sock`.
    sock: Cell<u64>,
    /// Address of the packet in hand, as a number.
    pub(super) skb: Cell<u64>,
    /// Who connected; `tgid` 0 where nobody was seen.
    connector: Cell<Task>,
    /// Sequence number of the next byte of the stream.
    pub(super) next_seq: Cell<u32>,
    /// Initial sequence number, to tell a repeated SYN from a new connection.
    pub(super) initial_seq: Cell<u32>,
    /// Head of which an unfinished-notice was sent, and which part of it was known then.
    pub(super) noted_seq: Cell<u32>,
    pub(super) noted: Cell<u8>,
    /// `next_seq` is meaningful.
    pub(super) synced: Cell<u8>,
    /// Connected before the tool was there.
    pub(super) old: Cell<u8>,
    /// A packet held pages of the sender's own; from the one that began at `pages_seq` on, bytes that are sent again are
    /// compared with what was judged.
    pub(super) pages: Cell<u8>,
    pub(super) pages_seq: Cell<u32>,
    /// Where the last such packet ended.
    pub(super) pages_end: Cell<u32>,
    /// An urgent byte was sent, just before this sequence number.
    pub(super) urgent_seq: Cell<u32>,
    pub(super) urgent: Cell<u8>,
    /// Bytes before `local_seq` were judged in packets to an address of this host.
    pub(super) local: Cell<u8>,
    pub(super) reserved: Cell<u16>,
    pub(super) local_seq: Cell<u32>,
    /// How many packets are in `judged`, modulo 2^32.
    pub(super) judged_count: Cell<u32>,
    pub(super) judged: [Cell<Judged>; JUDGED],
    pub(super) endpoints: Endpoints,
    pub(super) classifier: ClassifierCell,
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
#[repr(C)]
pub(super) struct Endpoints {
    pub(super) cookie: Cell<u64>,
    pub(super) net_ns: Cell<u32>,
    pub(super) flags: Cell<u16>,
    pub(super) family: Cell<u8>,
    pub(super) reserved: Cell<u8>,
    pub(super) source: Cell<[u8; 16]>,
    pub(super) destination: Cell<[u8; 16]>,
    pub(super) packet_destination: Cell<[u8; 16]>,
    pub(super) source_port: Cell<u16>,
    pub(super) destination_port: Cell<u16>,
    pub(super) packet_port: Cell<u16>,
    pub(super) reserved2: Cell<u16>,
}

impl Socket {
    #[inline(always)]
    pub(super) fn set_sock(&self, sk: *mut bpf_sock) {
        // SAFETY: a reference's own field.
        unsafe { ptr::write_volatile(self.sock.as_ptr(), sk as u64) };
    }

    /// Address of the kernel's `struct sock`, as a number.
    #[inline(always)]
    pub(super) fn sock(&self) -> u64 {
        // VERIFIER: what is loaded from a map is a number; the pointer that was stored could not be computed with.
        // SAFETY: a reference's own field.
        unsafe { ptr::read_volatile(self.sock.as_ptr()) }
    }

    /// Who connected; `tgid` 0 where nobody was seen.
    #[inline(always)]
    pub(super) fn connector(&self) -> Task {
        self.connector.get()
    }

    /// Notes the current task as who connects. `hook` is an [`OwnerHook`](imds_analyzer_ebpf::abi::OwnerHook).
    #[inline(always)]
    pub(super) fn set_connector(&self, identity: &Identity, leader: u64, cgroup: u64, hook: u8) {
        // SAFETY: the only reference to this field while facts are written: that looks at no socket, and the socket's lock
        // keeps others out.
        let connector = unsafe { &mut *self.connector.as_ptr() };
        task::facts_into(connector, identity, leader, cgroup, hook);
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
static ZEROES: [u64; size_of::<Socket>() / 8] = [0; size_of::<Socket>() / 8];

/// The state of `sk`, the socket of the program's context `ctx`; made if there is none.
#[inline(always)]
pub(super) fn of<'a>(sk: *mut bpf_sock, ctx: *mut c_void) -> Option<&'a Socket> {
    if let Some(socket) = existing(sk, ctx) {
        return Some(socket);
    }
    if let Some(socket) = storage(sk, BPF_SK_STORAGE_GET_F_CREATE) {
        return Some(socket);
    }
    counters::add(Loss::SpareState, 1);
    let cookie = cookie(ctx);
    if !add_spare(cookie) {
        counters::add(Loss::SocketState, 1);
        return None;
    }
    spare(cookie)
}

/// The state of `sk`, the socket of the program's context `ctx`, if it has any.
#[inline(always)]
pub(super) fn existing<'a>(sk: *mut bpf_sock, ctx: *mut c_void) -> Option<&'a Socket> {
    match storage(sk, 0) {
        Some(socket) => Some(socket),
        None => spare(cookie(ctx)),
    }
}

/// The state of the socket that a packet belongs to, if it has any.
#[inline(always)]
pub(super) fn of_packet<'a>(skb: Skb) -> Option<&'a Socket> {
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
fn storage<'a>(sk: *mut bpf_sock, flags: u32) -> Option<&'a Socket> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null.
    let socket = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags.into()) };
    // SAFETY: null or the socket's own storage, to which all references are shared ones; the socket's lock keeps other CPUs
    // out.
    unsafe { socket.cast::<Socket>().as_ref() }
}

#[inline(always)]
fn spare<'a>(cookie: u64) -> Option<&'a Socket> {
    let socket = SPARE.get_ptr_mut(cookie)?;
    // SAFETY: a map's value, to which all references are shared ones; programs that use it hold the lock of the socket with
    // this cookie.
    Some(unsafe { &*socket })
}

/// Makes an entry, all zeroes, in the spare table; false without room.
#[inline(always)]
fn add_spare(cookie: u64) -> bool {
    let map = ptr::from_ref(&SPARE).cast_mut().cast::<c_void>();
    // SAFETY: the map's keys are such numbers, its values as large as the zeroes and valid as such.
    unsafe { bpf_map_update_elem(map, (&raw const cookie).cast(), ZEROES.as_ptr().cast(), 0) == 0 }
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
    assert!(size_of::<Socket>().is_multiple_of(8));
    assert!(NOTES.is_power_of_two());
    assert!(JUDGED.is_power_of_two());
};
