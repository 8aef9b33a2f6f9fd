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
    // SAFETY: the program's context, which holds a whole bpf_sock.
    let port = unsafe { &raw const (*sk).dst_port };
    // SAFETY: as above.
    if unsafe { read_volatile(port) } != target::PORT.to_be() {
        return;
    }
    // In any other state the kernel still sends what is queued, and then a FIN or RST.
    // SAFETY: as above.
    let state = unsafe { &raw const (*sk).state };
    // SAFETY: as above.
    if unsafe { read_volatile(state) } != TCP_CLOSE {
        return;
    }
    let Some(socket) = socket::existing(sk) else { return };
    if socket.classifier.close() == Step::Head {
        report::send(socket, RecordKind::Request);
    }
}
