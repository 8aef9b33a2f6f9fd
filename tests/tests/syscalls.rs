//! Every way in which a process can send: the analyzer sees all of them.
//!
//! guests: every-kernel send-tap packets
//! not-legacy: multipath_tcp
//! not-send-tap: sendfile splice

use std::{
    io::{self, Seek as _, Write},
    mem,
    net::TcpStream,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process, ptr,
};

use imds_analyzer::lab::{IPV4, Lab, NetNs};
use imds_analyzer_tests::{
    Stage, briefs, get, get_with_token, owner, port, put_token, read_response, run, set_option, sysctl,
};
use io_uring::{IoUring, opcode, squeue, types};

const PATH: &str = "/latest/user-data";
const BRIEF: &str = "v2 GET /latest/user-data user-data";

/// A system call's result.
fn checked(result: impl TryInto<i64>) -> i64 {
    let result = result.try_into().unwrap_or(-1);
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// Lets `send` send one request with a valid token, and checks the record and its owner.
fn sent_by(send: impl FnOnce(&mut TcpStream, &[u8])) {
    let stage = Stage::local().by_process().shared();
    let mut stream = stage.connect();
    let token = put_token(&mut stream);
    // With MSG_ZEROCOPY the kernel reads the bytes after the send: they stay until there is an answer.
    let request = get_with_token(PATH, &token);
    send(&mut stream, request.as_bytes());
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port(&stream), 2);
    assert_eq!(briefs(&records)[1..], [BRIEF]);
    assert_eq!(records[1]["process"]["pid"], process::id());
    assert_eq!(records[1]["imds"]["owner"], owner());
}

#[test]
fn writev_with_a_line_a_segment() {
    sent_by(|stream, bytes| {
        let lines: Vec<_> = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(io::IoSlice::new)
            .collect();
        assert!(lines.len() > 3);
        assert_eq!(stream.write_vectored(&lines).expect("writev"), bytes.len());
    });
}

#[test]
fn sendmmsg_with_a_line_a_message() {
    sent_by(|stream, bytes| {
        let mut parts: Vec<_> = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| libc::iovec {
                iov_base: line.as_ptr().cast_mut().cast(),
                iov_len: line.len(),
            })
            .collect();
        let mut messages: Vec<_> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: plain data, for which zeroes are no address, no control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let count = messages.len() as u32;
        // SAFETY: the messages and what they point to live for the call.
        let sent = checked(unsafe { libc::sendmmsg(stream.as_raw_fd(), messages.as_mut_ptr(), count, 0) });
        assert_eq!(sent, i64::from(count));
    });
}

#[test]
fn sendfile() {
    sent_by(|stream, bytes| {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("write");
        file.rewind().expect("seek");
        // SAFETY: both descriptors are open; there is no offset to write to.
        let sent =
            checked(unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), ptr::null_mut(), bytes.len()) });
        assert_eq!(sent, bytes.len() as i64);
    });
}

#[test]
fn splice() {
    sent_by(|stream, bytes| {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(bytes).expect("write");
        let null = ptr::null_mut();
        // SAFETY: both descriptors are open; there are no offsets to write to.
        let sent = checked(unsafe { libc::splice(reader.as_raw_fd(), null, stream.as_raw_fd(), null, bytes.len(), 0) });
        assert_eq!(sent, bytes.len() as i64);
    });
}

fn send(stream: &TcpStream, bytes: &[u8], flags: i32) {
    // SAFETY: the bytes live for the call.
    let sent = checked(unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) });
    assert_eq!(sent, bytes.len() as i64);
}

#[test]
fn zero_copy() {
    sent_by(|stream, bytes| {
        set_option(stream, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
        send(stream, bytes, libc::MSG_ZEROCOPY);
    });
}

/// With `IOSQE_ASYNC` a worker sends: a thread of the process or, before 5.12, a thread of the kernel.
#[test]
fn io_uring() {
    for flags in [squeue::Flags::empty(), squeue::Flags::ASYNC] {
        sent_by(|stream, bytes| {
            let mut ring = IoUring::new(1).expect("io_uring");
            let send = opcode::Send::new(types::Fd(stream.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32);
            // SAFETY: the bytes and the socket outlive the wait for the end.
            unsafe { ring.submission().push(&send.build().flags(flags)) }.expect("room for one");
            ring.submit_and_wait(1).expect("submitted");
            let completed = ring.completion().next().expect("completed");
            assert_eq!(completed.result(), bytes.len() as i32);
        });
    }
}

/// Bytes that are written before the first packet has been acknowledged wait (Nagle), and leave from softirq.
#[test]
fn delayed_by_nagle() {
    let stage = Stage::local().by_process().shared();
    let nft = |rules: &str| run(&stage.lab.client, "nft", &[rules]);
    // A tail loss probe would send what waits.
    sysctl(&stage.lab.client, "tcp_early_retrans", "0");
    let mut stream = stage.connect();
    nft(
        "add table ip t; add chain ip t i { type filter hook input priority 0; }; \
         add rule ip t i tcp sport 80 counter drop",
    );
    for byte in get_with_token(PATH, "").as_bytes() {
        stream.write_all(&[*byte]).expect("write");
    }
    assert!(not_sent(&stream) > 0, "nothing was delayed");
    nft("delete table ip t");
    assert_eq!(read_response(&mut stream), 401);
    let records = stage.expect(port(&stream), 1);
    assert_eq!(records[0]["process"]["pid"], process::id());
    assert_eq!(records[0]["imds"]["owner"], owner());
    assert_eq!(briefs(&records), ["v2-empty-token GET /latest/user-data user-data"]);
}

/// Bytes written that have not left yet, see tcp(7).
fn not_sent(stream: &TcpStream) -> i32 {
    /// include/uapi/linux/sockios.h
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let mut bytes = 0;
    // SAFETY: an int, as this request writes it.
    checked(unsafe { libc::ioctl(stream.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) });
    bytes
}

#[test]
fn more_to_come() {
    sent_by(|stream, bytes| {
        let (last, first) = bytes.split_last().expect("bytes");
        for byte in first {
            send(stream, &[*byte], libc::MSG_MORE);
        }
        send(stream, &[*last], 0);
    });
}

#[test]
fn corked() {
    sent_by(|stream, bytes| {
        set_option(stream, libc::IPPROTO_TCP, libc::TCP_CORK, 1);
        imds_analyzer_tests::write_in_pieces(stream, bytes, 10);
        set_option(stream, libc::IPPROTO_TCP, libc::TCP_CORK, 0);
    });
}

fn address() -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 80_u16.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(IPV4.octets()),
        },
        sin_zero: [0; 8],
    }
}

/// A TCP socket of `protocol` inside the namespace.
fn socket(namespace: &NetNs, protocol: i32) -> OwnedFd {
    // SAFETY: no pointers; the result is checked.
    let made = || checked(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) });
    let descriptor = namespace.run(made).expect("namespace");
    // SAFETY: just made, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}

#[test]
fn multipath_tcp() {
    let stage = Stage::local().by_process().shared();
    let socket = socket(&stage.lab.client, libc::IPPROTO_MPTCP);
    let (address, size) = (address(), size_of::<libc::sockaddr_in>() as libc::socklen_t);
    // SAFETY: an address of its size, which lives for the call.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) });
    let mut stream = TcpStream::from(socket);
    for path in [PATH, "/"] {
        stream.write_all(get(path).as_bytes()).expect("write");
        assert_eq!(read_response(&mut stream), 200);
    }
    let records = stage.expect(port(&stream), 2);
    assert_eq!(
        briefs(&records),
        ["v1 GET /latest/user-data user-data", "v1 GET / root"]
    );
    for record in &records {
        assert_eq!(record["process"]["pid"], process::id(), "{record:#}");
    }
    let seen = &records[0]["imds"]["owner"];
    assert!(seen == "connect" || *seen == owner() || seen == "egress", "{seen}");
}

/// The request is in the SYN: there was no connect(2).
#[test]
fn fast_open() {
    // The bits for client, server, no cookies, and every listener.
    const ALL: &str = "1543";
    let lab = Lab::local().expect("lab");
    sysctl(&lab.client, "tcp_fastopen", ALL);
    let stage = Stage::in_lab(lab).by_process().shared();
    let socket = socket(&stage.lab.client, 0);
    let (address, size) = (address(), size_of::<libc::sockaddr_in>() as libc::socklen_t);
    let bytes = get(PATH);
    // SAFETY: the bytes and an address of its size live for the call.
    let sent = checked(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_FASTOPEN,
            (&raw const address).cast(),
            size,
        )
    });
    assert_eq!(sent, bytes.len() as i64);
    let mut stream = TcpStream::from(socket);
    assert_eq!(read_response(&mut stream), 200);
    assert!(had_data_in_syn(&stream), "the SYN was without data");
    stream.write_all(get("/").as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let records = stage.expect(port(&stream), 2);
    assert_eq!(
        briefs(&records),
        ["v1 GET /latest/user-data user-data", "v1 GET / root"]
    );
    assert_eq!(records[0]["process"]["pid"], process::id());
}

fn had_data_in_syn(stream: &TcpStream) -> bool {
    const TCPI_OPT_SYN_DATA: u8 = 32;
    // SAFETY: plain data.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes `size` bytes at most.
    checked(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut size,
        )
    });
    info.tcpi_options & TCPI_OPT_SYN_DATA != 0
}
