//! The last reference to a socket goes away. A connection the peer reset leaves no packet of its own; a head it cut is
//! reported here, and so is a connection that never carried one.

use aya_ebpf::bindings::bpf_sock;
use imds_analyzer_ebpf::{
    abi::{RecordKind, exchange::News},
    classify::Step,
    target,
};

use super::{
    attempt::{self, TCP_CLOSE},
    exchange, ingress, report, socket,
};
use crate::bpf::common::read::context_field;

#[inline(always)]
pub(super) fn observe(sk: *mut bpf_sock) {
    let dst_port = context_field!(sk, dst_port);
    let is_closed = context_field!(sk, state) == TCP_CLOSE;
    // A connection that failed has no peer any more: the kernel takes it away (`tcp_disconnect`, net/ipv4/tcp.c).
    if dst_port != target::PORT.to_be() && (dst_port != 0 || !is_closed) {
        return;
    }
    let Some(socket) = socket::existing(sk, sk.cast()) else {
        return;
    };
    let exchange = exchange::of(sk);
    // In any other state the kernel still sends what is queued, and then a FIN or RST, and takes what comes back.
    if is_closed {
        if socket.classifier.close() == Step::Head {
            report::send(socket, None, RecordKind::Request);
        }
        if let Some(exchange) = exchange {
            ingress::end(sk, socket.endpoints.cookie.get(), exchange, News::End);
        }
    }
    if let Some(exchange) = exchange {
        attempt::report(sk, socket, exchange);
    }
}
