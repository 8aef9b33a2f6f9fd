//! The last reference to a socket goes away. A connection the peer reset leaves no packet of its own; a head it cut is
//! reported here.

use aya_ebpf::bindings::bpf_sock;
use imds_analyzer_ebpf::{abi::RecordKind, classify::Step, target};

use super::{report, socket};
use crate::bpf::common::read::context_field;

/// `TCP_CLOSE` of include/net/tcp_states.h.
const TCP_CLOSE: u32 = 7;

#[inline(always)]
pub(super) fn observe(sk: *mut bpf_sock) {
    if context_field!(sk, dst_port) != target::PORT.to_be() {
        return;
    }
    // In any other state the kernel still sends what is queued, and then a FIN or RST.
    if context_field!(sk, state) != TCP_CLOSE {
        return;
    }
    let Some(socket) = socket::existing(sk, sk.cast()) else {
        return;
    };
    if socket.classifier.close() == Step::Head {
        report::send(socket, RecordKind::Request);
    }
}
