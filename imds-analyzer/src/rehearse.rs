//! A rehearsal: on this host, for chosen callers, for a limited time, v1 calls get the answer that they would get if
//! tokens were required.
//!
//! The kernel side decides, as the last byte of a head is about to leave, and keeps the packet back. User space answers
//! in place of IMDS with one packet, and ends the connection when the caller has closed it. Everything ends by itself:
//! the programs with the process, a call that is kept back with the promise to answer, which is renewed while this
//! process runs ([`LEASE`]), and the whole with a time that the kernel side knows.
//!
//! `selectors` choose callers, `kept` follows the calls that are kept back, `answer` makes packets, `raw` sends them,
//! `follow` tells what became of the callers, `proof` tries all of it before it starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use imds_analyzer_ebpf::abi::{
    Loss,
    rehearsal::{self, Choice, Passed, Refusal, RefusalNews, choice, namespace},
};
use tokio::sync::Notify;

use self::{
    kept::{Kept, Packet},
    places::Places,
    raw::Namespaces,
};
use crate::{
    event::Process,
    host::{
        clock::{self, nanoseconds},
        proc::{self, Directory},
    },
    kernel::load::Choices,
    loss::{Kind, Ledger},
    session::{Session, Tick},
    sink::Sink,
};

pub mod answer;
pub mod follow;
mod kept;
mod places;
mod proof;
mod raw;
pub mod selectors;
mod summary;
mod watch;

pub use self::{selectors::Selectors, summary::text, watch::Watch};

/// How long the kernel side keeps calls back without a sign of this process.
const LEASE: Duration = Duration::from_secs(1);
/// How often this process gives a sign, and looks for new cgroups and for losses.
const SIGN: Duration = Duration::from_millis(250);

/// Records whose loss ends a rehearsal: without them nobody knows what it does.
const LOSSES: [Kind; 6] = [
    Kind::Kernel(Loss::RequestRing),
    Kind::Kernel(Loss::OwnerRing),
    Kind::Kernel(Loss::PendingRing),
    Kind::Kernel(Loss::AnswerRing),
    Kind::Kernel(Loss::RefusalRing),
    Kind::Kernel(Loss::SocketState),
];

/// The settings for the kernel side.
pub fn kernel_settings(end: u64, percent: u32, all: bool, dry_run: bool) -> rehearsal::Rehearsal {
    rehearsal::Rehearsal {
        end,
        percent,
        all: all.into(),
        dry: dry_run.into(),
        reserved: 0,
    }
}

/// A rehearsal that is prepared or runs.
pub struct Rehearsal {
    choices: Choices,
    selectors: Selectors,
    namespaces: Namespaces,
    places: Option<Places>,
    kept: Kept,
    /// When the next sign is due, in ns since boot; `None` once it has ended.
    sign: Option<u64>,
    /// When it ends: no promise reaches further.
    end: u64,
    let_through: BTreeMap<Passed, u64>,
    losses: Ledger,
    ended_early: Option<String>,
    ended: Arc<Notify>,
}

impl Rehearsal {
    /// Prepares a rehearsal with the map of its programs. Refuses nothing yet.
    pub fn new(choices: Choices, selectors: Selectors) -> Self {
        let places = if selectors.have_places() {
            Places::of_this_host()
        } else {
            None
        };
        Self {
            choices,
            selectors,
            namespaces: Namespaces::default(),
            places,
            kept: Kept::default(),
            sign: None,
            end: u64::MAX,
            let_through: BTreeMap::new(),
            losses: Ledger::default(),
            ended_early: None,
            ended: Arc::new(Notify::new()),
        }
    }

    /// Chooses and spares callers, and begins to refuse calls until `end`, in ns since boot. Returns the processes that
    /// are chosen now.
    pub fn choose<S: Sink>(&mut self, session: &mut Session<Watch<S>>, end: u64) -> anyhow::Result<Vec<Arc<Process>>> {
        self.end = end;
        for (key, value) in self.selectors.keys() {
            self.set(key, value)?;
        }
        let mut chosen = Vec::new();
        for pid in proc::pids().context("cannot read /proc")?.flatten() {
            let Some(process) = session.process_of(pid) else {
                continue;
            };
            if self.selectors.names(&process) {
                let start = Directory::open(pid).and_then(|it| it.stat()).map(|stat| stat.start);
                if let Ok(start) = start {
                    self.set(Choice::process(pid, clock::from_ticks(start)), choice::CHOSEN)?;
                }
            }
            if self.selectors.choose(&process) {
                chosen.push(process);
            }
        }
        self.look_around()?;
        // Looking at every process may have taken longer than the last promise lasts.
        self.give_sign()?;
        self.set(Choice::BEGUN, 1)?;
        session.sink().begin(SystemTime::now());
        Ok(chosen)
    }

    /// Looks for cgroups that were created since.
    fn look_around(&mut self) -> anyhow::Result<()> {
        let new = self.places.as_mut().map(|places| places.new_of(&self.selectors));
        for cgroup in new.into_iter().flatten() {
            self.set(Choice::cgroup(cgroup), choice::CHOSEN)?;
        }
        Ok(())
    }

    fn set(&mut self, key: Choice, value: u64) -> anyhow::Result<()> {
        let key: [u64; 3] = zerocopy::transmute!(key);
        self.choices
            .insert(key, value, 0)
            .context("cannot choose callers: the map of the kernel side is full")
    }

    /// Promises to answer from now on.
    pub fn begin<S: Sink>(&mut self, session: &Session<S>) -> anyhow::Result<()> {
        self.losses = session.loss();
        self.give_sign()
    }

    fn give_sign(&mut self) -> anyhow::Result<()> {
        let now = clock::since_boot();
        self.sign = Some(now.saturating_add(nanoseconds(SIGN)));
        self.set(Choice::LEASE, now.saturating_add(nanoseconds(LEASE)).min(self.end))
    }

    /// Ends it: from here on nothing is kept back, and calls that were are finished or let out.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.sign = None;
        let ended = self.set(Choice::LEASE, 0);
        self.act(Kept::finish);
        ended
    }

    /// Is notified when it ends by itself.
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// Why it ended by itself.
    pub fn ended_early(&self) -> Option<&str> {
        self.ended_early.as_deref()
    }

    /// The v1 calls of chosen callers that were let through, by reason.
    pub fn let_through(&self) -> BTreeMap<String, u64> {
        self.let_through
            .iter()
            .map(|(reason, count)| (reason.as_str().to_owned(), *count))
            .collect()
    }

    /// Ends it because it cannot go on.
    fn give_up(&mut self, why: String) {
        if self.ended_early.is_none() && self.sign.is_some() {
            self.ended_early = Some(why);
            self.ended.notify_one();
        }
        if let Err(error) = self.end() {
            tracing::warn!("{error:#}");
        }
    }

    /// Sends the packets that `step` asks for.
    fn act(&mut self, step: impl FnOnce(&mut Kept, &mut Vec<Packet>)) {
        let mut packets = Vec::new();
        step(&mut self.kept, &mut packets);
        for packet in packets {
            match self.namespaces.send(packet.net_ns, packet.to, &packet.bytes) {
                Ok(()) => {}
                Err(error) if packet.is_answer => {
                    self.give_up(format!("cannot answer a call in its network namespace: {error}"));
                    return;
                }
                Err(error) => tracing::warn!("cannot end a refused connection: {error}"),
            }
        }
    }

    fn refusal(&mut self, refusal: &Refusal) {
        if refusal.news == RefusalNews::Passed as u8 {
            if let Some(reason) = Passed::from_raw(refusal.passed) {
                *self.let_through.entry(reason).or_default() += 1;
            }
            return;
        }
        let is_new = [RefusalNews::Refused as u8, RefusalNews::Queued as u8].contains(&refusal.news);
        if is_new && let Err(error) = self.namespaces.find(refusal.net_ns, refusal.tgid) {
            tracing::warn!("cannot answer in a network namespace, so its calls pass: {error}");
            self.let_go(refusal);
            return;
        }
        let now = clock::since_boot();
        self.act(|kept, out| kept.news(now, refusal, out));
    }

    /// Has the kernel side let a call through, and all further ones in its namespace.
    fn let_go(&mut self, refusal: &Refusal) {
        *self.let_through.entry(Passed::Namespace).or_default() += 1;
        let done = self
            .set(Choice::freed(refusal.cookie), 1)
            .and_then(|()| self.set(Choice::namespace(refusal.net_ns), namespace::UNANSWERABLE));
        if let Err(error) = done {
            self.give_up(format!("{error:#}"));
        }
    }

    /// Looks after everything that is not an answer.
    fn sign_of_life<S: Sink>(&mut self, session: &mut Session<Watch<S>>) {
        let loss = session.loss().since(&self.losses);
        let lost: Ledger = LOSSES.into_iter().map(|kind| (kind, loss.of(kind))).collect();
        let mut unanswered = session.sink().follow.take_unanswered();
        // A caller that has closed its connection is not waiting for an answer.
        unanswered.retain(|caller| !self.kept.was_closed(*caller));
        let done = if !lost.is_empty() {
            Err(anyhow::anyhow!("records were lost: {lost}"))
        } else if !unanswered.is_empty() {
            Err(anyhow::anyhow!("a call was kept back and its answer did not arrive"))
        } else {
            self.look_around().and_then(|()| self.give_sign())
        };
        if let Err(error) = done {
            self.give_up(format!("{error:#}"));
        }
    }
}

impl<S: Sink> Tick<Session<Watch<S>>> for Rehearsal {
    /// True if a cgroup was created.
    type Due = bool;

    fn handled(&mut self, session: &mut Session<Watch<S>>) {
        let news = session.take_news();
        // Answers first: their callers wait.
        for refusal in &news.refusals {
            self.refusal(refusal);
        }
        let mut seen = BTreeSet::new();
        for task in news.announced {
            if !seen.insert((task.tgid, task.start)) {
                continue;
            }
            let named = session
                .process(&task)
                .is_some_and(|process| self.selectors.names(&process));
            if named && let Err(error) = self.set(Choice::process(task.tgid, task.start), choice::CHOSEN) {
                self.give_up(format!("{error:#}"));
            }
        }
    }

    async fn due(&mut self) -> bool {
        let next = [self.sign, self.kept.next_deadline()].into_iter().flatten().min();
        let left = next.map(|next| next.saturating_sub(clock::since_boot()));
        let places = self.places.as_mut();
        tokio::select! {
            // What is overdue comes first, and waits for nothing.
            biased;
            () = after(left) => false,
            () = created(places) => true,
        }
    }

    fn tick(&mut self, is_cgroup_new: bool, session: &mut Session<Watch<S>>) -> io::Result<()> {
        let now = clock::since_boot();
        self.act(|kept, out| kept.expire(now, out));
        if self.sign.is_some_and(|sign| sign <= now) {
            self.sign_of_life(session);
        } else if is_cgroup_new
            && self.sign.is_some()
            && let Err(error) = self.look_around()
        {
            self.give_up(format!("{error:#}"));
        }
        session.sink().look(SystemTime::now());
        Ok(())
    }
}

/// Waits for so many ns; for ever, if there is no number.
async fn after(left: Option<u64>) {
    match left {
        // Even a sleep of no time waits for the timer, which records that come without pause never let happen.
        Some(0) => {}
        Some(left) => tokio::time::sleep(Duration::from_nanos(left)).await,
        None => std::future::pending().await,
    }
}

async fn created(places: Option<&mut Places>) {
    match places {
        Some(places) => places.created().await,
        None => std::future::pending().await,
    }
}

/// Where the lock of rehearsals is: like the daemon's, whose configuration may name another place, but one for the whole
/// host.
pub fn lock_directory() -> PathBuf {
    "/run/imds-analyzer".into()
}
