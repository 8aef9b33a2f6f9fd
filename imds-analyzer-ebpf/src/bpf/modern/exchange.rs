//! Matches the answers on one connection to its requests by number: the k-th answer belongs to the k-th request.
//!
//! The egress program counts requests under the socket's lock. The ingress program runs before the kernel takes that
//! lock (`tcp_v4_rcv` calls `tcp_filter` before `bh_lock_sock_nested`, net/ipv4/tcp_ipv4.c), so two CPUs may process
//! two packets of one connection at once. One of the packets is then skipped, and later answers on the connection are
//! not reported.
//!
//! The egress and the ingress program may also run at once; each writes its own fields. An answer arrives after its
//! request has left, so the ingress program can rely on what the egress program wrote about that request.

use core::{
    cell::{Cell, UnsafeCell},
    ffi::c_void,
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_spin_lock},
    btf_maps::SkStorage,
    helpers::generated::{self, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use imds_analyzer_ebpf::{
    abi::Loss,
    answer::{Answers, Step},
    classify::{Head, Method, Reason},
};

use super::{constants, task};
use crate::bpf::common::{counters, skb::Skb};

/// Requests that may wait for an answer at the same time: one bit each.
const WAITING_MAX: u32 = u64::BITS;

/// The value of the map; all zeroes means a new connection.
#[repr(C)]
struct Storage {
    // VERIFIER: the lock must be a field of the map's value itself, of this type (btf_find_spin_lock,
    // kernel/bpf/btf.c).
    lock: bpf_spin_lock,
    exchange: Exchange,
}

/// Requests and answers of one connection.
#[repr(C)]
pub(super) struct Exchange {
    /// When the connection began, in ns since boot.
    pub(super) started: Cell<u64>,
    /// Bit `index % 64` is set if the method of the request at `index` is HEAD.
    heads: Cell<u64>,
    /// Bit `index % 64` is set if user space has the request at `index`.
    reported: Cell<u64>,
    /// Requests so far.
    pub(super) requests: Cell<u32>,
    /// Not 0 once later requests can no longer be counted.
    uncertain: Cell<u32>,

    /// Guarded by the lock: not 0 while a program processes a packet, and not 0 if another packet arrived in that time.
    busy: Cell<u32>,
    conflict: Cell<u32>,

    // The fields from here on are written by the ingress program only, while it is busy.
    /// When the first byte of the last status line arrived, in ns since boot, and the TTL of its packet.
    line_time: Cell<u64>,
    line_hops: Cell<u8>,
    /// TTL of the current packet.
    hops: Cell<u8>,
    /// Not 0 if the current answer is to a HEAD request.
    is_head: Cell<u8>,
    /// Not 0 if the peer accepted the connection; not 0 if the peer refused it.
    pub(super) synced: Cell<u8>,
    pub(super) refused: Cell<u8>,
    reserved: [u8; 3],
    /// Sequence number of the next byte of the stream.
    pub(super) next_seq: Cell<u32>,
    /// Answers so far.
    count: Cell<u32>,
    /// The number of requests when user space was last told that no more answers come.
    told: Cell<u32>,
    reserved2: u32,
    answers: UnsafeCell<Answers>,
}

/// An answer to report to user space.
pub(super) struct Answered {
    pub(super) index: u32,
    pub(super) status: u16,
    pub(super) hop_limit: u8,
    pub(super) time: u64,
}

#[btf_map]
static EXCHANGES: SkStorage<Storage> = SkStorage::new();

/// The exchange of `sk`, if it is followed.
#[inline(always)]
pub(super) fn of<'a>(sk: *mut bpf_sock) -> Option<&'a Exchange> {
    let storage = storage(sk, 0);
    if storage.is_null() {
        return None;
    }
    exchange(storage)
}

/// The exchange of the socket that a packet belongs to, if it is followed.
#[inline(always)]
pub(super) fn of_packet<'a>(skb: Skb) -> Option<&'a Exchange> {
    let sk = skb.full_sock();
    if sk.is_null() {
        return None;
    }
    of(sk)
}

/// Begins to follow the exchange of `sk`, which connects.
#[inline(always)]
pub(super) fn begin(sk: *mut bpf_sock) {
    if !constants::answers() {
        return;
    }
    let map = map();
    // SAFETY: `sk` comes from a context and is not null. An error means that there was nothing to forget.
    unsafe { bpf_sk_storage_delete(map, sk.cast()) };
    match exchange(storage(sk, BPF_SK_STORAGE_GET_F_CREATE)) {
        Some(exchange) => exchange.started.set(task::now()),
        None => counters::add(Loss::AnswerState, 1),
    }
}

/// Begins to follow the exchange of `sk`, whose SYN leaves, unless [`begin`] already ran when it connected.
#[inline(always)]
pub(super) fn begin_unless_begun(sk: *mut bpf_sock) {
    match of(sk) {
        Some(exchange) if exchange.requests.get() == 0 && exchange.synced.get() == 0 => {}
        _ => begin(sk),
    }
}

/// Takes the turn to process a packet of `sk`. Returns false if the exchange is not followed or if another CPU has the
/// turn. The turn ends with [`leave`].
#[inline(always)]
pub(super) fn enter(sk: *mut bpf_sock) -> bool {
    let storage = storage(sk, 0);
    if storage.is_null() {
        return false;
    }
    let turn = lock(storage);
    let was_busy = turn.busy();
    turn.set_busy(1);
    turn.set_conflict(turn.conflict() | was_busy);
    unlock(storage);
    was_busy == 0
}

/// Ends the turn of a packet of `sk`. Returns true, and keeps the turn, if another packet arrived during it: that
/// packet was skipped.
#[inline(always)]
pub(super) fn leave(sk: *mut bpf_sock) -> bool {
    let storage = storage(sk, 0);
    if storage.is_null() {
        return false;
    }
    let turn = lock(storage);
    let conflict = turn.conflict();
    turn.set_busy(conflict);
    turn.set_conflict(0);
    unlock(storage);
    conflict != 0
}

/// Ends the turn of a packet of `sk`, whose answers can no longer be matched.
#[inline(always)]
pub(super) fn leave_lost(sk: *mut bpf_sock) {
    let storage = storage(sk, 0);
    if storage.is_null() {
        return;
    }
    lock(storage).set_busy(0);
    unlock(storage);
}

/// The fields that the lock guards; usable while it is held.
// VERIFIER: no call is allowed between lock and unlock; each method here is one load or one store.
#[derive(Clone, Copy)]
struct Turn {
    busy: *mut u32,
    conflict: *mut u32,
}

impl Turn {
    #[inline(always)]
    fn busy(self) -> u32 {
        // SAFETY: a field of a map's value, an aligned word; the lock is held.
        unsafe { ptr::read_volatile(self.busy) }
    }

    #[inline(always)]
    fn set_busy(self, busy: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.busy, busy) };
    }

    #[inline(always)]
    fn conflict(self) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(self.conflict) }
    }

    #[inline(always)]
    fn set_conflict(self, conflict: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.conflict, conflict) };
    }
}

/// `storage` must not be null.
#[inline(always)]
fn lock(storage: *mut Storage) -> Turn {
    // SAFETY: a map's value: the address of its field is valid.
    let lock = unsafe { &raw mut (*storage).lock };
    // SAFETY: as above.
    let busy = unsafe { (*storage).exchange.busy.as_ptr() };
    // SAFETY: as above.
    let conflict = unsafe { (*storage).exchange.conflict.as_ptr() };
    // SAFETY: the lock of a map's value.
    unsafe { generated::bpf_spin_lock(lock) };
    Turn { busy, conflict }
}

/// `storage` must not be null, and must be locked.
#[inline(always)]
fn unlock(storage: *mut Storage) {
    // SAFETY: a map's value: the address of its field is valid.
    let lock = unsafe { &raw mut (*storage).lock };
    // SAFETY: the caller holds the lock.
    unsafe { generated::bpf_spin_unlock(lock) };
}

#[inline(always)]
fn exchange<'a>(storage: *mut Storage) -> Option<&'a Exchange> {
    if storage.is_null() {
        return None;
    }
    // SAFETY: not null, so the socket's own storage. All references to it are shared, and one program at a time writes
    // a field, as the module documentation says.
    Some(unsafe { &(*storage).exchange })
}

#[inline(always)]
fn storage(sk: *mut bpf_sock, flags: u32) -> *mut Storage {
    // SAFETY: `sk` comes from a context and is not null.
    unsafe { bpf_sk_storage_get(map(), sk.cast(), ptr::null_mut(), flags.into()).cast() }
}

#[inline(always)]
fn map() -> *mut c_void {
    ptr::from_ref(&EXCHANGES).cast_mut().cast()
}

impl Exchange {
    /// Counts a head that left. Returns its index if its answer can be told from others.
    #[inline(always)]
    pub(super) fn count_request(&self, head: &Head) -> Option<u32> {
        if self.uncertain.get() != 0 {
            return None;
        }
        let index = self.requests.get();
        let bit = bit(index);
        let is_head = head.method as u8 == Method::Head as u8;
        let heads = self.heads.get() & !bit;
        self.heads.set(if is_head { heads | bit } else { heads });
        self.reported.set(self.reported.get() & !bit);
        if let Some(reason) = head.reason {
            // It is unknown how a server reads the rest of the stream.
            self.uncertain.set(1);
            let reason = reason as u8;
            let is_answered =
                reason == Reason::Malformed as u8 || reason == Reason::NotHttp as u8 || reason == Reason::TooLong as u8;
            if !is_answered {
                return None;
            }
        }
        self.requests.set(index.wrapping_add(1));
        Some(index)
    }

    /// Notes that user space has the request at `index`.
    #[inline(always)]
    pub(super) fn set_reported(&self, index: u32) {
        self.reported.set(self.reported.get() | bit(index));
    }

    /// Stops counting requests: from here on, it is unknown which outgoing bytes are requests.
    #[inline(always)]
    pub(super) fn set_uncertain(&self) {
        self.uncertain.set(1);
    }

    /// Notes the TTL of the current packet.
    #[inline(always)]
    pub(super) fn set_hops(&self, hops: u8) {
        self.hops.set(hops);
    }

    /// Stops following answers: from here on, it is unknown which answer belongs to which request.
    #[inline(always)]
    pub(super) fn lose(&self) {
        if self.with(|answers| answers.is_lost()) {
            return;
        }
        counters::add(Loss::AnswerStreams, 1);
        self.with(Answers::lose);
    }

    /// True if the answer to the next request can be told from others.
    #[inline(always)]
    pub(super) fn is_counted(&self) -> bool {
        self.uncertain.get() == 0 && self.synced.get() != 0 && !self.is_lost()
    }

    /// True if all but the last `unanswered` requests are answered, to the last byte.
    #[inline(always)]
    pub(super) fn is_settled(&self, unanswered: u32) -> bool {
        self.requests.get().wrapping_sub(self.count.get()) == unanswered
            && self.with(|answers| answers.is_between_answers())
    }

    #[inline(always)]
    pub(super) fn is_lost(&self) -> bool {
        self.with(|answers| answers.is_lost())
    }

    /// Notes that `missing` bytes of the stream were not seen.
    #[inline(always)]
    pub(super) fn gap(&self, missing: u32) {
        if self.with(|answers| answers.gap(missing.into())) == Step::Lost {
            counters::add(Loss::AnswerStreams, 1);
        }
        self.next_seq.set(self.next_seq.get().wrapping_add(missing));
    }

    /// Skips those of the next `len` bytes that need no parsing. Returns how many it skipped.
    #[inline(always)]
    pub(super) fn skip(&self, len: u32) -> u32 {
        let skipped = self.with(|answers| {
            let to_skip = answers.to_skip();
            let skipped = if to_skip < len as u64 { to_skip as u32 } else { len };
            answers.skip(skipped.into());
            skipped
        });
        self.next_seq.set(self.next_seq.get().wrapping_add(skipped));
        skipped
    }

    /// Takes the next byte of the stream.
    #[inline(always)]
    pub(super) fn push(&self, byte: u8) -> Step {
        if byte != b'\r' && byte != b'\n' && self.with(|answers| answers.is_between_answers()) {
            self.line_time.set(task::now());
            self.line_hops.set(self.hops.get());
        }
        let is_head = self.is_head.get() != 0;
        self.next_seq.set(self.next_seq.get().wrapping_add(1));
        let step = self.with(|answers| answers.push(byte, is_head));
        if step == Step::Lost {
            counters::add(Loss::AnswerStreams, 1);
        }
        step
    }

    /// Counts an answer whose status code has just ended. Returns `None` if no request waits for it or if user space
    /// does not have its request.
    #[inline(always)]
    pub(super) fn count_answer(&self) -> Option<Answered> {
        let index = self.count.get();
        let waiting = self.requests.get().wrapping_sub(index);
        if waiting == 0 || waiting > WAITING_MAX {
            // No request waits for this answer, or its request is no longer remembered.
            self.lose();
            return None;
        }
        self.count.set(index.wrapping_add(1));
        self.is_head.set((self.heads.get() & bit(index) != 0) as u8);
        if self.reported.get() & bit(index) == 0 {
            return None;
        }
        Some(Answered {
            index,
            status: self.with(|answers| answers.status()),
            hop_limit: self.line_hops.get(),
            time: self.line_time.get(),
        })
    }

    /// The index of the first request without an answer, if there are unanswered requests that user space has not been
    /// told about.
    #[inline(always)]
    pub(super) fn to_tell(&self) -> Option<u32> {
        let (requests, count) = (self.requests.get(), self.count.get());
        if requests == count || requests == self.told.get() {
            return None;
        }
        self.told.set(requests);
        Some(count)
    }

    #[inline(always)]
    fn with<T>(&self, action: impl FnOnce(&mut Answers) -> T) -> T {
        // SAFETY: the only reference while `action` runs: all actions are in this file and none looks up an exchange,
        // and `busy` keeps other programs out.
        action(unsafe { &mut *self.answers.get() })
    }
}

#[inline(always)]
const fn bit(index: u32) -> u64 {
    1 << (index % WAITING_MAX)
}
