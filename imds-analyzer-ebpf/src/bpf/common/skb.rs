//! The packet and its socket as a `cgroup_skb` program sees them.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_socket_cookie};
use imds_analyzer_ebpf::target;

use super::read::context_field;

/// A program's context. Copying it copies the pointer.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Skb {
    /// True if the socket's peer is IMDS. Every packet of the machine passes this check first; the port decides for
    /// nearly all of them.
    #[inline(always)]
    pub(crate) fn is_imds(self) -> bool {
        // `remote_port` is a big-endian u32 (bpf_convert_ctx_access, net/core/filter.c).
        if context_field!(self.0, remote_port) != (target::PORT as u32).to_be() {
            return false;
        }
        // An AF_INET6 socket with an IPv4-mapped peer has the IPv4 address here as well.
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
    pub(crate) fn remote_ip6(self) -> [u32; 4] {
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
    pub(crate) fn len(self) -> u32 {
        context_field!(self.0, len)
    }

    /// Index of the device the packet leaves through.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        context_field!(self.0, ifindex)
    }

    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }
}

/// IMDS's IPv6 address as four words in the context's format.
#[inline(always)]
pub(crate) const fn ipv6_words() -> [u32; 4] {
    let a = target::IPV6;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}
