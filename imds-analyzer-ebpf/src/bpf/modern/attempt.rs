//! Reports connections to IMDS that ended without a single byte of a request.

use aya_ebpf::bindings::bpf_sock;
use imds_analyzer_ebpf::{
    abi::{
        Loss, RecordKind,
        exchange::{Attempt, Outcome, UNREACHABLE_MAX},
    },
    classify::{Head, Method, PathClass, Reason, Verdict},
};

use super::{
    budget::{self, Class, imds_allows},
    constants::offset,
    exchange::Exchange,
    report,
    socket::Socket,
    task, transport,
};
use crate::bpf::common::{
    counters,
    read::{self, context_field},
};

// States of a socket (include/net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE_WAIT: u32 = 8;
pub(super) const TCP_CLOSE: u32 = 7;

/// Reports the connection of `sk` if no byte was ever written to it.
#[inline(always)]
pub(super) fn report(sk: *mut bpf_sock, socket: &Socket, exchange: &Exchange) {
    if exchange.requests.get() != 0 || was_written(sk, socket) {
        return;
    }
    let connector = socket.connector();
    let uid = if connector.tgid == 0 {
        budget::NOBODY
    } else {
        connector.uid
    };
    if imds_allows(uid, Class::Pending as u32) == 0 {
        counters::add(Loss::BudgetNotice, 1);
        return;
    }
    let Some(mut entry) = transport::reserve::<Attempt>() else {
        counters::add(Loss::AttemptRing, 1);
        return;
    };
    // SAFETY: reserved memory of this type, all of which is written before it is submitted.
    let attempt = unsafe { &mut *entry.as_mut_ptr() };
    report::request_into(
        &mut attempt.request,
        &socket.endpoints,
        socket.sock(),
        &NO_HEAD,
        RecordKind::Attempt,
        socket.next_seq.get(),
        0,
        0,
    );
    attempt.request.task = connector;
    let started = exchange.started.get();
    attempt.started = started;
    attempt.outcome = outcome(sk, exchange, task::now().wrapping_sub(started)) as u8;
    attempt.reserved = [0; 7];
    entry.submit(0);
}

const NO_HEAD: Head = Head {
    verdict: Verdict::Unknown,
    reason: Some(Reason::Closed),
    method: Method::Unknown,
    path_class: PathClass::NotImds,
    facts: 0,
    len: 0,
};

/// True if a byte was written to the socket. Bytes may still wait in the socket's queue when it is closed (TCP_CORK),
/// and leave afterwards.
#[inline(always)]
fn was_written(sk: *mut bpf_sock, socket: &Socket) -> bool {
    let initial_seq = socket.initial_seq.get();
    if socket.next_seq.get() != initial_seq {
        return true;
    }
    // No SYN has left, or the connection failed: nothing is queued, and the next sequence number is unrelated to
    // `initial_seq`.
    if socket.synced.get() == 0 || context_field!(sk, dst_port) == 0 {
        return false;
    }
    let written = read::kernel::<u32>(socket.sock() + offset!(tcp_sock_write_seq)).unwrap_or(initial_seq);
    // A FIN that was sent takes one number.
    let fin = match context_field!(sk, state) {
        TCP_SYN_SENT | TCP_ESTABLISHED | TCP_CLOSE_WAIT => 0,
        _ => 1,
    };
    written.wrapping_sub(initial_seq) > fin
}

#[inline(always)]
fn outcome(sk: *mut bpf_sock, exchange: &Exchange, elapsed: u64) -> Outcome {
    if exchange.synced.get() != 0 {
        return Outcome::Closed;
    }
    if exchange.refused.get() != 0 {
        return Outcome::Refused;
    }
    match context_field!(sk, state) {
        // The process gave up.
        TCP_SYN_SENT => Outcome::Timeout,
        TCP_CLOSE if elapsed < UNREACHABLE_MAX => Outcome::Unreachable,
        TCP_CLOSE => Outcome::Timeout,
        _ => Outcome::Closed,
    }
}
