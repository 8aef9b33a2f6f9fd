//! The events of a host, in order of time.

use super::{
    super::{
        Plan,
        callers::Way,
        clock::{BEGIN, DAY, HOUR, MINUTE, SECOND},
        host::{Host, Kind},
        random::Random,
    },
    is_at_boot,
};

/// Requests of one start of a caller, about.
const STEPS: u64 = 3;

/// From when the analyzer attached until it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) attached: u64,
    until: u64,
    /// The host's, in seconds, when the analyzer attached.
    pub(super) uptime: u64,
    pub(super) boot: u64,
    /// The analyzer was there when the host started.
    pub(super) saw_boot: bool,
    /// It ended with a summary.
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) time: u64,
    pub(super) pid: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The run with this number.
    Start(usize),
    Watching {
        ignored: u64,
    },
    Step {
        caller: usize,
        step: usize,
    },
    Attempt {
        caller: usize,
    },
    Loss {
        kind: &'static str,
        count: u64,
    },
    RateLimited {
        /// `None`: callers for whom the analyzer had no room.
        caller: Option<usize>,
        times: u64,
        has_local: bool,
        has_answers: bool,
    },
    Summary,
}

/// When the host was watched.
pub(super) fn runs(plan: Plan, index: usize, kind: Kind, random: &mut Random) -> Vec<Run> {
    let end = BEGIN + plan.days * DAY;
    let mut first = Run {
        attached: BEGIN + random.between(1, 5 * MINUTE),
        until: end,
        uptime: random.between(8, 120),
        boot: index as u64 * 16,
        saw_boot: true,
        ended: index.is_multiple_of(2),
    };
    match kind {
        Kind::NoBoot => {
            first.uptime = random.between(3 * DAY, 90 * DAY) / SECOND;
            first.saw_boot = false;
        }
        Kind::Short => {
            first.attached = end - random.between(12 * HOUR, plan.days.min(6) * DAY);
        }
        _ => {}
    }
    let middle = first.attached + (end - first.attached) / 2 + random.below(HOUR);
    // The boot goes on.
    let again = move |after: u64| Run {
        attached: after,
        until: end,
        uptime: first.uptime + (after - first.attached) / SECOND,
        saw_boot: false,
        ..first
    };
    let second = match kind {
        Kind::Gap => {
            first.ended = false;
            Some(again(middle + random.between(3 * HOUR, 10 * HOUR)))
        }
        Kind::Rebooted => {
            first.ended = true;
            Some(Run {
                uptime: random.between(8, 120),
                boot: first.boot + 1,
                saw_boot: true,
                ..again(middle + random.between(MINUTE * 10, 10 * HOUR))
            })
        }
        // An update.
        Kind::Ready if index.is_multiple_of(3) => {
            first.ended = true;
            Some(again(middle + 2 * SECOND))
        }
        _ => None,
    };
    match second {
        Some(second) => {
            first.until = middle;
            vec![first, second]
        }
        None => vec![first],
    }
}

pub(super) fn events(plan: Plan, index: usize, host: &Host, runs: &[Run], random: &mut Random) -> Vec<Event> {
    let mut events = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let what = What::Start(number);
        events.push(Event {
            time: run.attached,
            pid: 0,
            what,
        });
        let hours = (1..).map(|hour| run.attached + hour * HOUR);
        for (hour, time) in hours.take_while(|time| *time < run.until).enumerate() {
            let is_ignoring = host.kind == Kind::Ignored && hour.is_multiple_of(6);
            let ignored = if is_ignoring { random.between(1, 40) } else { 0 };
            let what = What::Watching { ignored };
            events.push(Event { time, pid: 0, what });
        }
        sessions(plan, host, run, random, &mut events);
        rate_limited(index, host, run, random, &mut events);
        if host.kind == Kind::Lossy || index.is_multiple_of(7) {
            let kind = if host.kind == Kind::Lossy {
                "request_ring_full"
            } else {
                "spare_state"
            };
            for _ in 0..2 {
                let count = random.between(1, 50);
                events.push(Event {
                    time: random.between(run.attached + 1, run.until),
                    pid: 0,
                    what: What::Loss { kind, count },
                });
            }
        }
        if run.ended {
            let what = What::Summary;
            events.push(Event {
                time: run.until,
                pid: 0,
                what,
            });
        }
    }
    // Stable: what follows from one session stays in order.
    events.sort_by_key(|event| event.time);
    events
}

/// Starts of callers, each with all its requests.
fn sessions(plan: Plan, host: &Host, run: &Run, random: &mut Random, events: &mut Vec<Event>) {
    let places = || host.callers.iter().enumerate();
    for (caller, _) in places().filter(|(_, spec)| run.saw_boot && is_at_boot(spec)) {
        let time = run.attached + random.between(SECOND, 40 * SECOND);
        session(host, caller, time, random, events);
    }
    let others: Vec<usize> = places()
        .filter(|(_, spec)| !is_at_boot(spec))
        .map(|(caller, _)| caller)
        .collect();
    let span = run.until - run.attached;
    let count = (plan.per_day * (span / MINUTE) / (DAY / MINUTE) / STEPS).max(others.len() as u64);
    for number in 0..count {
        // Each at least once.
        let place = if number < others.len() as u64 {
            number
        } else {
            random.below(others.len() as u64)
        };
        let Some(&caller) = others.get(place as usize) else {
            continue;
        };
        let time = random.between(run.attached + MINUTE, run.until - 2 * SECOND);
        session(host, caller, time, random, events);
        if number % 97 == 5 {
            attempt(host, caller, time + SECOND, events);
        }
    }
}

fn session(host: &Host, caller: usize, mut time: u64, random: &mut Random, events: &mut Vec<Event>) {
    let Some(spec) = host.callers.get(caller) else { return };
    let pid = if spec.is_resident() {
        700 + caller as u64
    } else {
        random.between(2000, 4_000_000)
    };
    for step in 0..spec.steps.len() {
        let what = What::Step { caller, step };
        events.push(Event { time, pid, what });
        time += random.between(600, 9000);
    }
}

fn attempt(host: &Host, caller: usize, time: u64, events: &mut Vec<Event>) {
    if host.callers.get(caller).is_some_and(|spec| spec.way == Way::Real) {
        let what = What::Attempt { caller };
        events.push(Event { time, pid: 699, what });
    }
}

/// On each third host, one caller is over its limit every now and then.
fn rate_limited(index: usize, host: &Host, run: &Run, random: &mut Random, events: &mut Vec<Event>) {
    if !index.is_multiple_of(3) {
        return;
    }
    let real = host.callers.iter().enumerate();
    let real: Vec<usize> = real
        .filter(|(_, spec)| spec.way == Way::Real && !is_at_boot(spec))
        .map(|(caller, _)| caller)
        .collect();
    let caller = if host.kind == Kind::Ready {
        real.get(random.below(real.len() as u64) as usize)
    } else {
        real.last()
    };
    let windows = (1..).map(|window| run.attached + window * 5 * HOUR + 17 * MINUTE);
    for (window, time) in windows.take_while(|time| *time < run.until).enumerate() {
        let nobody = index.is_multiple_of(4) && window % 8 == 3;
        events.push(Event {
            time,
            pid: 0,
            what: What::RateLimited {
                caller: caller.copied().filter(|_| !nobody),
                times: random.between(20, 500),
                has_local: index.is_multiple_of(2),
                has_answers: window % 3 != 2,
            },
        });
    }
}
