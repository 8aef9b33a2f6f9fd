//! The state of one socket. State is kept per socket, never per CPU: `cgroup_skb` can be entered again on the same CPU
//! from softirq or after preemption. The kernel holds the socket's lock around every packet it sends, so only one
//! program at a time uses a socket's state.
//!
//! The state is in the socket's own storage, which the kernel frees with the socket. That storage is charged to the
//! socket's option memory (`sk_omem_alloc`, net.core.optmem_max), which the socket's owner can fill, and Linux 7.x
//! cannot allocate it on a CPU without cmpxchg16b (`kmalloc_nolock`). If the allocation fails, the state goes into a
//! spare table, keyed by socket cookie. The memory of that table is allocated at load, and a new entry evicts the least
//! recently used one.
//!
//! Global functions here call each other and look up the same socket, so they only hold shared references to its state
//! and change its fields through [`Cell`].

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

/// State of one connection; all zeroes means a socket that has not connected yet.
#[repr(C)]
pub(super) struct Socket {
    /// Address of the kernel's `struct sock`.
    sock: Cell<u64>,
    /// Address of the current packet, as a number.
    pub(super) skb: Cell<u64>,
    /// The task that connected; its `tgid` is 0 if no hook saw it.
    connector: Cell<Task>,
    /// Sequence number of the next byte of the stream.
    pub(super) next_seq: Cell<u32>,
    /// Initial sequence number, to tell a repeated SYN from a new connection.
    pub(super) initial_seq: Cell<u32>,
    /// Sequence number of the head that an unfinished notice was last sent for, and how much of the head was known
    /// then: one of [`noted`].
    pub(super) noted_seq: Cell<u32>,
    pub(super) noted: Cell<u8>,
    /// 1 once `next_seq` is valid.
    pub(super) synced: Cell<u8>,
    /// 1 if the socket connected before the tool could see it.
    pub(super) old: Cell<u8>,
    /// 1 once a packet held pages that the sender can still write. From `pages_seq` on, where the first such packet
    /// began, retransmitted bytes are compared with the judged ones.
    pub(super) pages: Cell<u8>,
    pub(super) pages_seq: Cell<u32>,
    /// Where the last packet with such pages ended.
    pub(super) pages_end: Cell<u32>,
    /// Sequence number just after the last urgent byte; valid if `urgent` is 1.
    pub(super) urgent_seq: Cell<u32>,
    pub(super) urgent: Cell<u8>,
    /// 1 if bytes before `local_seq` were judged in packets to an address of this host.
    pub(super) local: Cell<u8>,
    pub(super) reserved: Cell<u16>,
    pub(super) local_seq: Cell<u32>,
    /// Packets ever stored in `judged`, modulo 2^32.
    pub(super) judged_count: Cell<u32>,
    pub(super) judged: [Cell<Judged>; JUDGED],
    pub(super) endpoints: Endpoints,
    pub(super) classifier: ClassifierCell,
}

/// The payload of one packet, judged while the sender could still write it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Judged {
    pub(super) seq: u32,
    pub(super) len: u32,
    pub(super) digest: u32,
    pub(super) reserved: u32,
}

/// Packets remembered for comparison. Retransmitted bytes of an older packet count as changed.
pub(super) const JUDGED: usize = 8;

/// The two ends of a connection, in the format of [`imds_analyzer_ebpf::abi::Request`].
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
        // SAFETY: the field of a valid reference.
        unsafe { ptr::write_volatile(self.sock.as_ptr(), sk as u64) };
    }

    /// Address of the kernel's `struct sock`, as a number.
    #[inline(always)]
    pub(super) fn sock(&self) -> u64 {
        // VERIFIER: a value loaded from a map is a plain number. The verifier restricts arithmetic on the pointer that
        // was stored.
        // SAFETY: the field of a valid reference.
        unsafe { ptr::read_volatile(self.sock.as_ptr()) }
    }

    /// The task that connected; its `tgid` is 0 if no hook saw it.
    #[inline(always)]
    pub(super) fn connector(&self) -> Task {
        self.connector.get()
    }

    /// Records the current task as the one that connects. `hook` is an
    /// [`OwnerHook`](imds_analyzer_ebpf::abi::OwnerHook).
    #[inline(always)]
    pub(super) fn set_connector(&self, identity: &Identity, leader: u64, cgroup: u64, hook: u8) {
        // SAFETY: the only reference to this field while `facts_into` writes it: `facts_into` looks up no socket, and
        // the socket's lock keeps other programs out.
        let connector = unsafe { &mut *self.connector.as_ptr() };
        task::facts_into(connector, identity, leader, cgroup, hook);
    }
}

/// Values of [`Socket::noted`].
pub(super) mod noted {
    pub(crate) const NO: u8 = 0;
    pub(crate) const YES: u8 = 1;
    /// The notice had the request line.
    pub(crate) const LINE: u8 = 2;
}

#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// States of sockets whose own storage could not be allocated, by socket cookie.
#[btf_map]
static SPARE: LruHashMap<u64, Socket, 1024> = LruHashMap::new();

/// Initial value of a spare table entry: it is too large for the stack.
static ZEROES: [u64; size_of::<Socket>() / 8] = [0; size_of::<Socket>() / 8];

/// The state of `sk`, the socket of the program's context `ctx`; created if there is none.
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

/// Deletes the state of `sk`, the socket of the program's context `ctx`, which connects again.
#[inline(always)]
pub(super) fn forget(sk: *mut bpf_sock, ctx: *mut c_void) {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null. An error means that there was no state to delete.
    unsafe { bpf_sk_storage_delete(map, sk.cast()) };
    // Here, too, an error means that there was no state to delete.
    let _ = SPARE.remove(cookie(ctx));
}

#[inline(always)]
fn storage<'a>(sk: *mut bpf_sock, flags: u32) -> Option<&'a Socket> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null.
    let socket = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags.into()) };
    // SAFETY: null or the socket's own storage. All references to it are shared, and the socket's lock keeps other CPUs
    // out.
    unsafe { socket.cast::<Socket>().as_ref() }
}

#[inline(always)]
fn spare<'a>(cookie: u64) -> Option<&'a Socket> {
    let socket = SPARE.get_ptr_mut(cookie)?;
    // SAFETY: a map's value. All references to it are shared, and programs that use it hold the lock of the socket with
    // this cookie.
    Some(unsafe { &*socket })
}

/// Adds an all-zero entry to the spare table. Returns false if there is no room.
#[inline(always)]
fn add_spare(cookie: u64) -> bool {
    let map = ptr::from_ref(&SPARE).cast_mut().cast::<c_void>();
    // SAFETY: `cookie` has the type of the map's keys; `ZEROES` has the size of its values, for which all zeroes are
    // valid.
    unsafe { bpf_map_update_elem(map, (&raw const cookie).cast(), ZEROES.as_ptr().cast(), 0) == 0 }
}

#[inline(always)]
fn cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: the program's own context.
    unsafe { bpf_get_socket_cookie(ctx) }
}

/// A task, and the sequence number from which on it is about to write.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Note {
    pub(super) task: Task,
    pub(super) seq: u32,
    pub(super) reserved: u32,
}

/// Sender changes remembered, plus one slot for the next: bytes can wait in the socket's queue while several processes
/// write.
pub(super) const NOTES: usize = 8;

/// The latest senders on one socket, keyed by the address of its `struct sock` because not every sender hook can use
/// the socket's storage. The kernel reuses addresses; the cookie says which socket the entry belongs to.
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

    /// True if the latest note is about this process.
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

/// Initial value of a [`SENDERS`] entry: it is too large for the stack.
// SAFETY: the struct has only integers, for which zeroes are valid.
static NO_SENDERS: Senders = unsafe { core::mem::zeroed() };

/// The senders on the socket at `sock` whose cookie is `cookie`. An entry with cookie 0 was created before the socket
/// had a cookie and still belongs to it: another socket at this address would have replaced the entry when it
/// connected.
#[inline(always)]
pub(super) fn senders<'a>(sock: u64, cookie: u64) -> Option<&'a mut Senders> {
    let senders = SENDERS.get_ptr_mut(sock)?;
    // SAFETY: a map's value; programs that write it hold the socket's lock.
    let senders = unsafe { &mut *senders };
    (senders.cookie == cookie || senders.cookie == 0).then_some(senders)
}

/// Creates an empty entry for the socket at `sock`.
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
