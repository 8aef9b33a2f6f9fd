//! Starts a session from its options.

use std::{io, mem, num::NonZeroU64, time::SystemTime};

use imds_analyzer_ebpf::abi::program;

use super::{News, Outlet, Session};
use crate::{
    event::Tap,
    host::clock::Now,
    join::{Host, Join},
    judge::Remedies,
    kernel::{
        diagnostics::Diagnostics,
        features::Features,
        load::{self, Hook, Loaded},
        plan::{self, Impossible, Plan, Wanted},
        stream::Stream,
    },
    legacy::{LegacyTap, Lineage},
    loss::Ledger,
    notice::{self, Notice, Run},
    process::{Resolver, ResolverSettings},
    secrets::ArgsMode,
    settings::{FailOn, Filter},
    sink::Sink,
};

/// Number of processes remembered: about 5 KiB each, with the chain.
const PROCESSES: usize = 2048;

/// What a session watches and does.
pub struct Options<S> {
    pub wanted: Wanted,
    pub args: ArgsMode,
    /// Ask the name service for users that `/etc/passwd` does not have.
    pub name_service: bool,
    pub remedies: Remedies,
    pub filter: Filter,
    pub fail_on: FailOn,
    pub count: Option<NonZeroU64>,
    /// Write no requests, only count them.
    pub quiet: bool,
    pub sink: S,
}

/// Why a session cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The probes or the plan ruled it out before anything was loaded.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// The kernel rejected a program or a hook.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl<S: Sink> Session<S> {
    /// Probes, plans, loads and attaches. Must be called inside a tokio runtime.
    pub fn start(mut options: Options<S>) -> Result<Self, StartError> {
        let features = Features::probe();
        let plan = plan::plan(&features, options.wanted)?;
        let mut loaded = load::load(&plan).map_err(StartError::Refused)?;
        let stream = Stream::new(loaded.take_buffers().map_err(StartError::Refused)?)?;
        let resolver = Resolver::new(ResolverSettings {
            args: options.args,
            name_service: options.name_service,
            capacity: PROCESSES,
        });
        let mut join = Join::new(Host::new(resolver), loaded.answers, mem::take(&mut options.remedies));
        join.lookup_mut().find_older_sockets(Now::read());
        let mut outlet = Outlet::new(options);
        let hooks = notice_hooks(&loaded, &plan);
        let hooks: Vec<_> = hooks
            .iter()
            .map(|(name, attached, reason)| notice::Hook {
                name,
                attached: *attached,
                reason,
            })
            .collect();
        outlet.sink.notice(
            SystemTime::now(),
            &Notice::Start {
                kernel: &features.kernel,
                hooks: &hooks,
                run: &Run::begin(),
            },
        )?;
        outlet.sink.flush()?;
        let diagnostics = Diagnostics::of(&mut loaded);
        let packets = loaded.tap == Tap::Wire;
        let news = loaded.choice.is_some().then(News::default);
        Ok(Self {
            stream,
            more: false,
            send: LegacyTap::new(
                loaded.follows_processes.then(Lineage::of_this_host),
                packets,
                loaded.answers,
            ),
            loaded,
            join,
            outlet,
            reported_loss: Ledger::default(),
            lost: Ledger::default(),
            news,
            diagnostics,
        })
    }
}

/// For each hook: its name, true if attached, and the reason.
fn notice_hooks(loaded: &Loaded, plan: &Plan) -> Vec<(&'static str, bool, String)> {
    let reason = |hook: &Hook| match &hook.error {
        Some(error) => error.clone(),
        None if [program::EGRESS, program::REHEARSE_EGRESS].contains(&hook.program) => {
            plan.reasons.first().cloned().unwrap_or_default()
        }
        None if load::is_sender(hook.program) => "the sender's own context".to_owned(),
        None => "used on every kernel that supports it".to_owned(),
    };
    loaded
        .hooks
        .iter()
        .map(|hook| (hook.program, hook.error.is_none(), reason(hook)))
        .collect()
}
