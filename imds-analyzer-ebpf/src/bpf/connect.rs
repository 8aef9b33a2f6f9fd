//! connect(2) to IMDS: the early notice, and the floor of who owns a socket.

use core::ptr::read_volatile;

use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext};
use imds_analyzer_ebpf::{abi::OwnerHook, target};

use super::{skb, socket, task};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// A field of the context.
macro_rules! field {
    ($ctx:ident . $($path:tt)+) => {{
        // SAFETY: the context is valid while the program runs.
        let field = unsafe { &raw const (*$ctx.sock_addr).$($path)+ };
        // VERIFIER: volatile, so that each field is one load of its own size at a constant offset.
        // SAFETY: as above.
        unsafe { read_volatile(field) }
    }};
}

#[inline(always)]
pub(super) fn observe_v4(ctx: &SockAddrContext) {
    if field!(ctx.user_port) == port() && field!(ctx.user_ip4) == u32::from_ne_bytes(target::IPV4) {
        observe(ctx);
    }
}

#[inline(always)]
pub(super) fn observe_v6(ctx: &SockAddrContext) {
    if field!(ctx.user_port) != port() {
        return;
    }
    let words = [
        field!(ctx.user_ip6[0]),
        field!(ctx.user_ip6[1]),
        field!(ctx.user_ip6[2]),
        field!(ctx.user_ip6[3]),
    ];
    let native = skb::ipv6_words();
    let mapped = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(target::IPV4)];
    if words[3] == native[3] && words[0] == native[0] && words[1] == native[1] && words[2] == native[2]
        || words[3] == mapped[3] && words[2] == mapped[2] && words[1] == 0 && words[0] == 0
    {
        observe(ctx);
    }
}

/// The port as the context has it: big-endian, in the low half.
#[inline(always)]
const fn port() -> u32 {
    target::PORT.to_be() as u32
}

#[inline(always)]
fn observe(ctx: &SockAddrContext) {
    let protocol = field!(ctx.protocol);
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return;
    }
    let sk: *mut bpf_sock = field!(ctx.__bindgen_anon_1.sk);
    if sk.is_null() {
        return;
    }
    socket::forget(sk);
    let Some(socket) = socket::of(sk) else { return };
    let (identity, leader) = task::identity();
    let cgroup = task::current_cgroup();
    task::facts_into(&mut socket.connector, &identity, leader, cgroup, OwnerHook::Connect);
    socket.set_sock(sk);
    // SAFETY: the program's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    if let Some(senders) = socket::new_senders(socket.sock(), cookie) {
        senders.set_announced(&identity);
    }
    task::announce(&socket.connector, leader, socket.sock(), cookie);
}
