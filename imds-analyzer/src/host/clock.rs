//! The host's clocks, in nanoseconds.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

const SECOND: u64 = 1_000_000_000;

/// The same moment on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// [`since_boot`], the clock of the records.
    pub since_boot: u64,
    pub wall: SystemTime,
}

impl Now {
    pub fn read() -> Self {
        Self {
            since_boot: since_boot(),
            wall: SystemTime::now(),
        }
    }

    /// True if the wall clock was set between this moment and a later one. The two clocks are not read simultaneously,
    /// so a small difference is normal.
    pub(crate) fn differs(self, later: Self) -> bool {
        const MOST: Duration = Duration::from_millis(10);
        let expected = self.wall_at(later.since_boot);
        let (Ok(difference) | Err(difference)) = later.wall.duration_since(expected).map_err(|error| error.duration());
        difference > MOST
    }

    /// The wall clock's time at `boot_time` ns since boot.
    pub(crate) fn wall_at(self, boot_time: u64) -> SystemTime {
        let at = match self.since_boot.checked_sub(boot_time) {
            Some(age) => self.wall.checked_sub(Duration::from_nanos(age)),
            // The record was made after this moment.
            None => self.wall.checked_add(Duration::from_nanos(boot_time - self.since_boot)),
        };
        at.unwrap_or(self.wall)
    }
}

/// CLOCK_BOOTTIME, which counts time asleep: the clock of the modern object's records and of processes' start times.
pub(crate) fn since_boot() -> u64 {
    read(ClockId::Boottime)
}

/// CLOCK_MONOTONIC, which stops while the host sleeps: the clock of the legacy object's records.
pub(crate) fn monotonic() -> u64 {
    read(ClockId::Monotonic)
}

/// How long the host has slept since boot.
pub(crate) fn asleep() -> u64 {
    // Read in this order, the difference is never too small.
    let monotonic = monotonic();
    since_boot().saturating_sub(monotonic)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * SECOND + now.tv_nsec.unsigned_abs()
}

/// A clock tick, the unit of the times under /proc (proc_pid_stat(5)).
pub(crate) fn tick() -> u64 {
    SECOND / rustix::param::clock_ticks_per_second().max(1)
}

/// Rounds down, as the kernel does.
pub(crate) fn to_ticks(nanoseconds: u64) -> u64 {
    nanoseconds / tick().max(1)
}

pub(crate) fn from_ticks(ticks: u64) -> u64 {
    ticks.saturating_mul(tick())
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_time_has_a_wall_time_before_and_after_now() {
        let now = Now {
            since_boot: 5 * SECOND,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        };
        let wall = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(now.wall_at(3 * SECOND), wall(98));
        assert_eq!(now.wall_at(7 * SECOND), wall(102));
    }

    #[test]
    fn ticks_round_down() {
        assert_eq!(to_ticks(from_ticks(7)), 7);
        assert_eq!(to_ticks(from_ticks(7) - 1), 6);
        assert_eq!(from_ticks(u64::MAX), u64::MAX);
    }

    #[test]
    fn time_asleep_is_never_too_small() {
        let asleep = asleep();
        let since_boot = since_boot();
        assert!(since_boot <= monotonic() + asleep);
    }
}
