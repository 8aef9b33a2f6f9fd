//! The JSON records that `docs/events.md` specifies: ECS names where ECS has one. The same types are used for writing
//! and for reading.
//!
//! For writing, they borrow from the event, so that the record of a request allocates nothing. For reading, they borrow
//! from the line. A reader accepts lines of other versions: it skips unknown fields, keeps an unknown word as
//! [`Word::Other`], and keeps a record of an unknown kind as [`Body::Other`]. Fields that were added within this
//! version of the schema may be absent.

use std::time::SystemTime;

use serde::Serialize;

pub mod attempt;
pub mod brief;
pub mod envelope;
pub mod list;
pub mod noise;
pub mod notice;
pub mod process;
mod read;
pub mod request;
pub mod schema;
pub mod value;
mod who;
pub mod word;

pub(crate) use self::value::writable;
pub use self::{
    brief::{Brief, Memory, Reader},
    envelope::{Action, Envelope, Level},
    list::List,
    read::{LINE_MAX, Unreadable, read},
    value::Text,
    word::Word,
};
use crate::{event::Event, identity::Identity, notice::Notice};

/// The version of `imds.*`. It rises when a field changes its meaning or is removed.
pub const SCHEMA: u32 = 1;

/// One line of output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    #[serde(flatten)]
    pub body: Body<'a>,
}

/// What a record has beside its envelope, by `event.action`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "written as soon as it is made; a box would cost each request an allocation"
)]
pub enum Body<'a> {
    Request(request::Request<'a>),
    Attempt(attempt::Attempt<'a>),
    Start(notice::Start<'a>),
    Watching(notice::Watching<'a>),
    Loss(notice::Loss<'a>),
    FirstSeen(noise::FirstSeen<'a>),
    RateLimited(noise::RateLimited<'a>),
    Rehearsal(notice::Rehearsal<'a>),
    Summary(notice::Summary<'a>),
    /// Of a kind that a later version writes. Only read: most of its fields are not kept.
    Other(read::Other<'a>),
}

impl<'a> Record<'a> {
    /// `host` is the host that writes the record.
    pub fn of_request(event: &'a Event, host: &'a Identity) -> Self {
        Self {
            envelope: Envelope::of_request(event, host),
            body: Body::Request(request::Request::new(event, host)),
        }
    }

    /// Like [`Self::of_request`], for a notice.
    pub fn of_notice(time: SystemTime, notice: &Notice<'a>, host: &'a Identity) -> Self {
        Self {
            envelope: match notice {
                Notice::Attempt(attempt) => Envelope::of_attempt(attempt, host),
                notice => Envelope::of_notice(time, notice, host),
            },
            body: match notice {
                Notice::Attempt(attempt) => Body::Attempt(attempt::Attempt::new(attempt, host)),
                Notice::Start { kernel, hooks, run } => Body::Start(notice::Start::new(kernel, hooks, run, host)),
                Notice::Watching(watching) => Body::Watching(notice::Watching::new(**watching, host)),
                Notice::Loss(loss) => Body::Loss(notice::Loss::new(loss, host)),
                Notice::FirstSeen { event, first } => Body::FirstSeen(noise::FirstSeen::new(event, *first, host)),
                Notice::RateLimited(folded) => Body::RateLimited(noise::RateLimited::new(folded, host)),
                Notice::Rehearsal(outcome) => Body::Rehearsal(notice::Rehearsal::new(outcome, host)),
                Notice::Summary { summary, loss } => Body::Summary(notice::Summary::new(summary, loss, host)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
