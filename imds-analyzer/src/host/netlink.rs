//! The few rtnetlink requests for a network namespace of our own: a link up, an address, a route, a veth pair. Written
//! by hand: four messages are less to read and to build than a crate with types for all of rtnetlink.
//!
//! Everything acts on the network namespace that the calling thread is in when it calls [`Netlink::open`].

use std::{
    ffi::CString,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::net::netdevice::name_to_index;

/// `enum` of `linux/veth.h`, missing from libc.
const VETH_INFO_PEER: u16 = 1;
/// `struct nlmsghdr` without its payload.
const HEADER: usize = 16;

pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_ROUTE)?,
        })
    }

    pub(crate) fn link_up(&mut self, link: &str) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link(self.index(link)?, libc::IFF_UP as u32);
        self.request(message)
    }

    /// IPv6 addresses are usable immediately: no other host on these links could have the same address.
    pub(crate) fn add_address(&mut self, link: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let flags = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        message
            .0
            .extend([family(address), prefix, flags, libc::RT_SCOPE_UNIVERSE]);
        message.0.extend(self.index(link)?.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &octets(address));
        message.attribute(libc::IFA_ADDRESS, &octets(address));
        self.request(message)
    }

    /// A route to one address.
    pub(crate) fn add_route(&mut self, to: IpAddr, via: IpAddr, link: &str) -> io::Result<()> {
        let destination = octets(to);
        let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        message.0.extend([family(to), (destination.len() * 8) as u8, 0, 0]);
        message.0.extend([
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        message.0.extend(0u32.to_ne_bytes());
        message.attribute(libc::RTA_DST, &destination);
        message.attribute(libc::RTA_GATEWAY, &octets(via));
        message.attribute(libc::RTA_OIF, &self.index(link)?.to_ne_bytes());
        self.request(message)
    }

    /// A veth pair: one end, `link`, is here, and the other, with the same name, in `peer`.
    pub(crate) fn add_veth(&mut self, link: &str, peer: BorrowedFd<'_>) -> io::Result<()> {
        let name = CString::new(link)?;
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        message.link(0, 0);
        message.attribute(libc::IFLA_IFNAME, name.as_bytes_with_nul());
        message.nest(libc::IFLA_LINKINFO, |message| {
            message.attribute(libc::IFLA_INFO_KIND, b"veth");
            message.nest(libc::IFLA_INFO_DATA, |message| {
                message.nest(VETH_INFO_PEER, |message| {
                    message.link(0, 0);
                    message.attribute(libc::IFLA_IFNAME, name.as_bytes_with_nul());
                    message.attribute(libc::IFLA_NET_NS_FD, &peer.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.request(message)
    }

    fn index(&self, link: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.socket, link)?)
    }

    /// Sends, and waits for the kernel's acknowledgement, which is an error number after its header.
    fn request(&mut self, message: Message) -> io::Result<()> {
        self.socket.send(&message.finish(), 0)?;
        let (answer, _kernel) = self.socket.recv_from_full()?;
        let error = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        match error.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "short netlink answer")),
        }
    }
}

/// A request under construction: header, fixed part, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// `struct ifinfomsg`; `flags` are switched on, the others stay as they are.
    fn link(&mut self, index: u32, flags: u32) {
        self.0.extend([0; 4]);
        self.0.extend(index.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.0.extend(value));
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    family as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
