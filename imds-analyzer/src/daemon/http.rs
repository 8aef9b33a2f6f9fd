//! `GET /metrics` for Prometheus, and nothing else. Whoever connects has a few seconds and a few kilobytes, and there are
//! only so many of them at a time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time,
};

use crate::sink::metrics::CONTENT_TYPE;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// For a request to come, and for the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;
/// After the system had no descriptor for a connection.
const PAUSE: Duration = Duration::from_secs(1);

/// Someone waits for the text of the metrics.
pub(super) type Scrape = oneshot::Sender<Vec<u8>>;

/// Serves until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address`, and asks `scrapes` for the text. Must be called inside a tokio runtime.
    pub(super) fn start(address: SocketAddr, scrapes: mpsc::Sender<Scrape>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            task: tokio::spawn(accept(listener, scrapes)),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, scrapes: mpsc::Sender<Scrape>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let scrapes = scrapes.clone();
                tokio::spawn(async move {
                    // A client that goes away or takes too long is its own loss.
                    if let Err(error) = serve(stream, scrapes).await {
                        tracing::debug!("a scrape failed: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!("a connection for metrics was not taken: {error}");
                time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(mut stream: TcpStream, scrapes: mpsc::Sender<Scrape>) -> io::Result<()> {
    let request = time::timeout(PATIENCE, read(&mut stream)).await??;
    let (status, body) = match request {
        Request::Metrics { .. } => {
            let (reply, text) = oneshot::channel();
            if scrapes.send(reply).await.is_err() {
                return Ok(());
            }
            match text.await {
                Ok(text) => ("200 OK", text),
                Err(_) => ("500 Internal Server Error", Vec::new()),
            }
        }
        Request::OtherPath => ("404 Not Found", b"Metrics are at /metrics.\n".to_vec()),
        Request::OtherMethod => ("405 Method Not Allowed", Vec::new()),
        Request::Bad => ("400 Bad Request", Vec::new()),
    };
    let kind = if status.starts_with('2') {
        CONTENT_TYPE
    } else {
        "text/plain"
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if !matches!(request, Request::Metrics { head: true }) {
        answer.extend_from_slice(&body);
    }
    time::timeout(PATIENCE, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    })
    .await?
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Metrics {
        /// HEAD: without the body.
        head: bool,
    },
    OtherPath,
    OtherMethod,
    Bad,
}

async fn read(stream: &mut TcpStream) -> io::Result<Request> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(request) = parse(&bytes) {
            return Ok(request);
        }
        if bytes.len() >= HEAD_MAX || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(Request::Bad);
        }
    }
}

/// `None` while the head has not ended.
fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Request::Bad),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(match (request.method, path) {
        (Some(method @ ("GET" | "HEAD")), "/metrics") => Request::Metrics { head: method == "HEAD" },
        (Some("GET" | "HEAD"), _) => Request::OtherPath,
        _ => Request::OtherMethod,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        for (text, request) in [
            ("GET /metrics HTTP/1.1\r\n", None),
            ("GET /metrics HTTP/1.1\r\n\r\n", Some(Request::Metrics { head: false })),
            (
                "HEAD /metrics?x=1 HTTP/1.0\r\n\r\n",
                Some(Request::Metrics { head: true }),
            ),
            ("GET / HTTP/1.1\r\n\r\n", Some(Request::OtherPath)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Request::OtherMethod)),
            ("\u{1}\r\n\r\n", Some(Request::Bad)),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), request, "{text:?}");
        }
    }
}
