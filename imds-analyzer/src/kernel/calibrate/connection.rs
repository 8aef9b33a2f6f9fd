//! A connection of this process to itself.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Context as _;
use rustix::net::{SendFlags, send};

use crate::host::{namespace::NetNs, proc::Directory};

/// How long a connect or a read may take. Without a limit, a SYN that a program at a cgroup drops takes two minutes to fail.
const DEADLINE: Duration = Duration::from_secs(2);

/// Where connections are made: in a network namespace of its own, in which nobody's firewall is and the loopback device
/// is up; in the host's where there are none.
pub(super) struct Place {
    namespace: Option<NetNs>,
    listener: TcpListener,
}

impl Place {
    pub(super) fn new() -> anyhow::Result<Self> {
        let namespace = NetNs::new()
            .inspect_err(|error| tracing::debug!("cannot create a network namespace for calibration: {error:#}"))
            .ok();
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = match &namespace {
            Some(namespace) => namespace.run(listen)??,
            None => listen()?,
        };
        Ok(Self { namespace, listener })
    }

    /// Inode number of the network namespace.
    pub(super) fn inode(&self) -> io::Result<u64> {
        match &self.namespace {
            Some(namespace) => Ok(rustix::fs::fstat(namespace)?.st_ino),
            None => Ok(Directory::own_thread()?.namespace("ns/net")?.into()),
        }
    }

    /// Where connections go to.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    pub(super) fn connect(&self) -> anyhow::Result<Connection> {
        let address = self.listener.local_addr()?;
        let connect = || TcpStream::connect_timeout(&address, DEADLINE);
        let client = match &self.namespace {
            Some(namespace) => namespace.run(connect)?,
            None => connect(),
        };
        let client = client.context("cannot connect to itself (a program at a cgroup may drop its packets)")?;
        let (server, _) = self.listener.accept()?;
        server.set_read_timeout(Some(DEADLINE))?;
        Ok(Connection {
            // It has one from now on.
            cookie: rustix::net::sockopt::socket_cookie(&client)?,
            source_port: client.local_addr()?.port(),
            destination_port: address.port(),
            client,
            server,
        })
    }
}

/// Both of its ends.
pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Of the client's end.
    pub(super) cookie: u64,
    /// Ports of the client's end and of the other, in host order.
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// A send whose segments are known: address and length of each.
pub(super) struct Sent {
    pub(super) segments: Vec<(u64, u64)>,
}

impl Sent {
    fn one(part: &[u8]) -> Self {
        Self {
            segments: vec![(part.as_ptr() as u64, part.len() as u64)],
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.segments.iter().map(|(_, len)| len).sum()
    }
}

/// What is sent in several parts.
pub(super) const PARTS: [&[u8]; 4] = [b"", b"imds-", b"", b"analyzer"];
/// Flags that change nothing here, and are found again.
pub(super) const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

impl Connection {
    /// Sends [`PARTS`] at once.
    pub(super) fn send_parts(&self) -> io::Result<Sent> {
        let parts = PARTS.map(IoSlice::new);
        let len = (&self.client).write_vectored(&parts)?;
        let sent = Sent {
            segments: PARTS.map(|part| (part.as_ptr() as u64, part.len() as u64)).to_vec(),
        };
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Sends one part, with [`FLAGS`].
    pub(super) fn send_one(&self) -> io::Result<Sent> {
        let [.., part] = PARTS;
        let len = send(&self.client, part, FLAGS)?;
        let sent = Sent::one(part);
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Writes one part, which kernels may pass on in another way than a send.
    pub(super) fn write_one(&self) -> io::Result<Sent> {
        let [.., part] = PARTS;
        // The standard library sends.
        let len = rustix::io::write(&self.client, part)?;
        let sent = Sent::one(part);
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Writes what does not leave by itself (MSG_MORE); how many bytes it is.
    pub(super) fn leave_waiting(&self) -> io::Result<usize> {
        Ok(send(&self.client, &PARTS.concat(), SendFlags::MORE)?)
    }

    /// Sends one part, and with it what waits.
    pub(super) fn send_waiting(&self, waiting: usize) -> io::Result<()> {
        let [.., part] = PARTS;
        let len = send(&self.client, part, SendFlags::empty())?;
        (&self.server).read_exact(&mut vec![0; waiting + len])
    }

    fn receive(&self, len: usize, sent: &Sent) -> io::Result<()> {
        if len as u64 != sent.len() {
            return Err(io::Error::other("a few bytes were not sent in one call"));
        }
        (&self.server).read_exact(&mut vec![0; len])
    }
}
