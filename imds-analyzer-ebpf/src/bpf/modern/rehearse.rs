//! A rehearsal: keeps the v1 calls of chosen callers back, as the last byte of their head is about to leave, and tells
//! user space, which answers in place of IMDS.
//!
//! The packet that completes the head does not leave, and neither does anything later on its connection. The drop comes
//! back as an error before TCP counts the bytes as sent, so the connection holds them for later: when the rehearsal
//! ends, or when user space stops renewing its promise to answer ([`Choice::LEASE`]), TCP sends them as if they had been
//! lost on the way.

use core::{cell::Cell, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{HashMap, SkStorage},
    helpers::generated::{bpf_get_prandom_u32, bpf_sk_storage_get, bpf_tcp_sock},
    macros::btf_map,
};
use imds_analyzer_ebpf::{
    abi::{
        Header, Loss, RecordKind, Task,
        rehearsal::{Choice, Passed, Refusal, RefusalNews, choice, namespace},
        request_flags,
    },
    classify::{Verdict, facts},
    follow::{self, Headers},
};

use super::{
    constants,
    constants::offset,
    exchange::{self, Exchange},
    report::{self, NO_NOTE},
    socket::{self, NOTES, Socket},
    task, transport,
};
use crate::bpf::common::{
    counters,
    read::{self, context_field},
    skb::Skb,
};

/// Chosen and spared callers, special namespaces, sockets that are set free, and user space's promise to answer.
#[btf_map]
static CHOICE: HashMap<Choice, u64, 16384> = HashMap::new();

/// A connection in a rehearsal. All zeroes: no call on it was kept back.
#[repr(C)]
struct Denial {
    cookie: Cell<u64>,
    /// Sequence number of the first byte that may not leave, unless `stage` is [`stage::NONE`].
    from: Cell<u32>,
    /// Sequence number of the first new byte of the current packet, and 1 if the packet is a SYN.
    begin: Cell<u32>,
    syn: Cell<u32>,
    /// One of [`stage`].
    stage: Cell<u32>,
    /// Not 0 until user space is told of the call that is kept back.
    untold: Cell<u32>,
    /// The process that sent it; 0 if nobody knows.
    tgid: Cell<u32>,
}

/// Values of [`Denial::stage`].
mod stage {
    pub(super) const NONE: u32 = 0;
    /// A call is kept back, and earlier calls are not answered yet: acknowledgements of their answers leave.
    pub(super) const QUEUED: u32 = 1;
    /// User space answers: nothing leaves but a reset.
    pub(super) const ANSWERED: u32 = 2;
}

#[btf_map]
static DENIALS: SkStorage<Denial> = SkStorage::new();

/// 1 if the packet may not leave.
// VERIFIER: a global function, like `imds_stream`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_held(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.tcp_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(denial) = denial(sk, 0) else { return 0 };
    if denial.stage.get() == stage::NONE {
        return 0;
    }
    let Ok(headers) = Headers::read(&skb) else { return 1 };
    // A SYN begins another connection of the socket.
    if headers.is_syn() || !is_running() || value(&Choice::freed(denial.cookie.get())) != 0 {
        denial.stage.set(stage::NONE);
        return 0;
    }
    if headers.is_reset() {
        return 0;
    }
    let end = headers.seq.wrapping_add(skb.len().saturating_sub(headers.payload));
    let is_later = headers.is_fin() || follow::is_before(denial.from.get(), end);
    (is_later || denial.stage.get() == stage::ANSWERED) as u32
}

/// Notes where the new bytes of a packet begin.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_prepare(ctx: *mut __sk_buff, begin: u32, syn: u32) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.full_sock();
    if sk.is_null() {
        return 0;
    }
    // Without memory for it, no call on this connection is refused.
    if let Some(denial) = denial(sk, BPF_SK_STORAGE_GET_F_CREATE) {
        denial.cookie.set(skb.cookie());
        denial.begin.set(begin);
        denial.syn.set(syn);
    }
    0
}

/// Decides on the head that the current packet has just completed, and keeps the packet back if it is to be refused.
/// [`imds_tell`] follows.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_refuse(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.full_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(denial) = denial(sk, 0) else { return 0 };
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let flags = socket.endpoints.flags.get();
    let head = socket.classifier.head();
    // A malformed head would get another answer than 401.
    let is_candidate = head.verdict as u8 == Verdict::V1 as u8 && head.facts & facts::MALFORMED == 0;
    if !is_candidate || !is_running() {
        return 0;
    }
    if denial.stage.get() != stage::NONE {
        // Behind a call in the same packet, which is kept back as a whole.
        socket.endpoints.flags.set(flags | request_flags::EXEMPT);
        return 0;
    }
    let place = value(&Choice::namespace(socket.endpoints.net_ns.get()));
    let seq = socket.next_seq.get().wrapping_sub(head.len);
    let tgid = imds_chosen(ctx, report::note(socket, seq));
    if place != namespace::TEST {
        let is_local = flags & request_flags::LOCAL != 0;
        if is_local || tgid == 0 || value(&Choice::BEGUN) == 0 {
            return 0;
        }
        socket.endpoints.flags.set(flags | request_flags::EXEMPT);
        if !is_drawn() {
            return 0;
        }
    }
    let exchange = exchange::of(sk);
    let passed = passed(skb, sk, socket, denial, exchange, place, seq);
    if passed == 0 && constants::is_dry() {
        socket.endpoints.flags.set(flags | request_flags::WOULD);
        return 0;
    }
    if passed != 0 {
        send(socket, exchange, RefusalNews::Passed, passed, 0, tgid);
        return 0;
    }
    denial.from.set(denial.begin.get());
    denial.stage.set(stage::QUEUED);
    denial.untold.set(1);
    denial.tgid.set(tgid);
    socket.endpoints.flags.set(flags | request_flags::REHEARSED);
    1
}

/// Tells user space of the call that [`imds_refuse`] keeps back, and clears the flags that it set. Called once the call is
/// reported and counted: its answer may come at once, on another CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_tell(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.full_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(denial) = denial(sk, 0) else { return 0 };
    if let Some(socket) = socket::of_packet(skb) {
        let of_head = request_flags::REHEARSED | request_flags::WOULD | request_flags::EXEMPT;
        let flags = &socket.endpoints.flags;
        flags.set(flags.get() & !of_head);
    }
    if denial.untold.get() == 0 {
        return 0;
    }
    if !tell(sk, skb, denial) {
        // Without the news, user space does not answer: let the call through.
        denial.stage.set(stage::NONE);
    }
    0
}

#[inline(always)]
fn tell(sk: *mut bpf_sock, skb: Skb, denial: &Denial) -> bool {
    // SAFETY: `sk` comes from a context and is not null.
    let tcp = unsafe { bpf_tcp_sock(sk) };
    let (Some(socket), Some(exchange)) = (socket::of_packet(skb), exchange::of(sk)) else {
        return false;
    };
    if tcp.is_null() {
        return false;
    }
    let is_next = exchange.is_settled(1);
    let news = if is_next {
        RefusalNews::Refused
    } else {
        RefusalNews::Queued
    };
    let sent = send(
        socket,
        Some(exchange),
        news,
        0,
        context_field!(tcp, snd_nxt),
        denial.tgid.get(),
    );
    if sent && is_next {
        denial.stage.set(stage::ANSWERED);
    }
    // From here on, the ingress program tells of a change. It may have come meanwhile.
    denial.untold.set(0);
    if sent && !is_next {
        due(denial, socket, exchange);
    }
    sent
}

/// Why the head at `seq` must be let through: a [`Passed`], or 0 if user space can answer.
#[inline(always)]
fn passed(
    skb: Skb,
    sk: *mut bpf_sock,
    socket: &Socket,
    denial: &Denial,
    exchange: Option<&Exchange>,
    place: u64,
    seq: u32,
) -> u8 {
    let reason = if follow::is_before(denial.begin.get(), seq) {
        Passed::SharedPacket
    } else if denial.syn.get() != 0 {
        Passed::FastOpen
    } else if place == namespace::UNANSWERABLE {
        Passed::Namespace
    } else if context_field!(sk, bound_dev_if) != 0 {
        Passed::Device
    } else if offset!(tcp_sock_is_mptcp) != 0
        && read::kernel::<[u8; 1]>(socket.sock() + offset!(tcp_sock_is_mptcp)).is_none_or(|[is]| is != 0)
    {
        Passed::Multipath
    } else if imds_rewritten(skb.0) != 0 {
        Passed::Rewritten
    } else if socket.old.get() != 0 || !exchange.is_some_and(Exchange::is_counted) {
        Passed::Uncounted
    } else {
        return 0;
    };
    reason as u8
}

/// 1 if netfilter has rewritten an address or a port of the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_rewritten(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 1 };
    let Ok(headers) = Headers::read(&skb) else { return 1 };
    let endpoints = &socket.endpoints;
    let source = follow::source(&skb, headers.v6).unwrap_or([0; 16]);
    let destination = follow::destination(&skb, headers.v6).unwrap_or([0; 16]);
    let same = u128::from_ne_bytes(source) == u128::from_ne_bytes(endpoints.source.get())
        && u128::from_ne_bytes(destination) == u128::from_ne_bytes(endpoints.destination.get())
        && headers.source_port == endpoints.source_port.get()
        && headers.destination_port == endpoints.destination_port.get();
    !same as u32
}

/// The id of the sender of the packet's head, in the note at `place`, if it is chosen; else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_chosen(ctx: *mut __sk_buff, place: u32) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    if place == NO_NOTE {
        return chosen(&socket.connector());
    }
    if place < NOTES as u32
        && let Some(senders) = socket::senders(socket.sock(), skb.cookie())
    {
        return chosen(&senders.notes[report::within_notes(place)].task);
    }
    // Nobody knows who sent it.
    0
}

#[inline(always)]
fn chosen(task: &Task) -> u32 {
    if is_chosen(task) { task.tgid } else { 0 }
}

#[inline(always)]
fn is_chosen(task: &Task) -> bool {
    if task.tgid == 0 {
        return false;
    }
    let named = value(&Choice::name(&task.comm)) | value(&Choice::process(task.tgid, task.start));
    if named & choice::SPARED != 0 {
        return false;
    }
    if constants::rehearses_all() {
        return true;
    }
    let placed = if task.cgroup == 0 {
        0
    } else {
        value(&Choice::cgroup(task.cgroup))
    };
    (named | placed | value(&Choice::user(task.uid))) & choice::CHOSEN != 0
}

/// True for as many of a hundred calls as the rehearsal refuses.
#[inline(always)]
fn is_drawn() -> bool {
    // SAFETY: a helper without arguments.
    let number = unsafe { bpf_get_prandom_u32() };
    // 100 divides 2^32 with a remainder that is far too small to matter.
    u64::from(number % 100) < constants::rehearsal_percent()
}

/// Entry of the ingress program, after the packet was followed: answers the call that was kept back once all earlier
/// ones are answered.
#[inline(always)]
pub(super) fn receive(ctx: *mut __sk_buff) {
    if Skb(ctx).is_imds() {
        imds_due(ctx);
    }
}

/// Tells user space if the call that was kept back is the next one to answer.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_due(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.tcp_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(denial) = denial(sk, 0) else { return 0 };
    if denial.stage.get() != stage::QUEUED || denial.untold.get() != 0 {
        return 0;
    }
    if let (Some(exchange), Some(socket)) = (exchange::of(sk), socket::of_packet(skb)) {
        due(denial, socket, exchange);
    }
    0
}

#[inline(always)]
fn due(denial: &Denial, socket: &Socket, exchange: &Exchange) {
    if exchange.is_settled(1) && send(socket, Some(exchange), RefusalNews::Due, 0, 0, 0) {
        denial.stage.set(stage::ANSWERED);
    }
}

/// Entry of the release program: tells user space that the caller has closed a socket that a call was kept back on.
#[inline(always)]
pub(super) fn release(sk: *mut bpf_sock) {
    let Some(denial) = denial(sk, 0) else { return };
    if denial.stage.get() != stage::NONE
        && let Some(socket) = socket::existing(sk, sk.cast())
    {
        send(socket, exchange::of(sk), RefusalNews::Closed, 0, 0, 0);
    }
}

/// Sends a record. Returns false if the ring buffer has no room.
#[inline(always)]
fn send(
    socket: &Socket,
    exchange: Option<&Exchange>,
    news: RefusalNews,
    passed: u8,
    acknowledge: u32,
    tgid: u32,
) -> bool {
    let Some(mut entry) = transport::reserve::<Refusal>() else {
        counters::add(Loss::RefusalRing, 1);
        return false;
    };
    // SAFETY: reserved memory of this type, all of which is written before it is submitted.
    let refusal = unsafe { &mut *entry.as_mut_ptr() };
    let endpoints = &socket.endpoints;
    refusal.header = Header {
        time: task::now(),
        kind: RecordKind::Refusal as u16,
        data_len: 0,
        reserved: 0,
    };
    refusal.cookie = endpoints.cookie.get();
    refusal.net_ns = endpoints.net_ns.get();
    refusal.answer_seq = match exchange {
        Some(exchange) => exchange.next_seq.get(),
        None => 0,
    };
    refusal.acknowledge = acknowledge;
    refusal.source_port = endpoints.source_port.get();
    refusal.destination_port = endpoints.destination_port.get();
    refusal.source = endpoints.source.get();
    refusal.destination = endpoints.destination.get();
    refusal.family = endpoints.family.get();
    refusal.news = news as u8;
    refusal.passed = passed;
    refusal.reserved = 0;
    refusal.tgid = tgid;
    entry.submit(0);
    true
}

/// True until the rehearsal ends or user space no longer promises to answer.
#[inline(always)]
fn is_running() -> bool {
    let now = task::now();
    now < constants::rehearsal_end() && now < value(&Choice::LEASE)
}

/// The value of a key; 0 if there is none.
#[inline(always)]
fn value(key: &Choice) -> u64 {
    match CHOICE.get_ptr(key) {
        // SAFETY: a map's value, an aligned word that user space replaces as a whole.
        Some(value) => unsafe { ptr::read_volatile(value) },
        None => 0,
    }
}

#[inline(always)]
fn denial<'a>(sk: *mut bpf_sock, flags: u32) -> Option<&'a Denial> {
    let map = ptr::from_ref(&DENIALS).cast_mut().cast::<c_void>();
    // SAFETY: `sk` comes from a context and is not null.
    let denial = unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags.into()) };
    // SAFETY: null or the socket's own storage, to which all references are shared. The ingress program ends a wait that
    // the egress program began, and otherwise the egress program alone writes.
    unsafe { denial.cast::<Denial>().as_ref() }
}
