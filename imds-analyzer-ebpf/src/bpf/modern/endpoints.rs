//! The two ends of a connection, read from one of its packets.

use imds_analyzer_ebpf::{
    abi::request_flags,
    follow::{self, Bytes as _, Headers},
    target,
};

use super::{socket::Endpoints, task};
use crate::bpf::common::skb::Skb;

/// Writes what is known of the two ends when the socket at `sock` connects: the kernel chooses the local address later.
#[inline(always)]
pub(super) fn begin(endpoints: &Endpoints, sock: u64, cookie: u64, family: u8, destination: [u8; 16]) {
    endpoints.cookie.set(cookie);
    endpoints.net_ns.set(task::net_namespace(sock));
    endpoints.family.set(family);
    endpoints.destination.set(destination);
    endpoints.destination_port.set(target::PORT);
    endpoints.packet_destination.set(destination);
    endpoints.packet_port.set(target::PORT);
}

/// Writes the two ends of the connection that a packet belongs to, whose socket is at `sock`.
#[inline(always)]
pub(super) fn write(endpoints: &Endpoints, skb: Skb, sock: u64) {
    let v6 = skb.load::<1>(0).is_some_and(|[first]| first >> 4 == 6);
    let (source, source_port) = skb.local(v6);
    endpoints.cookie.set(skb.cookie());
    endpoints.net_ns.set(task::net_namespace(sock));
    endpoints
        .flags
        .set(if skb.is_local() { request_flags::LOCAL } else { 0 });
    endpoints.family.set(if v6 { 6 } else { 4 });
    endpoints.reserved.set(0);
    endpoints.source.set(source);
    endpoints.source_port.set(source_port);
    endpoints.destination.set(skb.peer(v6));
    endpoints.destination_port.set(target::PORT);
    endpoints
        .packet_destination
        .set(follow::destination(&skb, v6).unwrap_or([0; 16]));
    endpoints
        .packet_port
        .set(Headers::read(&skb).map_or(0, |headers| headers.destination_port));
    endpoints.reserved2.set(0);
}
