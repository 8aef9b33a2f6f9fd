//! Network namespaces of the client and the embedded IMDS.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
};

use anyhow::Context as _;

use super::imds::{IPV4, IPV6};
use crate::host::{namespace::NetNs, netlink::Netlink};

/// The name of both ends of the veth pair in [`Lab::routed`].
const LINK: &str = "imds0";
const CLIENT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 123, 0, 1),
    Ipv6Addr::new(0xfd00, 0x123, 0, 0, 0, 0, 0, 1),
);
const SERVER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 123, 0, 2),
    Ipv6Addr::new(0xfd00, 0x123, 0, 0, 0, 0, 0, 2),
);

/// The namespaces of a lab. They disappear when the lab is dropped and its last process and socket have ended.
#[derive(Debug)]
pub struct Lab {
    /// Namespace of the clients.
    pub client: NetNs,
    /// Namespace of the IMDS addresses; the same as `client` in a local lab.
    pub server: NetNs,
    ipv6: bool,
    is_local: bool,
}

impl Lab {
    /// One namespace for both: the IMDS addresses are the client's own, on its `lo`.
    pub fn local() -> anyhow::Result<Self> {
        let namespace = NetNs::new()?;
        let ipv6 = namespace.run(|| {
            let mut netlink = Netlink::open()?;
            add_imds(&mut netlink)
        })??;
        Ok(Self {
            client: namespace.clone(),
            server: namespace,
            ipv6,
            is_local: true,
        })
    }

    /// Two namespaces joined by a veth pair, like on EC2: IMDS is not an address of the client's host.
    pub fn routed() -> anyhow::Result<Self> {
        let (client, server) = (NetNs::new()?, NetNs::new()?);
        client
            .run(|| Netlink::open()?.add_veth(LINK, server.as_fd()))?
            .context("cannot create a veth pair (is the veth module available?)")?;
        let ends = [(&client, CLIENT), (&server, SERVER)];
        // Bring both ends up first: a link has a carrier only then.
        for (namespace, _) in ends {
            namespace
                .run(|| Netlink::open()?.link_up(LINK))?
                .context("cannot bring the veth link up")?;
        }
        for (namespace, (ipv4, ipv6)) in ends {
            namespace.run(|| -> anyhow::Result<()> {
                let mut netlink = Netlink::open()?;
                add_address(&mut netlink, LINK, ipv4.into(), 30)?;
                add_ipv6(&mut netlink, LINK, ipv6, 126)?;
                Ok(())
            })??;
        }
        let ipv6 = server.run(|| {
            let mut netlink = Netlink::open()?;
            add_imds(&mut netlink)
        })??;
        client.run(|| -> anyhow::Result<()> {
            let mut netlink = Netlink::open()?;
            netlink
                .add_route(IPV4.into(), SERVER.0.into(), LINK)
                .context("cannot add the IPv4 route to IMDS")?;
            if ipv6 {
                netlink
                    .add_route(IPV6.into(), SERVER.1.into(), LINK)
                    .context("cannot add the IPv6 route to IMDS")?;
            }
            Ok(())
        })??;
        Ok(Self {
            client,
            server,
            ipv6,
            is_local: false,
        })
    }

    /// True if IMDS has an address of the clients' own host.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// False on kernels without IPv6, where the lab has only the IPv4 address.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6
    }
}

/// Adds both IMDS addresses to `lo`; true if the IPv6 one was added.
fn add_imds(netlink: &mut Netlink) -> anyhow::Result<bool> {
    add_address(netlink, "lo", IPV4.into(), 32)?;
    add_ipv6(netlink, "lo", IPV6, 128)
}

fn add_address(netlink: &mut Netlink, link: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
    netlink
        .add_address(link, address, prefix)
        .with_context(|| format!("cannot add {address} to {link}"))
}

/// False, without an error, if the kernel has no IPv6 (EOPNOTSUPP, EAFNOSUPPORT) or it is disabled (EACCES).
fn add_ipv6(netlink: &mut Netlink, link: &str, address: Ipv6Addr, prefix: u8) -> anyhow::Result<bool> {
    let without = [libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::EACCES];
    match add_address(netlink, link, address.into(), prefix) {
        Ok(()) => Ok(true),
        Err(error) => {
            let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if number.is_some_and(|number| without.contains(&number)) {
                Ok(false)
            } else {
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        os::linux::fs::MetadataExt as _,
        path::PathBuf,
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::host::proc::{self, Directory};

    fn links() -> anyhow::Result<BTreeSet<String>> {
        fs::read_dir("/sys/class/net")?
            .map(|link| Ok(link?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// True if a process is in the namespace or has it open.
    fn is_held(inode: u64) -> anyhow::Result<bool> {
        for process in proc::pids()?.flatten().flat_map(Directory::open) {
            let is = |path: &str| process.metadata(path).is_ok_and(|it| it.stx_ino == inode);
            let mut open = process.numbers("fd").into_iter().flatten().flatten();
            if is("ns/net") || open.any(|file| is(&format!("fd/{file}"))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[test]
    fn nothing_is_left_behind() -> anyhow::Result<()> {
        let (links_before, names_before) = (links()?, names()?);
        let lab = Lab::routed()?;
        let inodes = [&lab.client, &lab.server].map(|it| fs::metadata(it.path()).map(|it| it.st_ino()));
        assert_eq!(links()?, links_before);
        drop(lab);
        for inode in inodes {
            let (inode, deadline) = (inode?, Instant::now() + Duration::from_secs(20));
            // Another test's namespace may get the inode number immediately: wait until it is free.
            while is_held(inode)? {
                assert!(Instant::now() < deadline, "network namespace {inode} is still held");
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!((links()?, names()?), (links_before, names_before));
        Ok(())
    }

    /// The paths of the names that `ip netns list` would print.
    fn names() -> anyhow::Result<BTreeSet<PathBuf>> {
        match fs::read_dir("/run/netns") {
            Ok(names) => names.map(|name| Ok(name?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }
}
