#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{self, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::LinkNameSpaceType;

use super::{Directory, ExistingSocket, cookie, find_existing, io, socket_inode, target};
use crate::host::namespace;

/// Moves this thread into a new network namespace whose `lo` has IMDS's addresses, so that nothing leaves it. Needs
/// root.
fn enter_own_namespace() -> u32 {
    let number = || Directory::own_thread().unwrap().namespace("ns/net").unwrap();
    let before = number();
    namespace::leave(LinkNameSpaceType::Network).expect("run as root");
    let own = number();
    assert_ne!(own, before, "this must not be the host's namespace");
    for args in [
        "link set lo up",
        "address add 169.254.169.254/32 dev lo",
        "address add fd00:ec2::254/128 dev lo nodad",
    ] {
        let status = Command::new("ip").args(args.split(' ')).status().unwrap();
        assert!(status.success(), "ip {args}: {status}");
    }
    own
}

/// Retries, because the kernel makes an IPv6 address usable some time after it was added.
fn once_usable<T>(mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::yield_now();
    }
}

#[test]
fn connections_in_another_network_namespace_are_found_with_their_holder() {
    let imds4 = SocketAddr::from((target::IPV4, target::PORT));
    let imds6 = SocketAddr::from((target::IPV6, target::PORT));
    let mapped = SocketAddr::from((Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0xa9fe, 0xa9fe]), target::PORT));
    let (ready, is_ready) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let there = thread::spawn(move || {
        let net_ns = enter_own_namespace();
        let _listeners = [imds4, imds6].map(|address| once_usable(|| TcpListener::bind(address)));
        let streams = [imds4, imds6, mapped].map(|address| once_usable(|| TcpStream::connect(address)));
        ready
            .send((net_ns, streams.each_ref().map(|stream| stream.local_addr().unwrap())))
            .unwrap();
        // Waits until the other end is dropped.
        is_done.recv().unwrap_err();
    });
    let (net_ns, sources) = is_ready.recv().unwrap();
    let found = find_existing().unwrap();
    drop(done);
    there.join().unwrap();

    let here: Vec<&ExistingSocket> = found.sockets.iter().filter(|socket| socket.net_ns == net_ns).collect();
    for (destination, source) in [imds4, imds6, mapped].into_iter().zip(sources) {
        let matching: Vec<_> = here.iter().filter(|socket| socket.source == source).collect();
        let [socket] = matching.as_slice() else {
            unreachable!("one socket from {source} in {here:?}")
        };
        assert_eq!(socket.destination, destination);
        assert_eq!(socket.holders, [process::id()]);
        assert_ne!((socket.cookie, socket.inode), (0, 0));
    }
    assert_eq!(here.len(), 3, "the accepting ends are no callers: {here:?}");
}

#[test]
fn the_caller_stays_in_its_namespace() {
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    find_existing().unwrap();
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
}

#[test]
fn links_and_cookies() {
    assert_eq!(socket_inode(b"socket:[1234]"), Some(1234));
    assert_eq!(socket_inode(b"/dev/null"), None);
    assert_eq!(socket_inode(b"pipe:[1234]"), None);
    let words = [0x0403_0201_u32.to_ne_bytes(), 0x0807_0605_u32.to_ne_bytes()].concat();
    assert_eq!(cookie(words.try_into().unwrap()), 0x0807_0605_0403_0201);
}
