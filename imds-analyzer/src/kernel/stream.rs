//! Records from the kernel: from the ring buffer as they arrive, or from the perf buffers, one per CPU, sorted by time.

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

/// The buffers that an object writes its records to.
pub enum Buffers {
    /// The ring buffer, and the records that were already read from it.
    Ring(RingBuf<MapData>, Vec<Vec<u8>>),
    Perf(Vec<PerfEventArrayBuffer<MapData>>),
}

/// The buffers, which can be awaited.
pub enum Stream {
    Ring(RingStream),
    Perf(PerfStream),
}

/// A ring buffer, and the records that were already read from it.
pub struct RingStream {
    ring: AsyncFd<RingBuf<MapData>>,
    early: VecDeque<Vec<u8>>,
}

/// An item of a stream.
pub enum Taken<'a> {
    Record(&'a [u8]),
    /// The number of records that did not fit, up to this time in ns of `CLOCK_MONOTONIC`.
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
            // A caller reads the ring buffer to its end each time, so the next edge is the next record.
            Self::Ring(stream) if stream.early.is_empty() => {
                stream.ring.readable().await.map(|mut guard| guard.clear_ready())
            }
            Self::Ring(_) => Ok(()),
            Self::Perf(stream) => stream.ready().await,
        }
    }

    /// Hands records to `take` and returns their number: up to `limit` from the ring buffer; from perf buffers, all
    /// whose order is certain.
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

/// Records of one socket arrive in the buffers of any CPU. An event is in its buffer at the time it has happened:
/// records up to a time that was read before the buffers are therefore in order after sorting.
pub struct PerfStream {
    buffers: Vec<AsyncFd<PerfEventArrayBuffer<MapData>>>,
    /// Records that were read, with their times. They hold tokens, and are wiped after use.
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
                    // A record without a header cannot be decoded, and is counted when decoding fails.
                    let time = Header::read_from_prefix(bytes).map_or(0, |(header, _)| header.time);
                    records.push((time, Zeroizing::new(bytes.to_vec())));
                }
                Taken::Lost(count, _) => *lost += count,
            });
        }
        // The records of one CPU are in order already, and a stable sort keeps the order of equal times.
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
