//! Sees connect(2) to IMDS: announces the process early, and records it as the owner of the socket if no better one is
//! found later.

use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext};
use imds_analyzer_ebpf::{
    abi::{Loss, OwnerHook},
    target,
};

use super::{
    attempt,
    budget::{Class, imds_allows},
    endpoints, exchange, socket,
    task::{self, imds_announce_paths},
};
use crate::bpf::common::{counters, read::context_field, skb};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

#[inline(always)]
pub(super) fn observe_v4(ctx: &SockAddrContext) {
    if context_field!(ctx.sock_addr, user_port) == port()
        && context_field!(ctx.sock_addr, user_ip4) == u32::from_ne_bytes(target::IPV4)
    {
        observe(ctx, 4, target::IPV4_IN_16);
    }
}

#[inline(always)]
pub(super) fn observe_v6(ctx: &SockAddrContext) {
    if context_field!(ctx.sock_addr, user_port) != port() {
        return;
    }
    let words = [
        context_field!(ctx.sock_addr, user_ip6[0]),
        context_field!(ctx.sock_addr, user_ip6[1]),
        context_field!(ctx.sock_addr, user_ip6[2]),
        context_field!(ctx.sock_addr, user_ip6[3]),
    ];
    let native = skb::ipv6_words();
    let mapped = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(target::IPV4)];
    if words[3] == native[3] && words[0] == native[0] && words[1] == native[1] && words[2] == native[2] {
        observe(ctx, 6, target::IPV6);
    } else if words[3] == mapped[3] && words[2] == mapped[2] && words[1] == 0 && words[0] == 0 {
        observe(ctx, 4, target::IPV4_IN_16);
    }
}

/// The port in the format of the context: big-endian, in the low half.
#[inline(always)]
const fn port() -> u32 {
    target::PORT.to_be() as u32
}

/// `family` and `destination` are as in [`imds_analyzer_ebpf::abi::Request`].
#[inline(always)]
fn observe(ctx: &SockAddrContext, family: u8, destination: [u8; 16]) {
    let protocol = context_field!(ctx.sock_addr, protocol);
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return;
    }
    let sk: *mut bpf_sock = context_field!(ctx.sock_addr, __bindgen_anon_1.sk);
    if sk.is_null() {
        return;
    }
    let context = ctx.sock_addr.cast();
    // An earlier attempt failed, and the process uses the socket again.
    if let Some(socket) = socket::existing(sk, context)
        && let Some(exchange) = exchange::of(sk)
    {
        attempt::report(sk, socket, exchange);
    }
    socket::forget(sk, context);
    // Without state, the egress program reports the socket's packets with reason `no-state` and their sender.
    let Some(socket) = socket::of(sk, context) else { return };
    let (identity, leader) = task::identity();
    let cgroup = task::current_cgroup();
    socket.set_connector(&identity, leader, cgroup, OwnerHook::Connect as u8);
    socket.set_sock(sk);
    // SAFETY: the program's own context.
    let cookie = unsafe { bpf_get_socket_cookie(context) };
    endpoints::begin(&socket.endpoints, socket.sock(), cookie, family, destination);
    // The answers on an MPTCP connection arrive on its subflows' sockets.
    if protocol == IPPROTO_TCP {
        exchange::begin(sk);
    }
    if let Some(senders) = socket::new_senders(socket.sock(), cookie) {
        senders.set_announced(&identity);
    }
    if imds_allows(socket.connector().uid, Class::Owner as u32) != 0 {
        imds_announce_paths(socket.sock(), cookie, cgroup, OwnerHook::Connect as u32);
    } else {
        counters::add(Loss::BudgetNotice, 1);
    }
}
