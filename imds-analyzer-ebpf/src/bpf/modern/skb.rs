//! What only the modern object reads from a packet: its bytes, its socket and the socket's addresses.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes},
};
use imds_analyzer_ebpf::follow::Bytes;

use crate::bpf::common::{
    read::{bounded, context_field},
    skb::Skb,
};

impl Skb {
    /// True if the packet leaves through the loopback device: its destination is an address of this host.
    #[inline(always)]
    pub(super) fn is_local(self) -> bool {
        // The index every network namespace gives its loopback device (LOOPBACK_IFINDEX, include/net/flow.h).
        self.ifindex() == 1
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

    /// Loads `len` bytes at `offset` into `bytes`; `len` must be 1..=N, N a power of two. Returns false on failure.
    #[inline(always)]
    pub(super) fn load_into<const N: usize>(self, offset: u32, bytes: &mut [u8; N], len: u32) -> bool {
        const { assert!(N.is_power_of_two()) };
        // VERIFIER: as in `read::user_into`.
        let len = (bounded(len - 1) & (N as u32 - 1)) + 1;
        // SAFETY: the helper writes at most N bytes to an array of N.
        unsafe { bpf_skb_load_bytes(self.0.cast::<c_void>(), offset, bytes.as_mut_ptr().cast(), len) == 0 }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes to an array of N.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast::<c_void>(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }
}

/// An IPv4 address in the first four of sixteen bytes.
#[inline(always)]
fn mapped(word: u32) -> [u8; 16] {
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
