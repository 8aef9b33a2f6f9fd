//! Passes unparsed packets on to user space, which processes them like the modern object does in the kernel.

use imds_analyzer_ebpf::abi::{
    Header, RecordKind,
    legacy::{PACKET_MAX, Packet},
};

use super::{current::now, transport};
use crate::bpf::common::skb::Skb;

/// Passes on a packet that leaves a socket whose peer is IMDS.
#[inline(always)]
pub(super) fn pass_on(skb: Skb) {
    if !skb.is_imds() {
        return;
    }
    let len = skb.len();
    let passed = if len > PACKET_MAX { PACKET_MAX } else { len };
    let packet = Packet {
        header: Header {
            time: now(),
            kind: RecordKind::Packet as u16,
            data_len: passed as u16,
            reserved: 0,
        },
        cookie: skb.cookie(),
        len,
        ifindex: skb.ifindex(),
    };
    transport::output_packet(skb, &packet, passed);
}
