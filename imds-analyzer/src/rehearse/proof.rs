//! The proof that calls can be answered here, before any other is refused: a v1 call of this process itself, to a fake
//! IMDS in a network namespace of its own.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use imds_analyzer_ebpf::{
    abi::rehearsal::{Choice, namespace},
    target,
};

use super::{Rehearsal, Watch, answer::UNAUTHORIZED};
use crate::{
    kernel::selftest::Place,
    session::{End, Session},
    sink::Sink,
};

/// How long the answer may take, and how often it is tried: the host may be busy.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

const CALL: &[u8] = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\n\r\n";

impl Rehearsal {
    /// Makes a v1 call, has it refused, and returns how long the answer took. The returned place must live as long as
    /// the rehearsal: the kernel may give the inode number of a namespace that is gone to another, and refuses every
    /// call in this one.
    pub async fn prove<S: Sink>(&mut self, session: &mut Session<Watch<S>>) -> anyhow::Result<(Duration, Place)> {
        let place = Place::new()?;
        let test = place.namespace();
        let inode = std::fs::metadata(test.path())?.st_ino() as u32;
        self.namespaces
            .add(test.as_fd(), inode)
            .context("cannot open a raw socket (it needs CAP_NET_RAW and CAP_SYS_ADMIN)")?;
        self.set(Choice::namespace(inode), namespace::TEST)?;
        self.begin(session)?;
        let mut last = None;
        for _ in 0..TRIES {
            let namespace = test.clone();
            let call = tokio::task::spawn_blocking(move || namespace.run(call).map_err(io::Error::other)?);
            let end = session.run(call, self).await.context("cannot write the output")?;
            let End::Stopped(result) = end else { break };
            match result.context("the call ended early")? {
                Ok((answer, elapsed)) => {
                    ensure!(
                        answer == UNAUTHORIZED,
                        "the test call got another answer: {} bytes",
                        answer.len()
                    );
                    return Ok((elapsed, place));
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::Interrupted.into());
        Err(error).context("a test call was kept back and its answer did not arrive")
    }
}

/// Makes a v1 call in the calling thread's namespace. Returns the bytes that came back, and how long they took.
fn call() -> io::Result<(Vec<u8>, Duration)> {
    let address = SocketAddr::from((Ipv4Addr::from(target::IPV4), target::PORT));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let started = Instant::now();
    stream.write_all(CALL)?;
    let mut answer = Vec::new();
    stream.take(UNAUTHORIZED.len() as u64 + 1).read_to_end(&mut answer)?;
    Ok((answer, started.elapsed()))
}
