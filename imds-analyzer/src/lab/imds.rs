//! The embedded IMDS: an HTTP server that answers like EC2's, so that real clients and SDKs work with it.
//!
//! It follows EC2's documentation (User Guide, "Access instance metadata", "How IMDSv2 works"); comments in [`answer`]
//! describe choices where the documentation says nothing. Two differences are intentional: connections have no idle
//! time-out, and nothing is throttled, so that tests set the pace.

mod answer;
mod body;
mod connection;
mod request;
mod tokens;
mod tree;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use imds_analyzer_ebpf::target;
use tokio::{runtime, sync::oneshot};

use crate::host::namespace::NetNs;
use tokens::TokenStore;

/// 169.254.169.254
pub const IPV4: Ipv4Addr = Ipv4Addr::from_octets(target::IPV4);
/// fd00:ec2::254
pub const IPV6: Ipv6Addr = Ipv6Addr::from_octets(target::IPV6);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub tokens: Tokens,
}

/// `--tokens`: EC2's `HttpTokens`, which decides if a request without a token is served or gets 401.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tokens {
    /// Answer v1 and v2 calls.
    #[default]
    Optional,
    /// Refuse v1 calls.
    Required,
}

/// Number of answered requests, with any status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// PUT requests, to any path.
    pub token_requests: u64,
    /// Other requests with the token header, even if it is invalid or empty.
    pub with_token: u64,
    /// Other requests without the token header.
    pub without_token: u64,
    /// Requests that were not HTTP, or too large.
    pub malformed: u64,
}

/// A running server. Dropping it closes every connection.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the connections.
#[derive(Debug)]
struct State {
    options: Options,
    tokens: TokenStore,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    token_requests: AtomicU64,
    with_token: AtomicU64,
    without_token: AtomicU64,
    malformed: AtomicU64,
}

impl Server {
    /// Listens on port 80 of the IMDS addresses of `namespace`, with IPv6 if it has that address.
    pub fn start(namespace: &NetNs, options: Options) -> anyhow::Result<Self> {
        // A socket stays in the namespace where it was created, and so do the sockets that it accepts. So the server's
        // thread can stay outside.
        let listeners = namespace.run(listen)??;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        let state = Arc::new(State {
            options,
            tokens: TokenStore::open()?,
            counters: Counters::default(),
        });
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let listeners = {
            let _context = runtime.enter();
            listeners
                .into_iter()
                .map(tokio::net::TcpListener::from_std)
                .collect::<io::Result<Vec<_>>>()?
        };
        let thread = thread::Builder::new().name("lab-imds".into()).spawn(move || {
            for listener in listeners {
                runtime.spawn(accept(listener, Arc::clone(&shared)));
            }
            // An error means that the server was dropped. The tasks end with the runtime.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            state,
            addresses,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Addresses of the listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Every token issued so far, oldest first. None may appear in any output.
    pub fn tokens(&self) -> Vec<String> {
        self.state.tokens.issued()
    }

    pub fn answered(&self) -> Answered {
        let Counters {
            token_requests,
            with_token,
            without_token,
            malformed,
        } = &self.state.counters;
        Answered {
            token_requests: token_requests.load(Ordering::Relaxed),
            with_token: with_token.load(Ordering::Relaxed),
            without_token: without_token.load(Ordering::Relaxed),
            malformed: malformed.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn listen() -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in [IpAddr::from(IPV4), IpAddr::from(IPV6)] {
        match TcpListener::bind((address, target::PORT)) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                listeners.push(listener);
            }
            Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot listen on port {} of {address}", target::PORT));
            }
        }
    }
    Ok(listeners)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                // The client left or misbehaved, so there is nobody to tell.
                tokio::spawn(async move { drop(connection::serve(stream, &state).await) });
            }
            // Out of descriptors, or the connection has already ended. The next one may work.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[cfg(test)]
mod tests;
