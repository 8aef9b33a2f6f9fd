#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{self, Command},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{ExistingSocket, cookie, find_existing, fs, io, socket_inode, target, thread};
use crate::process::namespace_inode;

/// A network namespace of this thread's own in which lo has IMDS's addresses, so that nothing leaves it. Needs root.
fn enter_own_namespace() -> u32 {
    let before = namespace_inode("/proc/thread-self/ns/net").unwrap();
    // SAFETY: unshare takes no pointers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "unshare(CLONE_NEWNET), run as root: {}",
        io::Error::last_os_error()
    );
    let own = namespace_inode("/proc/thread-self/ns/net").unwrap();
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

/// The kernel makes an IPv6 address usable a little after it was added.
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
        // Until the other end is dropped.
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
    let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
    find_existing().unwrap();
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
}

#[test]
fn links_and_cookies() {
    assert_eq!(socket_inode("socket:[1234]".as_ref()), Some(1234));
    assert_eq!(socket_inode("/dev/null".as_ref()), None);
    assert_eq!(socket_inode("pipe:[1234]".as_ref()), None);
    let words = [0x0403_0201_u32.to_ne_bytes(), 0x0807_0605_u32.to_ne_bytes()].concat();
    assert_eq!(cookie(words.try_into().unwrap()), 0x0807_0605_0403_0201);
}
