//! What happens on a host, and its log.

mod events;

use std::path::Path;

use anyhow::Result;

use self::events::{Event, Run, What};
use super::{
    Plan,
    callers::{Role, Spec, Step, Way, class},
    clock::{self, BEGIN, DAY},
    files::Log,
    host::Host,
    lines::{self, Folded},
    random::Random,
    template::{Template, Values},
    truth::{self, Answers, Counts},
};

/// How much of time a file has.
const ROTATE_AFTER: u64 = 2 * DAY;

/// Writes the log of the host with this number, and returns the truth about it.
pub(super) fn write(plan: Plan, index: usize, logs: &Path) -> Result<truth::Host> {
    let mut random = Random::new(plan.seed, index as u64);
    let host = Host::new(index, &mut random);
    let runs = events::runs(plan, index, host.kind, &mut random);
    let events = events::events(plan, index, &host, &runs, &mut random);
    let mut writer = Writer {
        log: Log::new(logs.join(&host.name), plan.gzip)?,
        truth: truth::Host::new(&host, runs.iter().any(|run| run.saw_boot)),
        steps: host.callers.iter().map(|spec| templates(&host, spec)).collect(),
        was_seen: vec![false; host.callers.len()],
        since_watching: Counts::default(),
        time: 0,
        host: &host,
        random,
    };
    let mut file = BEGIN / ROTATE_AFTER;
    let mut run = None;
    for event in events {
        if event.time / ROTATE_AFTER > file {
            file = event.time / ROTATE_AFTER;
            if let Some(run) = run {
                writer.log.rotate()?;
                writer.start(event.time, run);
            }
        }
        if let What::Start(number) = event.what {
            run = runs.get(number);
        }
        writer.event(&event, run);
    }
    writer.log.end()?;
    writer.truth.bytes = writer.log.bytes;
    Ok(writer.truth)
}

fn templates(host: &Host, spec: &Spec) -> Vec<Template> {
    let steps = spec.steps.iter();
    steps
        .map(|step| Template::new(&lines::request(host, spec, *step)))
        .collect()
}

struct Writer<'a> {
    host: &'a Host,
    log: Log,
    truth: truth::Host,
    /// The lines of each caller's steps.
    steps: Vec<Vec<Template>>,
    /// The callers whose first v1 call has a record.
    was_seen: Vec<bool>,
    since_watching: Counts,
    /// Of the last record.
    time: u64,
    random: Random,
}

impl Writer<'_> {
    /// No two records have the same time.
    fn values(&mut self, time: u64, pid: u64) -> Values {
        self.time = time.max(self.time + 1);
        self.truth.record(self.time);
        Values {
            time: self.time,
            pid,
            noise: self.random.next(),
        }
    }

    fn line(&mut self, text: &str, time: u64, pid: u64) {
        let values = self.values(time, pid);
        Template::new(text).write(&mut self.log.lines, values);
    }

    fn start(&mut self, time: u64, run: &Run) {
        let text = lines::start(self.host, run.attached, run.uptime, run.boot);
        self.line(&text, time, 0);
    }

    fn event(&mut self, event: &Event, run: Option<&Run>) {
        match event.what {
            What::Start(_) => run.into_iter().for_each(|run| self.start(event.time, run)),
            What::Watching { ignored } => {
                let ignored = Counts {
                    v1: ignored,
                    ..Counts::default()
                };
                self.truth.ignored += ignored.v1;
                self.since_watching.add(ignored);
                let text = lines::watching(self.host, std::mem::take(&mut self.since_watching), ignored);
                self.line(&text, event.time, 0);
            }
            What::Step { caller, step } => self.step(event, caller, step),
            What::Attempt { caller } => {
                self.truth.attempts += 1;
                if let Some(spec) = self.host.callers.get(caller) {
                    let text = lines::attempt(self.host, spec);
                    self.line(&text, event.time, event.pid);
                }
            }
            What::Loss { kind, count } => {
                self.truth.lost += if kind == "spare_state" { 0 } else { count };
                let text = lines::loss(self.host, kind, count);
                self.line(&text, event.time, 0);
            }
            What::Summary => {
                let text = lines::summary(self.host, Counts::default(), Counts::default(), self.truth.lost);
                self.line(&text, event.time, 0);
            }
            What::RateLimited {
                caller,
                times,
                has_local,
                has_answers,
            } => {
                let spec = caller.and_then(|caller| self.host.callers.get(caller).copied());
                self.rate_limited(event.time, spec, times, has_local, has_answers);
            }
        }
    }

    fn step(&mut self, event: &Event, caller: usize, number: usize) {
        let Some(&spec) = self.host.callers.get(caller) else {
            return;
        };
        let Some(&step) = spec.steps.get(number) else { return };
        let (calls, answers) = counted(step, 1);
        if calls.v1 > 0
            && spec.way == Way::Real
            && let Some(was_seen) = self.was_seen.get_mut(caller)
            && !std::mem::replace(was_seen, true)
        {
            let path = path(step).unwrap_or_default();
            let text = lines::first_seen(self.host, spec, path);
            self.line(&text, event.time, event.pid);
        }
        let values = self.values(event.time, event.pid);
        if let Some(template) = self.steps.get(caller).and_then(|steps| steps.get(number)) {
            template.write(&mut self.log.lines, values);
        }
        if spec.way != Way::Local && spec.way != Way::Relay {
            self.since_watching.add(calls);
        }
        let unanswered = u64::from(matches!(step, Step::TokenUnanswered));
        self.count(spec, calls, answers, unanswered);
    }

    fn count(&mut self, spec: &Spec, calls: Counts, answers: Answers, unanswered: u64) {
        let key = match spec.way {
            Way::Relay => return,
            Way::Nobody => (false, None, None),
            Way::Real | Way::Local => (spec.way == Way::Local, Some(spec.caller), Some(spec.user.id())),
        };
        let user = spec.user.name(self.host.login).filter(|_| key.1.is_some());
        self.truth.calls(key, user, calls, answers, unanswered, self.time);
    }

    fn rate_limited(&mut self, time: u64, spec: Option<&Spec>, times: u64, has_local: bool, has_answers: bool) {
        let mut folded = Folded {
            calls: Counts::default(),
            local: Counts::default(),
            answers: Some(Answers::default()),
            credential: 0,
            since: time - 9 * clock::MINUTE,
            until: time - clock::SECOND,
        };
        let mut answers = Answers::default();
        match spec {
            Some(spec) => {
                for step in spec.steps {
                    let (calls, of_step) = counted(*step, times);
                    folded.calls.add(calls);
                    answers.add(of_step);
                    let is_credential = path(*step).is_some_and(|path| class(path) == "credential");
                    folded.credential += if is_credential { times } else { 0 };
                }
            }
            None => folded.calls.v2 = times,
        }
        let calls = folded.calls;
        if has_local && spec.is_some() {
            folded.local = Counts {
                v1: times / 10 + 1,
                v2: times / 7,
                ..Counts::default()
            };
            folded.calls.add(folded.local);
        }
        folded.answers = Some(answers).filter(|_| has_answers);
        if !has_answers {
            answers = Answers {
                unseen: calls.v1,
                ..Answers::default()
            };
        }
        let text = lines::rate_limited(self.host, spec, &folded);
        self.line(&text, time, 0);
        self.since_watching.add(calls);
        match spec {
            Some(spec) => {
                self.count(spec, calls, answers, 0);
                if folded.local.v1 > 0 {
                    let user = spec.user.name(self.host.login);
                    let key = (true, Some(spec.caller), Some(spec.user.id()));
                    self.truth
                        .calls(key, user, folded.local, Answers::default(), 0, self.time);
                }
            }
            None => self
                .truth
                .calls((false, None, None), None, calls, answers, 0, self.time),
        }
    }
}

/// What `times` such requests count as.
fn counted(step: Step, times: u64) -> (Counts, Answers) {
    let (mut calls, mut answers) = (Counts::default(), Answers::default());
    let count = match step {
        Step::Token | Step::TokenUnanswered | Step::V2(_) => &mut calls.v2,
        Step::V1(_) | Step::V1Rejected(_) | Step::V1Failed(_) | Step::V1Unseen(_) => &mut calls.v1,
        Step::Other(_) => &mut calls.other,
        Step::Unknown(_) => &mut calls.unknown,
    };
    *count = times;
    match step {
        Step::V1(_) => answers.succeeded = times,
        Step::V1Rejected(_) => answers.rejected = times,
        Step::V1Failed(_) => answers.failed = times,
        Step::V1Unseen(_) => answers.unseen = times,
        _ => {}
    }
    (calls, answers)
}

fn path(step: Step) -> Option<&'static str> {
    match step {
        Step::V2(path) | Step::V1(path) | Step::V1Rejected(path) | Step::V1Failed(path) | Step::V1Unseen(path) => {
            Some(path)
        }
        _ => None,
    }
}

/// True for callers that run only while the host starts.
fn is_at_boot(spec: &Spec) -> bool {
    matches!(spec.role, Role::Boot | Role::V1Boot)
}
