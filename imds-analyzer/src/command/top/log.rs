//! Logs: one that grows, and one that is replayed.

use std::{
    borrow::Cow,
    future::pending,
    io::{self, BufRead},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustix::fs::inotify::WatchFlags;
use tokio::time::{Instant, sleep};

use super::Source;
use crate::{
    host::{clock::Now, waiting::Changes},
    logfile::{self, Follow, Lines},
    record::{self, Record, Unreadable},
    report::find,
    session::{Flow, Turns},
    top::State,
};

/// Lines before keys and signals get a turn.
const BATCH: usize = 1024;

/// A log that grows.
pub(super) struct Following {
    state: State,
    follow: Follow,
    path: PathBuf,
    changes: Changes,
    /// There may be lines that were not read.
    more: bool,
}

impl Following {
    pub(super) fn open(path: &Path, color: bool) -> anyhow::Result<Self> {
        // Watches first, so that nothing is written unseen between the two.
        let changes = changes(path).with_context(|| format!("cannot watch the directory of {}", path.display()))?;
        Ok(Self {
            state: State::new(path.display().to_string(), color),
            follow: Follow::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            path: path.to_owned(),
            changes,
            more: true,
        })
    }
}

impl Source for Following {
    fn state(&mut self) -> &mut State {
        self.state.advance(Now::read().wall);
        &mut self.state
    }
}

impl Turns for Following {
    fn is_busy(&self) -> bool {
        self.more
    }

    async fn next(&mut self) -> io::Result<Flow> {
        if !self.more {
            self.changes.wait().await?;
            self.more = true;
        }
        let now = Now::read().wall;
        for _ in 0..BATCH {
            let line = self
                .follow
                .next_line()
                .map_err(|error| cannot_read(&self.path, &error))?;
            let Some(line) = line else {
                self.more = false;
                break;
            };
            take(&mut self.state, read(&found(line)), now);
        }
        Ok(Flow::Continue)
    }
}

/// Tells when something in the directory of a log has changed.
fn changes(path: &Path) -> io::Result<Changes> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let changes = Changes::new()?;
    changes.add(
        directory.unwrap_or(Path::new(".")),
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
    )?;
    Ok(changes)
}

/// A log that is read as fast as its records were written, or a multiple.
pub(super) struct Replay {
    state: State,
    lines: Lines<Box<dyn BufRead + Send>>,
    path: PathBuf,
    pace: Pace,
    /// A record that is not due yet.
    ahead: Option<(SystemTime, Vec<u8>)>,
    has_ended: bool,
}

impl Replay {
    pub(super) fn open(path: &Path, speed: u32, color: bool) -> anyhow::Result<Self> {
        let lines = logfile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let source = match speed {
            0 | 1 => path.display().to_string(),
            speed => format!("{} ×{speed}", path.display()),
        };
        Ok(Self {
            state: State::new(source, color),
            lines,
            path: path.to_owned(),
            pace: Pace { speed, since: None },
            ahead: None,
            has_ended: false,
        })
    }

    /// Takes records until one is not due.
    fn take_due(&mut self) -> io::Result<()> {
        let ahead = self.ahead.take();
        if let Some((time, line)) = ahead {
            take(&mut self.state, read(&found(&line)), time);
        }
        for _ in 0..BATCH {
            let line = self
                .lines
                .next_line()
                .map_err(|error| cannot_read(&self.path, &error))?;
            let Some(line) = line else {
                self.has_ended = true;
                self.state.note = Some("end of the log".to_owned());
                break;
            };
            let found = found(line);
            let record = read(&found);
            let time = match &record {
                Ok(Some(record)) => record.envelope.timestamp.time(),
                _ => self.state.now(),
            };
            if self.pace.wait(time).is_some() {
                self.ahead = Some((time, line.to_vec()));
                break;
            }
            take(&mut self.state, record, time);
        }
        Ok(())
    }
}

impl Source for Replay {
    fn state(&mut self) -> &mut State {
        if !self.has_ended
            && let Some(now) = self.pace.now()
        {
            self.state.advance(now);
        }
        &mut self.state
    }
}

impl Turns for Replay {
    fn is_busy(&self) -> bool {
        !self.has_ended && !self.state.is_paused() && self.ahead.is_none()
    }

    async fn next(&mut self) -> io::Result<Flow> {
        if self.has_ended {
            return pending().await;
        }
        if self.state.is_paused() {
            self.pace.stop();
            return pending().await;
        }
        self.pace.start();
        if let Some((time, _)) = &self.ahead
            && let Some(wait) = self.pace.wait(*time)
        {
            sleep(wait).await;
        }
        self.take_due()?;
        Ok(Flow::Continue)
    }
}

/// The clock of a replay.
struct Pace {
    /// Seconds of the log in a second; 0: it has no clock.
    speed: u32,
    /// A time of the log, and when it was; stopped without the latter.
    since: Option<(SystemTime, Option<Instant>)>,
}

impl Pace {
    /// The time in the log. `None` before the first record, and without a clock.
    fn now(&self) -> Option<SystemTime> {
        let (time, began) = self.since?;
        let passed = began.map_or(Duration::ZERO, |began| began.elapsed().saturating_mul(self.speed));
        Some(time.checked_add(passed).unwrap_or(time))
    }

    /// How long to wait for the record with this time; `None` if it is due. The first record starts the clock.
    fn wait(&mut self, time: SystemTime) -> Option<Duration> {
        if self.speed == 0 {
            return None;
        }
        let Some(now) = self.now() else {
            self.since = Some((time, Some(Instant::now())));
            return None;
        };
        let wait = time.duration_since(now).ok()? / self.speed;
        (!wait.is_zero()).then_some(wait)
    }

    fn stop(&mut self) {
        self.since = self.now().map(|now| (now, None));
    }

    fn start(&mut self) {
        if let Some((_, began @ None)) = &mut self.since {
            *began = Some(Instant::now());
        }
    }
}

/// Our record in `line`, which may be the line of a log collector; `None` if there is none.
fn found(line: &[u8]) -> Result<Option<Cow<'_, str>>, Unreadable> {
    let text = std::str::from_utf8(line).map_err(|error| Unreadable::NotJson(error.valid_up_to()))?;
    Ok(find::record(text))
}

fn read<'a>(found: &'a Result<Option<Cow<'_, str>>, Unreadable>) -> Result<Option<Record<'a>>, Unreadable> {
    match found {
        Ok(Some(text)) => record::read(text.as_bytes()).map(Some),
        Ok(None) => Ok(None),
        Err(why) => Err(*why),
    }
}

fn take(state: &mut State, record: Result<Option<Record<'_>>, Unreadable>, now: SystemTime) {
    match record {
        Ok(Some(record)) => state.apply(&record, now),
        Ok(None) | Err(Unreadable::Foreign) => state.foreign(),
        Err(_) => state.unreadable(),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("cannot read {}: {error}", path.display()))
}
