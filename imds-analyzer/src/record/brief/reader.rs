//! Reads the lines of one log. Most parts of a line are the same, byte for byte, as in an earlier line: the instance, the
//! program and the judgement of its call. Comparing a part with an earlier one takes a tenth of the time of parsing it.

use std::{borrow::Cow, cell::OnceCell, hash::BuildHasher as _};

use foldhash::quality::RandomState;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Brief, Cloud, ContainerBrief, EventBrief, HostBrief, HttpBrief, ImdsBrief, ProcessBrief, SystemdBrief, UrlBrief,
    User,
};
use crate::record::{LINE_MAX, Unreadable, read, value::Micros};

/// How many parts are kept.
const PARTS: usize = 1024;
/// Longest part that is kept, in bytes.
const PART_MAX: usize = 4096;
const BUCKETS: usize = 64;
/// How many parts in a bucket are compared with.
const BUCKET_MAX: usize = 32;
/// Bytes by which the bucket of a part is chosen.
const BEGINNING: usize = 48;

/// Holds the text of the parts that a [`Reader`] keeps.
#[derive(Debug)]
pub struct Memory(Box<[OnceCell<Box<str>>]>);

impl Default for Memory {
    fn default() -> Self {
        Self((0..PARTS).map(|_| OnceCell::new()).collect())
    }
}

/// Reads lines like [`Brief::read`].
#[derive(Debug)]
pub struct Reader<'m> {
    room: Room<'m>,
    imds: Kept<'m, ImdsBrief<'m>>,
    host: Kept<'m, HostBrief<'m>>,
    cloud: Kept<'m, Cloud<'m>>,
    process: Kept<'m, ProcessBrief<'m>>,
    user: Kept<'m, User<'m>>,
    systemd: Kept<'m, SystemdBrief<'m>>,
    container: Kept<'m, ContainerBrief<'m>>,
    http: Kept<'m, HttpBrief>,
    others: Kept<'m, IgnoredAny>,
}

#[derive(Debug)]
struct Room<'m> {
    free: std::slice::Iter<'m, OnceCell<Box<str>>>,
    is_full: bool,
    state: RandomState,
}

/// The parts of one kind that were read, by their beginnings.
#[derive(Debug)]
struct Kept<'m, T>([Vec<(&'m str, T)>; BUCKETS]);

/// Where a part is in [`Kept`].
type At = (usize, usize);

/// A line's parts.
#[derive(Default)]
struct Parts<'a> {
    timestamp: Option<Micros>,
    event: Option<EventBrief<'a>>,
    url: Option<UrlBrief<'a>>,
    imds: Option<At>,
    host: Option<At>,
    cloud: Option<At>,
    process: Option<At>,
    user: Option<At>,
    systemd: Option<At>,
    container: Option<At>,
    http: Option<At>,
}

impl<'m> Reader<'m> {
    /// Clears `memory`.
    pub fn new(memory: &'m mut Memory) -> Self {
        memory.0.fill_with(OnceCell::new);
        Self {
            room: Room {
                free: memory.0.iter(),
                is_full: false,
                state: RandomState::default(),
            },
            imds: Kept::default(),
            host: Kept::default(),
            cloud: Kept::default(),
            process: Kept::default(),
            user: Kept::default(),
            systemd: Kept::default(),
            container: Kept::default(),
            http: Kept::default(),
            others: Kept::default(),
        }
    }

    /// True if a new reader would be faster, because this one has no room for further parts.
    pub const fn is_full(&self) -> bool {
        self.room.is_full
    }

    /// Reads one line, without its end.
    ///
    /// # Errors
    ///
    /// As [`Brief::read`].
    pub fn read<'a>(&'a mut self, text: &'a str) -> Result<Brief<'a>, Unreadable> {
        if text.len() > LINE_MAX {
            return Err(Unreadable::TooLong);
        }
        let parts = self.parts(text).unwrap_or_default();
        let (Some(timestamp), Some(event), Some(imds), Some(host)) = (
            parts.timestamp,
            parts.event,
            self.imds.at(parts.imds),
            self.host.at(parts.host),
        ) else {
            // A part that is not kept, other JSON than ours, or an error.
            return Brief::read(text);
        };
        read::check(&event.action, imds.schema)?;
        Ok(Brief {
            timestamp,
            event,
            imds: Cow::Borrowed(imds),
            host: Cow::Borrowed(host),
            cloud: self.cloud.at(parts.cloud).map(Cow::Borrowed),
            process: self.process.at(parts.process).map(Cow::Borrowed),
            user: self.user.at(parts.user).map(Cow::Borrowed),
            systemd: self.systemd.at(parts.systemd).map(Cow::Borrowed),
            container: self.container.at(parts.container).map(Cow::Borrowed),
            http: self.http.at(parts.http).copied(),
            url: parts.url,
        })
    }

    /// `None` for anything but an object with each name once, and without spaces between its members.
    fn parts<'a>(&mut self, text: &'a str) -> Option<Parts<'a>> {
        let room = &mut self.room;
        let mut parts = Parts::default();
        let mut rest = text.strip_prefix('{')?;
        loop {
            let (name, value) = name(rest)?;
            rest = match name {
                "@timestamp" => next(&mut parts.timestamp, value),
                "event" => next(&mut parts.event, value),
                "url" => next(&mut parts.url, value),
                "imds" => self.imds.next(&mut parts.imds, value, room),
                "host" => self.host.next(&mut parts.host, value, room),
                "cloud" => self.cloud.next(&mut parts.cloud, value, room),
                "process" => self.process.next(&mut parts.process, value, room),
                "user" => self.user.next(&mut parts.user, value, room),
                "systemd" => self.systemd.next(&mut parts.systemd, value, room),
                "container" => self.container.next(&mut parts.container, value, room),
                "http" => self.http.next(&mut parts.http, value, room),
                // Its port differs from call to call.
                "source" => next(&mut None::<IgnoredAny>, value),
                other if other.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                    self.others.next(&mut None, value, room)
                }
                _ => None,
            }?;
            if rest == "}" {
                return Some(parts);
            }
            rest = rest.strip_prefix(',')?;
        }
    }
}

/// The name at the beginning of `text`, and what follows its colon.
fn name(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('"')?;
    let (name, rest) = text.split_at_checked(memchr::memchr(b'"', text.as_bytes())?)?;
    Some((name, rest.strip_prefix("\":")?))
}

/// Reads the value at the beginning of `text` into `to`, which must be empty, and returns the rest of `text`.
fn next<'a, T: Deserialize<'a>>(to: &mut Option<T>, text: &'a str) -> Option<&'a str> {
    if to.is_some() {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    *to = Some(values.next()?.ok()?);
    text.get(values.byte_offset()..)
}

impl<T> Default for Kept<'_, T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Vec::new()))
    }
}

impl<'m, T: Deserialize<'m>> Kept<'m, T> {
    fn at(&self, at: Option<At>) -> Option<&T> {
        let (bucket, number) = at?;
        self.0.get(bucket)?.get(number).map(|(_, part)| part)
    }

    /// Like [`next`]. Also returns `None` for a part that is not kept.
    fn next<'a>(&mut self, to: &mut Option<At>, text: &'a str, room: &mut Room<'m>) -> Option<&'a str> {
        if to.is_some() {
            return None;
        }
        let beginning = text.as_bytes().get(..BEGINNING).unwrap_or(text.as_bytes());
        let place = room.state.hash_one(beginning) as usize % BUCKETS;
        let bucket = self.0.get_mut(place)?;
        // What begins with the text of an object, an array or a string begins with the same value. Where it may not, as 12
        // in 123, no comma follows, and the line is read as a whole.
        let mut known = bucket.iter().enumerate();
        if let Some((number, rest)) = known.find_map(|(number, (part, _))| Some((number, text.strip_prefix(*part)?))) {
            *to = Some((place, number));
            return Some(rest);
        }
        let rest = next(&mut None::<IgnoredAny>, text)?;
        let part = text.strip_suffix(rest)?;
        if part.len() > PART_MAX {
            return None;
        }
        let cell = if bucket.len() < BUCKET_MAX {
            room.free.next()
        } else {
            None
        };
        room.is_full |= cell.is_none();
        let part = cell?.get_or_init(|| part.into());
        bucket.push((part, serde_json::from_str(part).ok()?));
        *to = Some((place, bucket.len() - 1));
        Some(rest)
    }
}
