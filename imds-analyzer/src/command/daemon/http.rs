//! `GET /metrics` for Prometheus, and nothing else. A client gets a few seconds and a few kilobytes, and much less time
//! while others wait. Connections are limited in number and in rate. The text is rendered at most a few times per
//! second.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{self, Instant},
};

use crate::sink::metrics::{CONTENT_TYPE, Scrapes};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Time limit for reading a request and for writing the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same limits while others wait: an honest client sends its request at once, and the answer fits into the socket's
/// buffer.
const HURRY_READ: Duration = Duration::from_millis(100);
const HURRY_WRITE: Duration = Duration::from_millis(500);
/// Connections accepted at once, and per second after that.
const BURST: u32 = 100;
const RATE: u32 = 100;
/// A rendered text is served again for this long.
const FRESH: Duration = Duration::from_millis(250);
/// Maximum size of a request's head, in bytes.
const HEAD_MAX: usize = 8 << 10;
/// Pause after an accept that failed, for example because no descriptor was free.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the text of the metrics for a waiting client.
pub(super) type Scrape = oneshot::Sender<Vec<u8>>;

/// Serves until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address`, asks `scrapes` for the text, and counts in `counts`. Must be called inside a tokio runtime.
    pub(super) fn start(address: SocketAddr, scrapes: mpsc::Sender<Scrape>, counts: Arc<Scrapes>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            scrapes,
            text: Mutex::default(),
            crowded: watch::Sender::new(false),
            counts,
        });
        Ok(Self {
            address,
            task: tokio::spawn(accept(listener, shared)),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    scrapes: mpsc::Sender<Scrape>,
    /// The last text and when it was rendered. A client that needs a newer one waits on this lock.
    text: Mutex<Option<(Instant, Arc<[u8]>)>>,
    /// True while a client waits for a free connection slot.
    crowded: watch::Sender<bool>,
    counts: Arc<Scrapes>,
}

impl Shared {
    /// `None` if the daemon is shutting down.
    async fn text(&self) -> Option<Arc<[u8]>> {
        let mut last = self.text.lock().await;
        if let Some((made, text)) = &*last
            && made.elapsed() < FRESH
        {
            return Some(Arc::clone(text));
        }
        let (reply, text) = oneshot::channel();
        self.scrapes.send(reply).await.ok()?;
        let text: Arc<[u8]> = text.await.ok()?.into();
        *last = Some((Instant::now(), Arc::clone(&text)));
        Some(text)
    }

    /// Returns when the client's time is up.
    async fn patience(&self, hurry: Duration) {
        let mut crowded = self.crowded.subscribe();
        let begun = Instant::now();
        loop {
            let time = if *crowded.borrow_and_update() { hurry } else { PATIENCE };
            tokio::select! {
                () = time::sleep_until(begun + time) => return,
                // Cannot fail: `self` holds the sender.
                _ = crowded.changed() => {}
            }
        }
    }

    /// The result of `work`, or an error if it takes too long.
    async fn in_time<T>(&self, hurry: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            result = work => result,
            () = self.patience(hurry) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Admits [`BURST`] at once, and [`RATE`] per second after that.
struct Pace {
    /// When the whole burst is available again.
    full: Instant,
}

impl Pace {
    const STEP: Duration = Duration::from_micros(1_000_000 / RATE as u64);

    /// How long to wait before admitting one more.
    fn next(&mut self, now: Instant) -> Duration {
        self.full = self.full.max(now) + Self::STEP;
        self.full
            .saturating_duration_since(now)
            .saturating_sub(Self::STEP * BURST)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut pace = Pace { full: Instant::now() };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("cannot accept a connection for metrics: {error}");
                time::sleep(PAUSE).await;
                continue;
            }
        };
        let wait = pace.next(Instant::now());
        if !wait.is_zero() {
            Scrapes::count(&shared.counts.delayed);
            time::sleep(wait).await;
        }
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                shared.crowded.send_replace(true);
                let place = Arc::clone(&places).acquire_owned().await;
                shared.crowded.send_replace(false);
                let Ok(place) = place else { return };
                place
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let counts = &shared.counts;
            // A client that goes away or is too slow harms only itself.
            match serve(stream, &shared).await {
                Ok(Served::Answered) => Scrapes::count(&counts.answered),
                Ok(Served::Refused) => Scrapes::count(&counts.refused),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Scrapes::count(&counts.timed_out),
                Err(error) => {
                    Scrapes::count(&counts.failed);
                    tracing::debug!("a scrape failed: {error}");
                }
            }
            drop(place);
        });
    }
}

/// What a client got.
enum Served {
    Answered,
    /// The client asked for something else.
    Refused,
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<Served> {
    let request = shared.in_time(HURRY_READ, read(&mut stream)).await?;
    let (status, body): (_, Arc<[u8]>) = match request {
        Request::Metrics { .. } => match shared.text().await {
            Some(text) => ("200 OK", text),
            None => ("500 Internal Server Error", Arc::default()),
        },
        Request::OtherPath => ("404 Not Found", Arc::from(*b"Metrics are at /metrics.\n")),
        Request::OtherMethod => ("405 Method Not Allowed", Arc::default()),
        Request::Bad => ("400 Bad Request", Arc::default()),
    };
    let kind = if status.starts_with('2') {
        CONTENT_TYPE
    } else {
        "text/plain"
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let with_body = !matches!(request, Request::Metrics { head: true });
    let answer = async {
        stream.write_all(head.as_bytes()).await?;
        if with_body {
            stream.write_all(&body).await?;
        }
        stream.shutdown().await
    };
    shared.in_time(HURRY_WRITE, answer).await?;
    Ok(match request {
        Request::Metrics { .. } => Served::Answered,
        _ => Served::Refused,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Metrics {
        /// True for HEAD, which is answered without the body.
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

/// `None` if the head is incomplete.
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
    fn a_burst_passes_and_then_so_many_a_second() {
        let begin = Instant::now();
        let mut pace = Pace { full: begin };
        for _ in 0..BURST {
            assert_eq!(pace.next(begin), Duration::ZERO);
        }
        assert_eq!(pace.next(begin), Pace::STEP);
        assert_eq!(pace.next(begin + Pace::STEP), Pace::STEP);
        let later = begin + Duration::from_secs(10);
        for _ in 0..BURST {
            assert_eq!(pace.next(later), Duration::ZERO);
        }
        assert_ne!(pace.next(later), Duration::ZERO);
    }

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
