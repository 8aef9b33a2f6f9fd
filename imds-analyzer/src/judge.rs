//! Judges a call: why it had no token, which client made it, what to change, and its risks.
//!
//! Combines the facts of one record with the earlier calls of the same caller into a [`Judgement`]. Nothing here waits,
//! and all memory is bounded.

mod cause;
mod client;
mod history;
mod look;
pub mod remedy;
mod risk;
mod version;

use std::num::NonZeroUsize;

use imds_analyzer_ebpf::{
    abi::Task,
    classify::{Verdict, facts},
};
use lru::LruCache;

pub use self::remedy::Remedies;
use self::{
    history::{History, Who},
    look::{Found, Looks},
};
use crate::event::{Cause, Client, ClientSource, Event, Judgement};

/// Judges calls and remembers what later judgements need.
#[derive(Debug)]
pub struct Judge {
    history: History,
    remedies: Remedies,
    /// Clients by User-Agent.
    clients: LruCache<String, Option<Client>>,
    looks: Looks,
    /// Time of the first call, in nanoseconds since boot.
    since: Option<u64>,
}

/// Maximum number of User-Agents remembered.
const USER_AGENTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Facts of a call that are kept until its record is written.
#[derive(Clone, Debug)]
pub struct Noted {
    who: Option<Who>,
    found: Found,
    /// The ticket of the call, if it asks for a token.
    token_request: Option<u64>,
    has_foreign_header: bool,
    is_new: bool,
}

impl Judge {
    pub fn new(remedies: Remedies) -> Self {
        Self {
            history: History::new(),
            remedies,
            clients: LruCache::new(USER_AGENTS),
            looks: Looks::new(),
            since: None,
        }
    }

    /// Takes a call that was just sent. `now` is in nanoseconds since boot.
    pub fn sent(&mut self, event: &Event, task: &Task, facts: u16, now: u64) -> Noted {
        let who = self.history.who(event, task);
        let is_token_request = matches!(event.verdict, Verdict::V2TokenRequest | Verdict::InvalidTokenRequest);
        self.since.get_or_insert(now);
        let user_agent = event.http.user_agent.as_deref();
        // Now, while the process still exists. The program matters for calls that somebody has to change.
        let mut found = if user_agent.is_none() || event.verdict == Verdict::V1 {
            self.look(event, who).unwrap_or_default()
        } else {
            Found::default()
        };
        // A library beside the caller need not be what calls: a User-Agent that is not known says that something else does.
        if let Some(user_agent) = user_agent {
            found.client = self.client(user_agent);
        }
        Noted {
            who,
            found,
            token_request: who.filter(|_| is_token_request).map(|who| self.history.asked(who, now)),
            has_foreign_header: facts & facts::FOREIGN_HEADER != 0,
            is_new: who.is_some_and(|who| self.history.is_new(who, event)),
        }
    }

    /// Judges a call whose record is about to be written.
    pub fn judge(&mut self, event: &mut Event, noted: Noted, now: u64) {
        if let (Some(who), Some(ticket)) = (noted.who, noted.token_request) {
            self.history.answered(who, ticket, event.answer);
        }
        let asked = noted.who.and_then(|who| self.history.last_asked(who, now));
        let mut judgement = cause::of(event, asked, noted.who.is_some());
        if judgement.cause == Some(Cause::TokenUnanswered) {
            judgement.token_hop_limit = self.history.token_hop_limit();
        }
        judgement.client = noted.found.client;
        if self.contradicts(&judgement, noted.who) {
            judgement.client = None;
        }
        judgement.program = noted.found.program;
        judgement.risks = risk::of(event, noted.is_new, noted.has_foreign_header);
        judgement.remedy = self.remedies.find(event, &judgement);
        event.judgement = judgement;
    }

    /// True if a library that was found in files knows tokens, and its process asked for none from its start on: then
    /// something else in the process made the call.
    fn contradicts(&self, judgement: &Judgement, who: Option<Who>) -> bool {
        let (Some(client), Some(who), Some(since)) = (&judgement.client, who, self.since) else {
            return false;
        };
        client.source != ClientSource::UserAgent
            && who.process.1 > since
            && judgement.cause == Some(Cause::NoTokenRequest)
            && self.remedies.is_capable(client)
    }

    fn look(&mut self, event: &Event, who: Option<Who>) -> Option<Found> {
        let (who, process) = (who?, event.process.as_ref()?);
        Some(self.looks.find(who.caller, who.process.1, process))
    }

    fn client(&mut self, user_agent: &str) -> Option<Client> {
        if let Some(client) = self.clients.get(user_agent) {
            return client.clone();
        }
        let client = client::of_user_agent(user_agent);
        self.clients.put(user_agent.to_owned(), client.clone());
        client
    }
}

/// The name of the file at `path`.
fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
