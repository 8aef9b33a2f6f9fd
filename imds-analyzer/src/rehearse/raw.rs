//! Raw sockets that send whole packets, one pair for each network namespace that callers are in.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        linux::fs::MetadataExt as _,
    },
};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

use crate::host::{
    mounts,
    namespace::{enter_network, on_own_thread},
    proc::{self, Directory},
};

/// Maximum number of namespaces to answer in.
const NAMESPACES_MAX: usize = 4096;

/// The sockets of one namespace.
#[derive(Debug)]
struct Sockets {
    ipv4: OwnedFd,
    /// `None` where the kernel has no IPv6.
    ipv6: Option<OwnedFd>,
}

impl Sockets {
    /// In the namespace of the calling thread.
    fn open() -> io::Result<Self> {
        // IPPROTO_RAW: the packets have their IP header, for both families (raw(7); inet6_create, net/ipv6/af_inet6.c).
        let open = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))
        };
        Ok(Self {
            ipv4: open(AddressFamily::INET)?,
            ipv6: open(AddressFamily::INET6).ok(),
        })
    }
}

/// The namespaces that this process can answer in, by inode number.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    sockets: BTreeMap<u32, Sockets>,
}

impl Namespaces {
    /// Opens sockets in a namespace.
    pub(super) fn add(&mut self, namespace: BorrowedFd<'_>, inode: u32) -> io::Result<()> {
        if self.sockets.len() >= NAMESPACES_MAX {
            // The namespace of the largest number is as likely to be needed no more as any other.
            self.sockets.pop_last();
        }
        let sockets = on_own_thread("answer", || {
            enter_network(namespace)?;
            Sockets::open()
        })?;
        self.sockets.insert(inode, sockets?);
        Ok(())
    }

    /// Finds a namespace, and opens sockets in it unless they are open: `pid` is a process that is probably in it.
    ///
    /// # Errors
    ///
    /// If no process is in the namespace and it is not mounted, or if this process may not enter it.
    pub(super) fn find(&mut self, inode: u32, pid: u32) -> io::Result<()> {
        if self.sockets.contains_key(&inode) {
            return Ok(());
        }
        let namespace = of_process(pid, inode).or_else(|_gone| search(inode))?;
        self.add(namespace.as_fd(), inode)
    }

    /// Sends a packet, which begins with its IP header, in a namespace.
    pub(super) fn send(&self, inode: u32, to: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let sockets = self.sockets.get(&inode).ok_or(io::ErrorKind::NotFound)?;
        // The port of a raw socket's address is a protocol, and must be 0 here (rawv6_sendmsg, net/ipv6/raw.c).
        let to = SocketAddr::new(to.ip().to_canonical(), 0);
        let socket = match to.ip() {
            IpAddr::V4(_) => &sockets.ipv4,
            IpAddr::V6(_) => sockets.ipv6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        sendto(socket, packet, SendFlags::empty(), &to)?;
        Ok(())
    }
}

/// The namespace of a process, if it has this inode number.
fn of_process(pid: u32, inode: u32) -> io::Result<File> {
    let process = Directory::open(pid)?;
    // The link can be read where the namespace cannot be opened.
    if process.namespace("ns/net")? != inode {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = process.file("ns/net")?;
    if inode_of(&file)? == inode {
        Ok(file)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Searches all processes, and the namespaces that container runtimes and `ip netns` have mounted.
fn search(inode: u32) -> io::Result<File> {
    let mounts = mounts::read()?.into_iter();
    let mounted = mounts
        .filter(|mount| mount.system == "nsfs" && inode_in(&mount.root) == Some(inode))
        .find_map(|mount| File::open(mount.point).ok());
    if let Some(file) = mounted {
        return Ok(file);
    }
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for pid in proc::pids()?.flatten() {
        match of_process(pid, inode) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound || proc::is_gone(&error) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The inode number in `net:[4026532281]`, the root of a namespace's mount.
fn inode_in(root: &str) -> Option<u32> {
    root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn inode_of(namespace: &File) -> io::Result<u32> {
    // Inode numbers of namespaces have 32 bits (struct ns_common).
    Ok(namespace.metadata()?.st_ino() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::{namespace::NetNs, netlink::Netlink},
        rehearse::answer::Connection,
    };

    #[test]
    fn mounted_namespaces_are_told_by_their_roots() {
        assert_eq!(inode_in("net:[4026532281]"), Some(4_026_532_281));
        for other in ["mnt:[4026532281]", "net:[x]", "/", ""] {
            assert_eq!(inode_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_namespace_is_found_by_a_process_in_it_or_by_a_search() -> anyhow::Result<()> {
        let own = Directory::own()?.namespace("ns/net")?;
        let mut namespaces = Namespaces::default();
        namespaces.find(own, std::process::id())?;
        // A process that is not in it, and one that is gone.
        let namespace = NetNs::new()?;
        let mut child = namespace.command("sleep").arg("60").spawn()?;
        let inside = namespace.run(|| Directory::own_thread()?.namespace("ns/net"))??;
        for pid in [std::process::id(), u32::MAX] {
            Namespaces::default().find(inside, pid)?;
        }
        child.kill()?;
        child.wait()?;
        assert!(Namespaces::default().find(7, std::process::id()).is_err());
        Ok(())
    }

    #[test]
    fn packets_leave_in_their_namespace() -> anyhow::Result<()> {
        let namespace = NetNs::new()?;
        let address: IpAddr = "169.254.169.254".parse()?;
        namespace.run(|| Netlink::open()?.add_address("lo", address, 32))??;
        let listener = namespace.run(|| std::net::TcpListener::bind((address, 80)))??;
        let server = listener.local_addr()?;
        let client = namespace.run(|| std::net::TcpStream::connect(server))??;
        let mut namespaces = Namespaces::default();
        let inode = 7;
        namespaces.add(namespace.as_fd(), inode)?;
        let connection = Connection {
            caller: client.local_addr()?,
            server,
            answer_seq: 0,
            unsent: 0,
        };
        // Far from any sequence number in use, so nothing happens but that it is sent.
        namespaces.send(inode, connection.caller, &connection.answer())?;
        assert!(
            namespaces
                .send(inode + 1, connection.caller, &connection.answer())
                .is_err()
        );
        Ok(())
    }
}
