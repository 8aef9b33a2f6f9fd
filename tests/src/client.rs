//! A client that decides itself what leaves in which packet.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use imds_analyzer::lab::NetNs;

/// IMDS's addresses.
pub const IMDS_V4: &str = "169.254.169.254:80";
pub const IMDS_V6: &str = "[fd00:ec2::254]:80";

/// Connects from inside `namespace`, which must be one the test made. The socket stays in it wherever it is used.
pub fn connect(namespace: &NetNs, address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an address");
    let stream = namespace
        .run(move || TcpStream::connect(address))
        .expect("namespace")
        .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("time-out");
    stream
}

/// Writes `bytes` in pieces of `size`, each in a packet of its own (TCP_NODELAY is set).
pub fn write_in_pieces(stream: &mut TcpStream, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        stream.write_all(piece).expect("write");
    }
}

/// Reads one response with a Content-Length; returns its status.
pub fn read_response(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("response head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("response body");
    head.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status")
}
