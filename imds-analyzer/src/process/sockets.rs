//! Finds connections to IMDS that are older than the tool, whose owner no connect hook saw.
//!
//! sock_diag(7) lists the sockets of the caller's network namespace, so a thread of its own visits all namespaces. Only
//! /proc shows which processes hold a socket.

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use anyhow::Context as _;
use imds_analyzer_ebpf::target;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::host::{
    namespace::{enter_network, on_own_thread},
    proc::{self, Directory, is_gone},
};

/// A socket that is connected or connecting to IMDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingSocket {
    /// The value of `SO_COOKIE`.
    pub cookie: u64,
    /// Inode number of its network namespace.
    pub net_ns: u32,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Inode number of the socket; 0 if no process holds it any more.
    pub inode: u32,
    /// Processes that hold it, in ascending order.
    pub holders: Vec<u32>,
}

/// Result of [`find_existing`].
#[derive(Clone, Debug, Default)]
pub struct ExistingSockets {
    pub sockets: Vec<ExistingSocket>,
    /// Number of failed look-ups of existing threads, open files and namespaces.
    pub failures: u64,
}

/// Finds the sockets connected to IMDS in the network namespaces of all threads. Reads every thread of the host, and
/// every open file only if there are such sockets.
///
/// # Errors
///
/// When /proc cannot be listed or the thread cannot start. Errors in one namespace or process are counted.
pub fn find_existing() -> anyhow::Result<ExistingSockets> {
    let mut found = ExistingSockets::default();
    let namespaces = namespaces(&mut found.failures)?;
    let (sockets, failures) =
        on_own_thread("sock-diag", || visit(namespaces)).context("cannot run a thread for sock_diag")?;
    found.sockets = sockets;
    found.failures += failures;
    if !found.sockets.is_empty() {
        add_holders(&mut found)?;
    }
    Ok(found)
}

/// Network namespaces by inode number. Each is held open, because the thread through which it was found may end or
/// leave it.
fn namespaces(failures: &mut u64) -> anyhow::Result<HashMap<u32, File>> {
    let mut namespaces = HashMap::new();
    for pid in proc::pids().context("cannot list /proc")? {
        let Some(process) = note(pid.and_then(Directory::open), failures) else {
            continue;
        };
        // Threads of a process may be in different namespaces. Container tools use that.
        for thread in numbers(&process, "task", failures) {
            let namespace = format!("task/{thread}/ns/net");
            let seen = note(process.namespace(&namespace), failures);
            if seen.is_none_or(|inode| namespaces.contains_key(&inode)) {
                continue;
            }
            let opened = process.file(&namespace).and_then(|file| Ok((inode(&file)?, file)));
            namespaces.extend(note(opened, failures));
        }
    }
    Ok(namespaces)
}

/// Lists the sockets of each namespace, and counts failures.
fn visit(namespaces: HashMap<u32, File>) -> (Vec<ExistingSocket>, u64) {
    let mut sockets = Vec::new();
    let mut failures = 0;
    for (inode, namespace) in namespaces {
        let listed = enter_network(namespace.as_fd()).and_then(|()| list(inode));
        sockets.extend(note(listed, &mut failures).unwrap_or_default());
    }
    sockets.sort_unstable_by_key(|socket| (socket.net_ns, socket.cookie));
    (sockets, failures)
}

fn inode(namespace: &File) -> io::Result<u32> {
    u32::try_from(namespace.metadata()?.ino()).map_err(io::Error::other)
}

/// Lists the sockets of this thread's network namespace, `net_ns`.
fn list(net_ns: u32) -> io::Result<Vec<ExistingSocket>> {
    let mut sockets = Vec::new();
    for id in [SocketId::new_v4(), SocketId::new_v6()] {
        for response in dump(id)? {
            let id = response.header.socket_id;
            if is_imds(id.destination_address) && id.destination_port == target::PORT {
                sockets.push(ExistingSocket {
                    cookie: cookie(id.cookie),
                    net_ns,
                    source: SocketAddr::new(id.source_address, id.source_port),
                    destination: SocketAddr::new(id.destination_address, id.destination_port),
                    inode: response.header.inode,
                    holders: Vec::new(),
                });
            }
        }
    }
    Ok(sockets)
}

/// The TCP sockets of `id`'s address family that can still send to its destination port.
fn dump(mut id: SocketId) -> io::Result<Vec<InetResponse>> {
    id.destination_port = target::PORT;
    let family = if id.source_address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED | StateFlags::SYN_SENT | StateFlags::CLOSE_WAIT,
        socket_id: id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let mut responses = Vec::new();
    loop {
        let (datagram, _kernel) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => responses.push(*response),
                NetlinkPayload::Done(_) => return Ok(responses),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to four bytes.
            let length = usize::try_from(message.header.length)
                .unwrap_or(rest.len())
                .next_multiple_of(4)
                .max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn is_imds(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => target::is_imds_v4(address.octets()),
        IpAddr::V6(address) => target::is_imds_v6(address.octets()),
    }
}

/// Joins two words, lower one first.
fn cookie([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    u64::from(u32::from_ne_bytes([e, f, g, h])) << 32 | u64::from(u32::from_ne_bytes([a, b, c, d]))
}

/// Searches all open files for the sockets.
fn add_holders(found: &mut ExistingSockets) -> anyhow::Result<()> {
    let inodes: HashMap<u32, usize> = found
        .sockets
        .iter()
        .enumerate()
        .map(|(index, socket)| (socket.inode, index))
        .collect();
    for pid in proc::pids().context("cannot list /proc")? {
        let open = |pid| Ok((pid, Directory::open(pid)?));
        let Some((pid, process)) = note(pid.and_then(open), &mut found.failures) else {
            continue;
        };
        for file in numbers(&process, "fd", &mut found.failures) {
            let Some(to) = note(process.link(&format!("fd/{file}")), &mut found.failures) else {
                continue;
            };
            let socket = socket_inode(&to).and_then(|inode| found.sockets.get_mut(*inodes.get(&inode)?));
            // Two descriptors may refer to one socket.
            if let Some(socket) = socket.filter(|socket| !socket.holders.contains(&pid)) {
                socket.holders.push(pid);
            }
        }
    }
    for socket in &mut found.sockets {
        socket.holders.sort_unstable();
    }
    Ok(())
}

/// The number in `socket:[1234]`.
fn socket_inode(link: &[u8]) -> Option<u32> {
    let link = str::from_utf8(link).ok()?;
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn numbers(process: &Directory, path: &str, failures: &mut u64) -> Vec<u32> {
    match note(process.numbers(path), failures) {
        Some(numbers) => numbers.filter_map(|number| note(number, failures)).collect(),
        None => Vec::new(),
    }
}

/// Returns the value, or `None`. Counts an error unless it means that the process has exited.
fn note<T>(result: io::Result<T>, failures: &mut u64) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            if !is_gone(&error) {
                *failures += 1;
                tracing::trace!(%error, "looking for existing connections");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests;
