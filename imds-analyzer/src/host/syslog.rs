//! The system log: syslog's socket, which the journal listens on as well.

use std::{io, os::unix::net::UnixDatagram, path::Path, process, time::Duration};

use crate::sanitize;

/// Where every system logger listens (syslog(3)).
const SOCKET: &str = "/dev/log";
/// Facility `authpriv`, level `notice` (RFC 3164): for the eyes of administrators.
const PRIORITY: u8 = 10 << 3 | 5;
/// Maximum time for the logger to accept a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes one line to the system log.
pub(crate) fn write(text: &str) -> io::Result<()> {
    send(Path::new(SOCKET), text)
}

fn send(path: &Path, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(message(text).as_bytes(), path)?;
    Ok(())
}

/// The datagram: loggers add the time.
fn message(text: &str) -> String {
    let name = env!("CARGO_PKG_NAME");
    format!("<{PRIORITY}>{name}[{}]: {}", process::id(), sanitize::escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_as_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let logger = UnixDatagram::bind(&path).expect("bound");
        send(&path, "rehearsal begins: change\n4711").expect("sent");
        let mut bytes = [0; 256];
        let len = logger.recv(&mut bytes).expect("received");
        let text = std::str::from_utf8(&bytes[..len]).expect("text");
        let expected = format!("<85>imds-analyzer[{}]: rehearsal begins: change\\n4711", process::id());
        assert_eq!(text, expected);
    }
}
