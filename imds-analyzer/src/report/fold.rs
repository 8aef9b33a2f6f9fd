//! What the records of a log add up to, by host and caller. The order of records does not matter, and what two parts of
//! a log add up to can be merged. Memory is bounded by hosts and callers.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use foldhash::quality::RandomState;

use imds_analyzer_ebpf::classify::{PathClass, Version};

mod caller;
mod words;

pub(crate) use self::caller::add_bounded;
use self::caller::widen;
pub use self::{
    caller::{Caller, Example},
    words::{Kept, Last, Words},
};
use super::{
    filter::Filter,
    watched::{Time, Watched},
};
use crate::{
    loss::Ledger,
    record::{Action, Brief, Word},
    summary::{Answers, Call, Counts, Who},
};

/// Further hosts, and further callers of a host, are only counted.
const HOSTS_MAX: usize = 200_000;
const CALLERS_MAX: usize = 4096;
/// Hours of the calls over time: five years.
const HOURS_MAX: usize = 5 * 366 * 24;
/// Longest text kept of a record, in bytes.
const TEXT_MAX: usize = 512;

/// What a log adds up to.
#[derive(Debug, Default)]
pub struct Fold {
    pub hosts: HashMap<Box<str>, Host, RandomState>,
    /// Calls by hour since the epoch, of all hosts.
    pub hours: BTreeMap<u32, Counts>,
    /// Records of hosts for which there was no room.
    pub beyond: u64,
    /// Records of each kind that were counted.
    pub records: u64,
    /// Records of a kind that this version does not know.
    pub unknown_kinds: u64,
    key: Vec<u8>,
}

/// What the records of one host add up to.
#[derive(Debug, Default)]
pub struct Host {
    pub name: Last<Box<str>>,
    pub cloud: Cloud,
    pub watched: Watched,
    pub total: Counts,
    pub answers: Answers,
    /// Calls to an address of the host itself.
    pub local: Counts,
    /// Calls that the ignore list kept out of the log.
    pub ignored: Counts,
    /// Losses, as reported while it watched, and at the end of runs.
    pub loss: Ledger,
    pub loss_at_end: Ledger,
    pub attempts: u64,
    /// Lines that may have been records of this host and could not be read.
    pub unreadable: u64,
    /// By what [`Host::caller`] tells callers apart by.
    pub callers: HashMap<Box<[u8]>, Caller, RandomState>,
    /// Calls of callers for whom there was no room.
    pub others: Counts,
}

/// The instance, as far as its records name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cloud {
    pub account: Last<Box<str>>,
    pub region: Last<Box<str>>,
    pub instance: Last<Box<str>>,
    pub machine: Last<Box<str>>,
    pub image: Last<Box<str>>,
}

impl Fold {
    /// Adds a record, if `filter` lets it pass.
    pub fn add(&mut self, brief: &Brief<'_>, filter: &Filter) {
        let time = micros(brief.timestamp.time());
        if !filter.matches(brief, time) {
            return;
        }
        self.records += 1;
        let Word::Known(action) = brief.event.action else {
            self.unknown_kinds += 1;
            return;
        };
        let Some(host) = host(&mut self.hosts, brief, time) else {
            self.beyond += 1;
            return;
        };
        host.watched.at(time);
        let mut counted = Counts::default();
        match action {
            Action::Request => {
                let call = Call::from(brief);
                if !call.relay {
                    host.request(&mut self.key, brief, call, time);
                    if !call.local {
                        counted.add(call.version);
                    }
                }
            }
            Action::RateLimited => counted = host.rate_limited(&mut self.key, brief, time),
            Action::Attempt => host.attempt(&mut self.key, brief, time),
            Action::Start => {
                if let Some(attached) = brief.imds.attached {
                    let uptime = brief
                        .host
                        .uptime
                        .unwrap_or(u64::MAX)
                        .saturating_mul(super::watched::SECOND);
                    let boot = brief.host.boot.as_ref().map(|boot| boot.id.as_str());
                    host.watched.began(micros(attached.time()), uptime, boot);
                }
            }
            Action::Watching => host.ignored.merge(brief.imds.ignored.unwrap_or_default()),
            Action::Loss => brief.imds.loss.iter().for_each(|loss| host.loss.merge(loss)),
            Action::Summary => {
                host.watched.ended(time);
                brief.imds.loss.iter().for_each(|loss| host.loss_at_end.merge(loss));
            }
            // The calls have records of their own.
            Action::FirstSeen | Action::Rehearsal => {}
        }
        if !counted.is_empty() {
            let hour = u32::try_from(time / super::watched::HOUR).unwrap_or(u32::MAX);
            self.add_hour(hour, counted);
        }
    }

    /// A line in the log of host `key` could not be read.
    pub fn unreadable(&mut self, key: &str) {
        if let Some(host) = self.hosts.get_mut(key) {
            host.unreadable += 1;
        }
    }

    /// Made-up times are left out of the calls over time, and counted everywhere else.
    fn add_hour(&mut self, hour: u32, counts: Counts) {
        if self.hours.len() < HOURS_MAX || self.hours.contains_key(&hour) {
            self.hours.entry(hour).or_default().merge(counts);
        }
    }

    pub fn merge(&mut self, other: Self) {
        for (key, host) in other.hosts {
            let has_room = self.hosts.len() < HOSTS_MAX;
            match self.hosts.get_mut(&key) {
                Some(known) => known.merge(host),
                None if has_room => {
                    self.hosts.insert(key, host);
                }
                None => self.beyond += host.total.sum().max(1),
            }
        }
        for (hour, counts) in other.hours {
            self.add_hour(hour, counts);
        }
        self.beyond += other.beyond;
        self.records += other.records;
        self.unknown_kinds += other.unknown_kinds;
    }

    /// Joins records from before the instance's id was known with those of the instance, if only one has that name.
    pub fn join_names(&mut self) {
        let mut by_name: HashMap<Box<str>, Vec<Box<str>>> = HashMap::new();
        for (key, host) in &self.hosts {
            if let (Some(name), Some(_)) = (&host.name.value, &host.cloud.instance.value) {
                by_name.entry(name.clone()).or_default().push(key.clone());
            }
        }
        for (name, keys) in by_name {
            if let [key] = keys.as_slice()
                && *key != name
                && self
                    .hosts
                    .get(&name)
                    .is_some_and(|host| host.cloud.instance.value.is_none())
                && let Some(nameless) = self.hosts.remove(&name)
                && let Some(host) = self.hosts.get_mut(key)
            {
                host.merge(nameless);
            }
        }
    }
}

fn host<'a>(
    hosts: &'a mut HashMap<Box<str>, Host, RandomState>,
    brief: &Brief<'_>,
    time: Time,
) -> Option<&'a mut Host> {
    let key = brief.host_key();
    if !hosts.contains_key(key) {
        if hosts.len() >= HOSTS_MAX {
            return None;
        }
        hosts.insert(key.into(), Host::default());
    }
    let host = hosts.get_mut(key)?;
    host.name.at(time, cut(&brief.host.name));
    host.cloud.at(time, brief);
    Some(host)
}

impl Cloud {
    fn at(&mut self, time: Time, brief: &Brief<'_>) {
        let set = |last: &mut Last<Box<str>>, text: Option<&str>| {
            text.into_iter().for_each(|text| last.at(time, cut(text)));
        };
        set(&mut self.image, brief.host.image.as_ref().map(|it| it.id.as_str()));
        let Some(cloud) = &brief.cloud else { return };
        set(&mut self.account, cloud.account.as_ref().map(|it| it.id.as_str()));
        set(&mut self.region, cloud.region.as_deref());
        set(&mut self.instance, cloud.instance.as_ref().map(|it| it.id.as_str()));
        set(&mut self.machine, cloud.machine.as_ref().map(|it| it.r#type.as_str()));
    }

    fn merge(&mut self, other: Self) {
        let Self {
            account,
            region,
            instance,
            machine,
            image,
        } = other;
        self.account.merge(account);
        self.region.merge(region);
        self.instance.merge(instance);
        self.machine.merge(machine);
        self.image.merge(image);
    }
}

impl Host {
    fn request(&mut self, key: &mut Vec<u8>, brief: &Brief<'_>, call: Call<'_>, time: Time) {
        let (total, answers) = if call.local {
            (&mut self.local, &mut Answers::default())
        } else {
            (&mut self.total, &mut self.answers)
        };
        total.add(call.version);
        if call.version == Version::V1 {
            answers.add(call.answer, call.status);
        }
        match self.caller(key, call.who, call.local) {
            Some(caller) => caller.request(brief, call, time),
            None if !call.local => self.others.add(call.version),
            None => {}
        }
    }

    /// Returns how many calls were counted.
    fn rate_limited(&mut self, key: &mut Vec<u8>, brief: &Brief<'_>, time: Time) -> Counts {
        let local = brief.imds.local_calls;
        let counts = brief.imds.calls.unwrap_or_default().less(local);
        self.total.merge(counts);
        self.local.merge(local);
        let mut answers = brief.imds.v1_answers;
        // The first records of this kind do not say what came back.
        answers.unseen += counts.v1.saturating_sub(answers.sum());
        self.answers.merge(answers);
        if !local.is_empty()
            && let Some(caller) = self.caller(key, brief.who(), true)
        {
            caller.rate_limited(brief, local, Answers::default(), time);
        }
        if !counts.is_empty() {
            match self.caller(key, brief.who(), false) {
                Some(caller) => {
                    caller.classes.add(PathClass::Credential, brief.imds.credential_calls);
                    caller.rate_limited(brief, counts, answers, time);
                }
                None => self.others.merge(counts),
            }
        }
        counts
    }

    fn attempt(&mut self, key: &mut Vec<u8>, brief: &Brief<'_>, time: Time) {
        self.attempts += 1;
        if let Some(outcome) = brief.imds.attempt.as_ref().and_then(Word::known)
            && let Some(caller) = self.caller(key, brief.who(), brief.imds.local)
        {
            caller.attempts.add(outcome, 1);
            widen(&mut caller.span, time);
            caller.last.at(time, Example::of(brief));
        }
    }

    /// The caller `who`; `None` if there is no room.
    fn caller(&mut self, key: &mut Vec<u8>, who: Option<Who<'_>>, local: bool) -> Option<&mut Caller> {
        key.clear();
        key.push(local.into());
        if let Some(who) = who {
            // At the end, as it may have any length.
            key.push(who.user_id.is_some().into());
            key.extend(who.user_id.unwrap_or_default().to_ne_bytes());
            key.extend(who.key.as_bytes());
        }
        if !self.callers.contains_key(key.as_slice()) {
            if self.callers.len() >= CALLERS_MAX {
                return None;
            }
            let caller = Caller {
                key: who.map(|who| cut(who.key).into()),
                user_id: who.and_then(|who| who.user_id),
                local,
                ..Caller::default()
            };
            self.callers.insert(key.as_slice().into(), caller);
        }
        let caller = self.callers.get_mut(key.as_slice())?;
        who.into_iter().for_each(|who| caller.placed(who));
        Some(caller)
    }

    fn merge(&mut self, other: Self) {
        self.name.merge(other.name);
        self.cloud.merge(other.cloud);
        self.watched.merge(other.watched);
        self.total.merge(other.total);
        self.answers.merge(other.answers);
        self.local.merge(other.local);
        self.ignored.merge(other.ignored);
        self.loss.merge(&other.loss);
        self.loss_at_end.merge(&other.loss_at_end);
        self.attempts += other.attempts;
        self.unreadable += other.unreadable;
        self.others.merge(other.others);
        for (key, caller) in other.callers {
            let has_room = self.callers.len() < CALLERS_MAX;
            match self.callers.get_mut(&key) {
                Some(known) => known.merge(caller),
                None if has_room => {
                    self.callers.insert(key, caller);
                }
                None if !caller.local => self.others.merge(caller.counts),
                None => {}
            }
        }
    }

    /// What was lost: the reports of runs, or what runs said at their ends, whichever is more.
    pub fn lost(&self) -> Ledger {
        self.loss.most(&self.loss_at_end)
    }
}

/// A time before the epoch is the epoch.
pub fn micros(time: SystemTime) -> Time {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}
