//! One connection: requests in, answers out, in order.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    State,
    answer::{answer, refuse},
    body::{Framing, Rejected, chunked_length},
    request::{HeadScan, Request, Version},
};

const READ: usize = 8 * 1024;
/// Maximum time to wait for the client to close after `Connection: close`.
const LINGER: Duration = Duration::from_secs(2);

pub(super) async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection {
        stream,
        buffer: Vec::new(),
    };
    loop {
        match connection.request().await {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => {
                let answer = answer(&request, state)?;
                let keep_alive = request.keep_alive && !answer.close;
                let text = answer.render(request.version, request.method == "HEAD", keep_alive);
                connection.stream.write_all(text.as_bytes()).await?;
                if !keep_alive {
                    return connection.close().await;
                }
            }
            Err(Stop::Rejected(rejected)) => {
                let text = refuse(rejected, state).render(Version::Http11, false, false);
                connection.stream.write_all(text.as_bytes()).await?;
                return connection.close().await;
            }
            Err(Stop::Io(error)) => return Err(error),
        }
    }
}

enum Stop {
    Rejected(Rejected),
    Io(io::Error),
}

impl From<Rejected> for Stop {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Connection {
    stream: TcpStream,
    /// Bytes read but not used yet, such as pipelined requests.
    buffer: Vec<u8>,
}

impl Connection {
    /// Reads the next request and discards its body. `None` when the client has closed.
    async fn request(&mut self) -> Result<Option<Request>, Stop> {
        let mut scan = HeadScan::default();
        let request = loop {
            // Empty lines before a request are allowed.
            if scan.is_at_start() {
                let blank = self
                    .buffer
                    .iter()
                    .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                    .count();
                self.buffer.drain(..blank);
            }
            if let Some((request, length)) = scan.next(&self.buffer)? {
                self.buffer.drain(..length);
                break request;
            }
            if !self.read().await? {
                return Ok(None);
            }
        };
        if request.framing != Framing::Length(0) {
            if request.expects_continue && self.buffer.is_empty() {
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            if !self.skip_body(request.framing).await? {
                return Ok(None);
            }
        }
        Ok(Some(request))
    }

    /// False if the client closed before the end.
    async fn skip_body(&mut self, framing: Framing) -> Result<bool, Stop> {
        loop {
            let length = match framing {
                Framing::Length(length) => Some(length).filter(|length| *length <= self.buffer.len()),
                Framing::Chunked => chunked_length(&self.buffer)?,
            };
            if let Some(length) = length {
                self.buffer.drain(..length);
                return Ok(true);
            }
            if !self.read().await? {
                return Ok(false);
            }
        }
    }

    /// False at the end of the stream.
    async fn read(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// Reads until the client has closed. Closing with unread bytes would reset the connection, and the client might
    /// lose the answer.
    async fn close(mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut sink = tokio::io::sink();
        let drain = tokio::io::copy(&mut self.stream, &mut sink);
        // A time-out counts as closed.
        timeout(LINGER, drain).await.map_or(Ok(()), |drained| drained.map(drop))
    }
}
