//! The last reference to a socket goes away. A connection the peer reset leaves no packet of its own; a head it cut is
//! reported here.

use core::ptr::read_volatile;

use aya_ebpf::bindings::bpf_sock;
use imds_analyzer_ebpf::{abi::RecordKind, classify::Step, target};

use super::{report, socket};

/// `TCP_CLOSE` of include/net/tcp_states.h.
const TCP_CLOSE: u32 = 7;

#[inline(always)]
pub(super) fn observe(sk: *mut bpf_sock) {
    // SAFETY: the program's context.
    let port = unsafe { read_volatile(&raw const (*sk).dst_port) };
    if port != target::PORT.to_be() {
        return;
    }
    // In any other state the kernel still sends what is queued, and then a FIN or RST.
    // SAFETY: as above.
    if unsafe { read_volatile(&raw const (*sk).state) } != TCP_CLOSE {
        return;
    }
    let Some(socket) = socket::existing(sk) else { return };
    if socket.classifier.close() == Step::Head {
        report::send(socket, RecordKind::Request);
    }
}
