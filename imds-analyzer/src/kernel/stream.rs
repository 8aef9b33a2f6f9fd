//! Records out of the ring buffer, as they come.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// The ring buffer, with waiting.
pub struct Stream {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Stream {
    /// Must be called inside a tokio runtime.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring buffer owns its descriptor and keeps it until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self { ring })
    }

    /// Waits until there may be something to read. Cancel safe.
    pub async fn ready(&self) -> io::Result<()> {
        // What is there is read to the end every time: the next edge is the next record.
        self.ring.readable().await.map(|mut guard| guard.clear_ready())
    }

    /// Hands up to `limit` records to `take`; how many it were.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        let ring = self.ring.get_mut();
        for count in 0..limit {
            let Some(record) = ring.next() else { return count };
            take(&record);
        }
        limit
    }
}
