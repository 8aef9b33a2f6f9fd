//! The packet and its socket as a `cgroup_skb` program sees them.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes},
};
use imds_analyzer_ebpf::target;

use super::read::context_field;

/// A program's context. Copying it copies the pointer.
#[derive(Clone, Copy)]
pub(super) struct Skb(pub(super) *mut __sk_buff);

impl Skb {
    /// Whether the socket's peer is IMDS. The first thing every packet of the machine meets: the port decides for
    /// nearly all of them.
    #[inline(always)]
    pub(super) fn is_imds(self) -> bool {
        // `remote_port` is a big-endian u32 (bpf_convert_ctx_access, net/core/filter.c).
        if context_field!(self.0, remote_port) != (target::PORT as u32).to_be() {
            return false;
        }
        // A socket of AF_INET6 with a mapped peer has the IPv4 address here as well.
        if context_field!(self.0, remote_ip4) == u32::from_ne_bytes(target::IPV4) {
            return true;
        }
        if !self.is_v6() {
            return false;
        }
        let words = self.remote_ip6();
        let expected = ipv6_words();
        words[0] == expected[0] && words[1] == expected[1] && words[2] == expected[2] && words[3] == expected[3]
    }

    #[inline(always)]
    fn remote_ip6(self) -> [u32; 4] {
        [
            context_field!(self.0, remote_ip6[0]),
            context_field!(self.0, remote_ip6[1]),
            context_field!(self.0, remote_ip6[2]),
            context_field!(self.0, remote_ip6[3]),
        ]
    }

    #[inline(always)]
    fn is_v6(self) -> bool {
        const AF_INET6: u32 = 10;
        context_field!(self.0, family) == AF_INET6
    }

    /// Bytes of the packet, from its IP header on.
    #[inline(always)]
    pub(super) fn len(self) -> u32 {
        context_field!(self.0, len)
    }

    /// True if the packet leaves through the loopback device: its destination is an address of this host.
    #[inline(always)]
    pub(super) fn is_local(self) -> bool {
        // The index every network namespace gives its loopback device (LOOPBACK_IFINDEX, include/net/flow.h).
        self.ifindex() == 1
    }

    /// Index of the device the packet leaves through.
    #[inline(always)]
    pub(super) fn ifindex(self) -> u32 {
        context_field!(self.0, ifindex)
    }

    /// The socket's address, and its port in host order.
    #[inline(always)]
    pub(super) fn local(self, v6: bool) -> ([u8; 16], u16) {
        let port = context_field!(self.0, local_port) as u16;
        if !v6 {
            return (mapped(context_field!(self.0, local_ip4)), port);
        }
        let words = [
            context_field!(self.0, local_ip6[0]),
            context_field!(self.0, local_ip6[1]),
            context_field!(self.0, local_ip6[2]),
            context_field!(self.0, local_ip6[3]),
        ];
        (bytes(words), port)
    }

    /// The socket's peer.
    #[inline(always)]
    pub(super) fn peer(self, v6: bool) -> [u8; 16] {
        if !v6 {
            return mapped(context_field!(self.0, remote_ip4));
        }
        bytes(self.remote_ip6())
    }

    /// The socket if it is a TCP socket, else null.
    #[inline(always)]
    pub(super) fn tcp_sock(self) -> *mut bpf_sock {
        const IPPROTO_TCP: u32 = 6;
        let sk = self.full_sock();
        if sk.is_null() {
            return sk;
        }
        if context_field!(sk, protocol) == IPPROTO_TCP {
            sk
        } else {
            core::ptr::null_mut()
        }
    }

    /// The socket, or null.
    #[inline(always)]
    pub(super) fn full_sock(self) -> *mut bpf_sock {
        let sk = context_field!(self.0, __bindgen_anon_2.sk);
        if sk.is_null() {
            return sk;
        }
        // SAFETY: a socket of the context, checked for null.
        unsafe { bpf_sk_fullsock(sk) }
    }

    #[inline(always)]
    pub(super) fn cookie(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// `N` bytes at `offset`, or `None` behind the packet's end.
    #[inline(always)]
    pub(super) fn load<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes to an array of N.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast::<c_void>(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }

    /// The first `len` bytes at `offset` into `bytes`; `len` is 1..=N, N a power of two.
    #[inline(always)]
    pub(super) fn load_into<const N: usize>(self, offset: u32, bytes: &mut [u8; N], len: u32) -> bool {
        const { assert!(N.is_power_of_two()) };
        // VERIFIER: as in `read::user_into`.
        let len = (super::read::bounded(len - 1) & (N as u32 - 1)) + 1;
        // SAFETY: the helper writes at most N bytes to an array of N.
        unsafe { bpf_skb_load_bytes(self.0.cast::<c_void>(), offset, bytes.as_mut_ptr().cast(), len) == 0 }
    }
}

/// IMDS's IPv6 address in words as the context has them.
#[inline(always)]
pub(super) const fn ipv6_words() -> [u32; 4] {
    let a = target::IPV6;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// Four bytes in the place of sixteen.
#[inline(always)]
pub(super) fn mapped(word: u32) -> [u8; 16] {
    bytes([word, 0, 0, 0])
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words;
    let [a, b, c, d] = [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes()];
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}
