//! A connection of this process to itself.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    slice,
    time::Duration,
};

use anyhow::Context as _;
use rustix::net::{SendFlags, send};

use crate::host::{namespace::NetNs, proc::Directory};

/// How long a connect or a read may take. Without a limit, a connect takes two minutes to fail if a program at a cgroup
/// drops its SYN.
const DEADLINE: Duration = Duration::from_secs(2);

/// The place of the connections: a network namespace of its own, which has no firewall and an active loopback device,
/// or the host's namespace if none can be created.
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

    /// The port that connections go to.
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
        client.set_read_timeout(Some(DEADLINE))?;
        Ok(Connection {
            parts: PARTS.map(<[u8]>::to_vec),
            // Reading the cookie creates it, so the kernel side sees it from now on.
            cookie: rustix::net::sockopt::socket_cookie(&client)?,
            source_port: client.local_addr()?.port(),
            destination_port: address.port(),
            client,
            server,
        })
    }
}

/// A connection, with both of its ends.
pub(super) struct Connection {
    /// [`PARTS`], written by this process: the kernel side cannot wait for a page of the program that is not in memory.
    parts: [Vec<u8>; PARTS.len()],
    client: TcpStream,
    server: TcpStream,
    /// Socket cookie of the client's end.
    pub(super) cookie: u64,
    /// Ports of the client's end and of the server's, in host order.
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// A send whose segments are known: address and length of each.
pub(super) struct Sent {
    pub(super) segments: Vec<(u64, u64)>,
}

impl Sent {
    fn of(parts: &[Vec<u8>]) -> Self {
        let segment = |part: &Vec<u8>| (part.as_ptr() as u64, part.len() as u64);
        Self {
            segments: parts.iter().map(segment).collect(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.segments.iter().map(|(_, len)| len).sum()
    }
}

/// The parts of one send, some of them empty.
pub(super) const PARTS: [&[u8]; 4] = [b"", b"imds-", b"", b"analyzer"];
/// The status of [`Connection::answer`].
pub(super) const ANSWER_STATUS: i32 = 299;
/// Flags that have no effect here, and that the dump must show.
pub(super) const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

impl Connection {
    /// Sends [`PARTS`] at once.
    pub(super) fn send_parts(&self) -> io::Result<Sent> {
        let parts = self.parts.each_ref().map(|part| IoSlice::new(part));
        let len = (&self.client).write_vectored(&parts)?;
        let sent = Sent::of(&self.parts);
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Sends one part, with [`FLAGS`].
    pub(super) fn send_one(&self) -> io::Result<Sent> {
        let [.., part] = &self.parts;
        let len = send(&self.client, part, FLAGS)?;
        let sent = Sent::of(slice::from_ref(part));
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Writes one part: kernels may handle write(2) differently from send(2).
    pub(super) fn write_one(&self) -> io::Result<Sent> {
        let [.., part] = &self.parts;
        // The standard library would call send(2).
        let len = rustix::io::write(&self.client, part)?;
        let sent = Sent::of(slice::from_ref(part));
        self.receive(len, &sent)?;
        Ok(sent)
    }

    /// Writes bytes that the kernel holds back (MSG_MORE), and returns how many.
    pub(super) fn leave_waiting(&self) -> io::Result<usize> {
        Ok(send(&self.client, &self.parts.concat(), SendFlags::MORE)?)
    }

    /// Sends one part, and with it the `waiting` bytes.
    pub(super) fn send_waiting(&self, waiting: usize) -> io::Result<()> {
        let [.., part] = &self.parts;
        let len = send(&self.client, part, SendFlags::empty())?;
        (&self.server).read_exact(&mut vec![0; waiting + len])
    }

    /// Sends an answer back and reads it, in two parts: only the first one has a status.
    pub(super) fn answer(&self) -> io::Result<()> {
        let answer = format!("HTTP/1.1 {ANSWER_STATUS} self-test\r\n\r\n");
        (&self.server).write_all(answer.as_bytes())?;
        let mut received = vec![0; answer.len()];
        let (head, rest) = received.split_at_mut(answer.len() - 2);
        (&self.client).read_exact(head)?;
        (&self.client).read_exact(rest)
    }

    fn receive(&self, len: usize, sent: &Sent) -> io::Result<()> {
        if len as u64 != sent.len() {
            return Err(io::Error::other("a few bytes were not sent in one call"));
        }
        (&self.server).read_exact(&mut vec![0; len])
    }
}
