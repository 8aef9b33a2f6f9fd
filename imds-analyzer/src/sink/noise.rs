//! Noise control: decides which requests to write in full and which to count, and which callers are new.
//!
//! Budgets are nested: a caller, its unit or container, and its user each have one. So no user can use up another
//! user's budget, however many programs and units they start. Tables are bounded in the same way: callers that do not
//! fit share one entry of their unit, units one entry of their user. The first credential call of each caller and user
//! is always written, regardless of budgets and the ignore list.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    mem,
    time::{Duration, Instant},
};

use imds_analyzer_ebpf::classify::{PathClass, Verdict, Version};

use crate::{
    config::{Config, Limits, Pattern},
    event::{Attempt, Event, Process},
    notice::{First, Folded},
};

mod budget;
#[cfg(test)]
mod tests;

use self::budget::Budget;

/// Maximum number of users; of units and containers per user; of callers per unit or container, per user, and in total.
const USERS_MAX: usize = 256;
const PLACES_MAX: usize = 128;
const CALLERS_PER_PLACE: usize = 32;
const CALLERS_PER_USER: usize = 512;
const CALLERS_MAX: usize = 4096;
/// Maximum number of first calls remembered per user.
const SEEN_PER_USER: usize = 1024;
/// Kinds of first calls.
const SEEN_V1: u64 = 0;
const SEEN_CREDENTIAL: u64 = 1;
const SEEN_IGNORED: u64 = 2;
/// Entries idle for this long make room for others.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// Interval of reports about a user who has used up the daily budget.
const SLOW_REPORT: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The entry shared by all that do not fit.
const OTHER: u64 = 0;
/// No process has this user id. Here it stands for unknown processes and for users that do not fit.
const OTHER_USER: u32 = u32::MAX;

/// Decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Write,
    /// Count it in its caller's next `Folded`.
    Fold,
    /// Leave it out, because the ignore list matches.
    Ignore,
}

/// Decides about requests, and counts those that are not written.
pub struct Noise {
    limits: Limits,
    ignore: Vec<Pattern>,
    expect: Vec<Pattern>,
    users: HashMap<u32, User>,
    callers: usize,
    /// Ends of windows with folded requests.
    due: BinaryHeap<Reverse<(Instant, Key)>>,
    /// Secret, so that nobody can choose names that collide.
    hasher: RandomState,
    swept: Option<Instant>,
    unannounced: u64,
}

/// State of a credential call on the ignore list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ignored {
    /// The first one of its caller and user.
    First,
    Again,
    /// There is no room to remember it, so the budgets decide.
    NotKnown,
}

/// User, place, caller.
type Key = (u32, u64, u64);

struct User {
    budget: Budget,
    daily: Budget,
    places: HashMap<u64, Place>,
    callers: usize,
    seen: HashSet<u64>,
}

struct Place {
    budget: Budget,
    callers: HashMap<u64, Caller>,
}

struct Caller {
    budget: Budget,
    used: Instant,
    credential_written: bool,
    folded: Option<Box<Folded>>,
}

/// The budgets and other state of one caller.
struct Entry<'a> {
    user: &'a mut Budget,
    daily: &'a mut Budget,
    place: &'a mut Budget,
    caller: &'a mut Budget,
    used: &'a mut Instant,
    credential_written: &'a mut bool,
    folded: &'a mut Option<Box<Folded>>,
}

fn entry(users: &mut HashMap<u32, User>, (uid, place, caller): Key) -> Option<Entry<'_>> {
    let user = users.get_mut(&uid)?;
    let place = user.places.get_mut(&place)?;
    let caller = place.callers.get_mut(&caller)?;
    Some(Entry {
        user: &mut user.budget,
        daily: &mut user.daily,
        place: &mut place.budget,
        caller: &mut caller.budget,
        used: &mut caller.used,
        credential_written: &mut caller.credential_written,
        folded: &mut caller.folded,
    })
}

impl Noise {
    pub fn new(config: &Config) -> Self {
        Self {
            limits: config.limits.clone(),
            ignore: config.ignore.clone(),
            expect: config.expect.clone(),
            users: HashMap::new(),
            callers: 0,
            due: BinaryHeap::new(),
            hasher: RandomState::new(),
            swept: None,
            unannounced: 0,
        }
    }

    /// Changes limits and lists, and keeps the counts.
    pub fn configure(&mut self, config: &Config) {
        self.limits = config.limits.clone();
        self.ignore = config.ignore.clone();
        self.expect = config.expect.clone();
    }

    /// Number of first calls that were not announced because their user has made too many.
    pub fn unannounced(&self) -> u64 {
        self.unannounced
    }

    /// Decides about `event`, and tells if it is the first of its caller.
    pub fn judge(&mut self, event: &Event, now: Instant) -> (Decision, First) {
        let credential = event.path_class == PathClass::Credential;
        let ignored = self.ignore.iter().any(|pattern| pattern.matches(event));
        if ignored && !credential {
            return (Decision::Ignore, First::default());
        }
        let expected = self.expect.iter().any(|pattern| pattern.matches(event));
        let key @ (uid, ..) = self.key(event.process.as_deref(), event.caller(), now);
        let ignored = ignored.then(|| self.remember_ignored(uid, event));
        if ignored == Some(Ignored::Again) {
            return (Decision::Ignore, First::default());
        }
        let first = if expected {
            First::default()
        } else {
            self.first(uid, event, credential)
        };

        let entry = entry(&mut self.users, key);
        let first_of_place = credential && entry.is_some_and(|entry| !mem::replace(entry.credential_written, true));
        if self.charge(key, first_of_place || ignored == Some(Ignored::First), now) {
            return (Decision::Write, first);
        }
        self.fold(event, key, now);
        (Decision::Fold, first)
    }

    /// True if an attempt may be written. Attempts share the budgets of requests; one over budget gets no record.
    pub fn allows_attempt(&mut self, attempt: &Attempt, now: Instant) -> bool {
        let key = self.key(attempt.process.as_deref(), attempt.caller(), now);
        self.charge(key, false, now)
    }

    /// Uses one of each budget if each has some left, or if the call is exempt. False if a budget is used up.
    fn charge(&mut self, key: Key, exempt: bool, now: Instant) -> bool {
        let limits = &self.limits;
        let Some(entry) = entry(&mut self.users, key) else {
            return true;
        };
        *entry.used = now;
        let mut open = true;
        let budgets = [
            (entry.caller, limits.caller, limits.window),
            (entry.place, limits.place, limits.window),
            (entry.user, limits.user, limits.window),
            (entry.daily, limits.user_daily, DAY),
        ]
        .map(|(budget, limit, window)| {
            open &= budget.left(limit, window, now);
            budget
        });
        // If one budget is used up, charges none of them.
        let allowed = open || exempt;
        if allowed {
            budgets.into_iter().for_each(Budget::charge);
        }
        allowed
    }

    /// Counts a request instead of writing it.
    fn fold(&mut self, event: &Event, key: Key, now: Instant) {
        let limits = &self.limits;
        let Some(entry) = entry(&mut self.users, key) else {
            return;
        };
        match entry.folded {
            Some(folded) => add(folded, event),
            none => {
                let wait = if entry.daily.left(limits.user_daily, DAY, now) {
                    limits.window
                } else {
                    SLOW_REPORT.max(limits.window)
                };
                self.due.push(Reverse((now + wait, key)));
                add(none.insert(Box::new(empty(event, key))), event);
            }
        }
    }

    /// Time to write the next `Folded`.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// The next `Folded` that is due.
    pub fn due(&mut self, now: Instant) -> Option<Folded> {
        self.next_due().filter(|due| *due <= now)?;
        self.take_folded()
    }

    /// The next `Folded`, due or not. Used at the end.
    pub fn take_folded(&mut self) -> Option<Folded> {
        let Reverse((_, (uid, place, caller))) = self.due.pop()?;
        let user = self.users.get_mut(&uid)?;
        user.daily.charge();
        let caller = user.places.get_mut(&place)?.callers.get_mut(&caller)?;
        caller.folded.take().map(|folded| *folded)
    }

    /// The entry that a call or attempt is charged to. Creates it if it is missing.
    fn key(&mut self, process: Option<&Process>, caller: &str, now: Instant) -> Key {
        let wanted = self.wanted(process, caller);
        self.sweep_if_full(wanted, now);
        self.room_for(wanted, now)
    }

    fn wanted(&self, process: Option<&Process>, caller: &str) -> Key {
        let Some(process) = process else {
            return (OTHER_USER, OTHER, self.hash(caller));
        };
        let place = match &process.container {
            Some(container) => self.hash(&container.id),
            None => self.hash(process.unit.as_deref().unwrap_or_default()),
        };
        (process.user.id.unwrap_or(OTHER_USER), place, self.hash(caller))
    }

    /// A hash that is never [`OTHER`].
    fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text).max(1)
    }

    /// Returns an entry for `wanted`, or the shared one that replaces it.
    fn room_for(&mut self, (uid, place, caller): Key, now: Instant) -> Key {
        let uid = if self.users.contains_key(&uid) || self.users.len() < USERS_MAX {
            uid
        } else {
            OTHER_USER
        };
        let user = self.users.entry(uid).or_insert_with(|| User {
            budget: Budget::new(now),
            daily: Budget::new(now),
            places: HashMap::new(),
            callers: 0,
            seen: HashSet::new(),
        });
        let place = if user.places.contains_key(&place) || user.places.len() < PLACES_MAX {
            place
        } else {
            OTHER
        };
        let entry = user.places.entry(place).or_insert_with(|| Place {
            budget: Budget::new(now),
            callers: HashMap::new(),
        });
        let room =
            entry.callers.len() < CALLERS_PER_PLACE && user.callers < CALLERS_PER_USER && self.callers < CALLERS_MAX;
        let caller = if entry.callers.contains_key(&caller) || room {
            caller
        } else {
            OTHER
        };
        entry.callers.entry(caller).or_insert_with(|| {
            self.callers += 1;
            user.callers += 1;
            Caller {
                budget: Budget::new(now),
                used: now,
                credential_written: false,
                folded: None,
            }
        });
        (uid, place, caller)
    }

    /// Drops idle entries if there is no room for `wanted`. At most once a minute, because it takes time.
    fn sweep_if_full(&mut self, (uid, place, caller): Key, now: Instant) {
        let user = self.users.get(&uid);
        let entry = user.and_then(|user| user.places.get(&place));
        let full = match (user, entry) {
            (None, _) => self.users.len() >= USERS_MAX,
            (Some(user), None) => user.places.len() >= PLACES_MAX,
            (Some(user), Some(entry)) => {
                let crowded = entry.callers.len() >= CALLERS_PER_PLACE || user.callers >= CALLERS_PER_USER;
                crowded && !entry.callers.contains_key(&caller)
            }
        } || self.callers >= CALLERS_MAX;
        let recently = self
            .swept
            .is_some_and(|swept| now.saturating_duration_since(swept) < Duration::from_secs(60));
        if !full || recently {
            return;
        }
        self.swept = Some(now);
        let idle = |caller: &Caller| caller.folded.is_none() && now.saturating_duration_since(caller.used) > IDLE;
        let mut callers = 0;
        self.users.retain(|_, user| {
            user.callers = 0;
            user.places.retain(|_, place| {
                place.callers.retain(|_, caller| !idle(caller));
                user.callers += place.callers.len();
                !place.callers.is_empty()
            });
            callers += user.callers;
            // Keeps users over their daily budget until the day is over.
            !user.places.is_empty() || !user.daily.left(1, DAY, now)
        });
        self.callers = callers;
    }

    /// True for the first v1 or first credential call of its caller and user.
    fn first(&mut self, uid: u32, event: &Event, credential: bool) -> First {
        let caller = self.hash(event.caller());
        let Some(user) = self.users.get_mut(&uid) else {
            return First::default();
        };
        let (seen, unannounced) = (&mut user.seen, &mut self.unannounced);
        let mut is_first = |is: bool, kind: u64| {
            let key = seen_key(caller, kind);
            if !is || seen.contains(&key) {
                return false;
            }
            if seen.len() >= SEEN_PER_USER {
                *unannounced += 1;
                return false;
            }
            seen.insert(key)
        };
        First {
            v1: is_first(event.verdict == Verdict::V1, SEEN_V1),
            credential: is_first(credential, SEEN_CREDENTIAL),
        }
    }

    /// Records a credential call on the ignore list, independent of its unit or container.
    fn remember_ignored(&mut self, uid: u32, event: &Event) -> Ignored {
        let key = seen_key(self.hash(event.caller()), SEEN_IGNORED);
        let Some(user) = self.users.get_mut(&uid).filter(|_| uid != OTHER_USER) else {
            return Ignored::NotKnown;
        };
        if user.seen.contains(&key) {
            return Ignored::Again;
        }
        if user.seen.len() >= SEEN_PER_USER {
            return Ignored::NotKnown;
        }
        user.seen.insert(key);
        Ignored::First
    }
}

/// The lower two bits of a key are the kind.
fn seen_key(caller: u64, kind: u64) -> u64 {
    caller & !3 | kind
}

fn empty(event: &Event, (uid, place, caller): Key) -> Folded {
    let process = event.process.as_deref();
    let is_own = caller != OTHER && uid != OTHER_USER;
    let place = process.filter(|_| place != OTHER);
    Folded {
        caller: is_own.then(|| event.caller().to_owned()),
        user: process
            .filter(|_| uid != OTHER_USER)
            .map(|process| process.user.clone())
            .unwrap_or_default(),
        unit: place.and_then(|process| process.unit.clone()),
        container: place.and_then(|process| Some(process.container.as_ref()?.id.clone())),
        counts: Default::default(),
        local: Default::default(),
        answers: Default::default(),
        credential: 0,
        since: event.time,
        until: event.time,
    }
}

fn add(folded: &mut Folded, event: &Event) {
    let version = event.verdict.version();
    folded.counts.add(version);
    if event.local {
        folded.local.add(version);
    } else if version == Version::V1 {
        folded.answers.add(event.answer.word(), event.answer.status());
    }
    folded.credential += u64::from(event.path_class == PathClass::Credential);
    folded.since = folded.since.min(event.time);
    folded.until = folded.until.max(event.time);
}
