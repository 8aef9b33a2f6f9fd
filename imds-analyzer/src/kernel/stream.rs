//! Records out of the kernel, as they come: from the ring buffer, or in the order of time from the perf buffers, one a
//! CPU.

use std::{collections::VecDeque, future::poll_fn, io, task::Poll};

use aya::maps::{
    MapData, RingBuf,
    perf::{PerfEvent, PerfEventArrayBuffer},
};
use imds_analyzer_ebpf::abi::Header;
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes as _;
use zeroize::Zeroizing;

use crate::host::clock;

/// Where an object's records are.
pub enum Buffers {
    /// And the records that were read from it already.
    Ring(RingBuf<MapData>, Vec<Vec<u8>>),
    Perf(Vec<PerfEventArrayBuffer<MapData>>),
}

/// The buffers, with waiting.
pub enum Stream {
    Ring(RingStream),
    Perf(PerfStream),
}

/// A ring buffer, and the records that were read from it before.
pub struct RingStream {
    ring: AsyncFd<RingBuf<MapData>>,
    early: VecDeque<Vec<u8>>,
}

/// What is taken from a stream.
pub enum Taken<'a> {
    Record(&'a [u8]),
    /// So many records found no room, until this time in ns of `CLOCK_MONOTONIC`.
    Lost(u64, u64),
}

impl Stream {
    /// Must be called inside a tokio runtime.
    pub fn new(buffers: Buffers) -> io::Result<Self> {
        match buffers {
            Buffers::Ring(ring, early) => Ok(Self::Ring(RingStream {
                // SAFETY: the ring buffer owns its descriptor and keeps it until it is dropped.
                ring: unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?,
                early: early.into(),
            })),
            Buffers::Perf(buffers) => PerfStream::new(buffers).map(Self::Perf),
        }
    }

    /// Waits until there may be something to read. Cancel safe.
    pub async fn ready(&self) -> io::Result<()> {
        match self {
            // What is there is read to the end every time: the next edge is the next record.
            Self::Ring(stream) if stream.early.is_empty() => {
                stream.ring.readable().await.map(|mut guard| guard.clear_ready())
            }
            Self::Ring(_) => Ok(()),
            Self::Perf(stream) => stream.ready().await,
        }
    }

    /// Hands records to `take`: up to `limit` of the ring buffer's, all that are in order of the others; how many it were.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(Taken<'_>)) -> usize {
        match self {
            Self::Ring(stream) => {
                let ring = stream.ring.get_mut();
                for count in 0..limit {
                    if let Some(record) = stream.early.pop_front() {
                        take(Taken::Record(&record));
                        continue;
                    }
                    let Some(record) = ring.next() else { return count };
                    take(Taken::Record(&record));
                }
                limit
            }
            Self::Perf(stream) => stream.drain(take),
        }
    }
}

/// Records of one socket come from any CPU, one after the other. What happened before a moment was in its buffer before
/// that moment: records up to a time that was read before the buffers are in order once they are sorted.
pub struct PerfStream {
    buffers: Vec<AsyncFd<PerfEventArrayBuffer<MapData>>>,
    /// Read, with the time of each, and wiped when done with: there are tokens in them.
    records: Vec<(u64, Zeroizing<Vec<u8>>)>,
    lost: u64,
}

impl PerfStream {
    fn new(buffers: Vec<PerfEventArrayBuffer<MapData>>) -> io::Result<Self> {
        let buffers = buffers
            .into_iter()
            // SAFETY: the buffer owns its descriptor and keeps it until it is dropped.
            .map(|buffer| unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            buffers,
            records: Vec::new(),
            lost: 0,
        })
    }

    async fn ready(&self) -> io::Result<()> {
        if !self.records.is_empty() {
            return Ok(());
        }
        poll_fn(|context| {
            let mut result = Poll::Pending;
            for buffer in &self.buffers {
                match buffer.poll_read_ready(context) {
                    Poll::Ready(Ok(mut guard)) => {
                        guard.clear_ready();
                        result = Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            result
        })
        .await
    }

    fn drain(&mut self, mut take: impl FnMut(Taken<'_>)) -> usize {
        let now = clock::monotonic();
        for buffer in &mut self.buffers {
            let (records, lost) = (&mut self.records, &mut self.lost);
            read(buffer.get_mut(), |taken| match taken {
                Taken::Record(bytes) => {
                    // A record without a header is one that cannot be decoded: it is counted where it is.
                    let time = Header::read_from_prefix(bytes).map_or(0, |(header, _)| header.time);
                    records.push((time, Zeroizing::new(bytes.to_vec())));
                }
                Taken::Lost(count, _) => *lost += count,
            });
        }
        // Of one CPU they are in order already, and a stable sort leaves those of one time alone.
        self.records.sort_by_key(|(time, _)| *time);
        let count = self.records.partition_point(|(time, _)| *time <= now);
        for (_, record) in self.records.drain(..count) {
            take(Taken::Record(&record));
        }
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            take(Taken::Lost(lost, now));
        }
        count
    }
}

/// Hands all records of one buffer to `take`.
pub fn read(buffer: &mut PerfEventArrayBuffer<MapData>, mut take: impl FnMut(Taken<'_>)) {
    let mut joined = Zeroizing::new(Vec::new());
    buffer.for_each(|event| match event {
        PerfEvent::Sample { head, tail: [] } => take(Taken::Record(head)),
        PerfEvent::Sample { head, tail } => {
            joined.clear();
            joined.extend_from_slice(head);
            joined.extend_from_slice(tail);
            take(Taken::Record(&joined));
        }
        PerfEvent::Lost { count } => take(Taken::Lost(count, 0)),
    });
}
