//! Runs when the last reference to a socket goes away. A connection that the peer reset sends no last packet, so this
//! module reports a head that the reset cut off, and a connection that never carried a head.

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
    // A failed connection has no peer any more: the kernel clears it (`tcp_disconnect`, net/ipv4/tcp.c).
    if dst_port != target::PORT.to_be() && (dst_port != 0 || !is_closed) {
        return;
    }
    let Some(socket) = socket::existing(sk, sk.cast()) else {
        return;
    };
    let exchange = exchange::of(sk);
    // In any other state the kernel still sends the queued bytes and then a FIN or RST, and still receives.
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
