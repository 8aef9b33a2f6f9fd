//! Finds out whether a socket's peer is IMDS, and reads the two ends of its connection.

use imds_analyzer_ebpf::abi::legacy::{Send, Settings};

use crate::bpf::common::read;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The kind of peer that a socket has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Target,
    /// Not connected.
    None,
    Other,
}

/// The peer of the socket at `sock`. The port decides for nearly every socket.
#[inline(always)]
pub(super) fn of(sock: u64, settings: &Settings) -> Peer {
    let port: u16 = read::kernel(sock + settings.offsets.sock_dport as u64).unwrap_or(0);
    if port == 0 {
        return Peer::None;
    }
    if port as u32 != settings.target_port {
        return Peer::Other;
    }
    if read::kernel::<u32>(sock + settings.offsets.sock_daddr as u64) == Some(settings.target_v4) {
        return Peer::Target;
    }
    if family(sock, settings) == AF_INET6 && is_v6_target(sock + settings.offsets.sock_v6_daddr as u64, settings) {
        return Peer::Target;
    }
    Peer::Other
}

/// True if the `sockaddr` at a kernel address is the target's.
#[inline(always)]
pub(super) fn is_target(address: u64, settings: &Settings) -> bool {
    let family = read::kernel::<u16>(address).unwrap_or(0);
    if read::kernel::<u16>(address + 2).unwrap_or(0) as u32 != settings.target_port {
        return false;
    }
    if family == AF_INET {
        return read::kernel::<u32>(address + 4) == Some(settings.target_v4);
    }
    if family != AF_INET6 {
        return false;
    }
    let mapped = read::kernel::<u64>(address + 8) == Some(0)
        && read::kernel::<u32>(address + 16) == Some(0xffff_u32.to_be())
        && read::kernel::<u32>(address + 20) == Some(settings.target_v4);
    mapped || is_v6_target(address + 8, settings)
}

#[inline(always)]
fn is_v6_target(address: u64, settings: &Settings) -> bool {
    let [a, b, c, d] = settings.target_v6;
    read::kernel::<u32>(address + 12) == Some(d)
        && read::kernel::<u32>(address) == Some(a)
        && read::kernel::<u32>(address + 4) == Some(b)
        && read::kernel::<u32>(address + 8) == Some(c)
}

#[inline(always)]
fn family(sock: u64, settings: &Settings) -> u16 {
    read::kernel(sock + settings.offsets.sock_family as u64).unwrap_or(0)
}

/// Writes the two ends of the connection, as far as the socket knows them.
#[inline(always)]
pub(super) fn ends_into(to: &mut Send, sock: u64, settings: &Settings) {
    to.source = [0; 16];
    to.destination = [0; 16];
    to.source_port = read::kernel::<u16>(sock + settings.sock_num as u64)
        .unwrap_or(0)
        .to_be();
    to.net_ns = net_namespace(sock, settings);
    // An IPv4-mapped peer counts as IPv4.
    let daddr: u32 = read::kernel(sock + settings.offsets.sock_daddr as u64).unwrap_or(0);
    if family(sock, settings) == AF_INET6 && daddr != settings.target_v4 {
        to.family = 6;
        read::kernel_into(&mut to.source, sock + settings.sock_v6_rcv_saddr as u64);
        read::kernel_into(&mut to.destination, sock + settings.offsets.sock_v6_daddr as u64);
    } else {
        to.family = 4;
        v4_into(&mut to.source, sock + settings.sock_rcv_saddr as u64);
        v4_into(&mut to.destination, sock + settings.offsets.sock_daddr as u64);
    }
}

/// Reads an IPv4 address into the first four of sixteen bytes.
#[inline(always)]
fn v4_into(to: &mut [u8; 16], address: u64) {
    let bytes: [u8; 4] = read::kernel(address).unwrap_or([0; 4]);
    to[0] = bytes[0];
    to[1] = bytes[1];
    to[2] = bytes[2];
    to[3] = bytes[3];
}

/// The socket's cookie; 0 if it has none, or if the offset of the cookie is not known.
#[inline(always)]
pub(super) fn cookie(sock: u64, settings: &Settings) -> u64 {
    match settings.offsets.sock_cookie {
        0 => 0,
        offset => read::kernel(sock + offset as u64).unwrap_or(0),
    }
}

/// Sequence number of the next byte written; 0 if it cannot be read.
#[inline(always)]
pub(super) fn next_seq(sock: u64, settings: &Settings) -> u32 {
    match settings.offsets.tcp_sock_write_seq {
        0 => 0,
        offset => read::kernel(sock + offset as u64).unwrap_or(0),
    }
}

/// Inode number of the network namespace; 0 if it cannot be read.
#[inline(always)]
pub(super) fn net_namespace(sock: u64, settings: &Settings) -> u32 {
    if settings.offsets.net_inum == 0 {
        return 0;
    }
    match read::kernel::<u64>(sock + settings.offsets.sock_net as u64) {
        Some(net) => read::kernel(net + settings.offsets.net_inum as u64).unwrap_or(0),
        None => 0,
    }
}
