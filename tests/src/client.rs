//! A client that controls which bytes leave in which packet.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use imds_analyzer::lab::NetNs;

/// IMDS's addresses.
pub const IMDS_V4: &str = "169.254.169.254:80";
pub const IMDS_V6: &str = "[fd00:ec2::254]:80";

/// Connects from inside `namespace`, which the test must have made. The socket stays in that namespace wherever it is
/// used.
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

/// The local port, which identifies the records of this connection.
pub fn port(stream: &TcpStream) -> u16 {
    stream.local_addr().expect("connected").port()
}

/// setsockopt(2), for options that std lacks.
pub fn set_option<T>(socket: &impl AsRawFd, level: i32, option: i32, value: T) {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` lives for the call and has the given size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A complete request head without a token.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: imds\r\n\r\n")
}

/// A complete request head with a token, which need not be valid.
pub fn get_with_token(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: imds\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n")
}

/// The request for a token.
pub const PUT_TOKEN: &str =
    "PUT /latest/api/token HTTP/1.1\r\nHost: imds\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";

/// Asks for a token.
pub fn put_token(stream: &mut TcpStream) -> String {
    stream.write_all(PUT_TOKEN.as_bytes()).expect("write");
    let (status, body) = read_answer(stream);
    assert_eq!(status, 200);
    String::from_utf8(body).expect("ASCII")
}

/// Writes `bytes` in pieces of `size`, each in a packet of its own (TCP_NODELAY is set).
pub fn write_in_pieces(stream: &mut TcpStream, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        stream.write_all(piece).expect("write");
    }
}

/// Writes each of `pieces` in its own packet and ends the stream, while another thread reads the answers to the end.
/// Everything was sent when it returns, unless the server closed the connection early.
pub fn exchange<'a>(stream: TcpStream, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let mut answers = Vec::new();
            // A server that closes with bytes unread resets the connection.
            let _ = (&stream).read_to_end(&mut answers);
            answers
        });
        for piece in pieces {
            (&stream).write_all(piece).expect("write");
        }
        let _ = stream.shutdown(Shutdown::Write);
        answers.join().expect("reader")
    })
}

/// Reads one response with a Content-Length; returns its status.
pub fn read_response(stream: &mut TcpStream) -> u16 {
    read_answer(stream).0
}

/// Reads one response with a Content-Length; returns its status and its body.
pub fn read_answer(stream: &mut TcpStream) -> (u16, Vec<u8>) {
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
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body)
}
