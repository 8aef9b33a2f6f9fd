//! The caller of a record, as a summary tells callers apart.

use super::{
    Text,
    attempt::Attempt,
    noise::RateLimited,
    process::Process,
    request::{Container, ProcessUser, Request, Systemd},
    value::Id,
};
use crate::{process, summary::Who};

/// What a record says of its caller.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts<'a> {
    /// `imds.caller`.
    pub(super) caller: Option<&'a str>,
    /// The executable of the process or, without one, its name.
    pub(super) program: Option<&'a str>,
    pub(super) user_id: Option<u32>,
    pub(super) user_name: Option<&'a str>,
    /// The unit of the user's own systemd or, without one, of the system's.
    pub(super) unit: Option<&'a str>,
    pub(super) container: Option<&'a str>,
    /// It has a container or anything of systemd's, so that `caller` may end with a place.
    pub(super) is_placed: bool,
}

impl<'a> Facts<'a> {
    /// `None` if the caller is not known.
    pub(super) fn who(self) -> Option<Who<'a>> {
        // The first lines of this schema have no caller. Counts of many requests have no process.
        let key = self.caller.or(self.program)?;
        Some(Who {
            key,
            program: if self.is_placed { process::program_of(key) } else { key },
            user_id: self.user_id,
            user_name: self.user_name,
            place: self.container.or(self.unit),
        })
    }
}

/// The container's image. Without one, its name. Without a name, as much of its id as `docker ps` shows.
pub(super) fn container<'a>(image: Option<&'a str>, name: Option<&'a str>, id: &'a str) -> &'a str {
    image.or(name).unwrap_or_else(|| id.get(..12).unwrap_or(id))
}

impl Request<'_> {
    /// The caller; `None` if no process is known.
    pub fn who(&self) -> Option<Who<'_>> {
        let process = self.process.as_ref()?;
        let caller = self.imds.caller.as_ref();
        who(
            caller,
            process,
            self.user.as_ref(),
            self.systemd.as_ref(),
            self.container.as_ref(),
        )
    }
}

impl Attempt<'_> {
    /// The caller; `None` if no process is known.
    pub fn who(&self) -> Option<Who<'_>> {
        let process = self.process.as_ref()?;
        let caller = self.imds.caller.as_ref();
        who(
            caller,
            process,
            self.user.as_ref(),
            self.systemd.as_ref(),
            self.container.as_ref(),
        )
    }
}

impl RateLimited<'_> {
    /// The caller; `None` if these are the calls of many.
    pub fn who(&self) -> Option<Who<'_>> {
        let user = self.user.as_ref();
        let facts = Facts {
            caller: self.imds.caller.as_deref(),
            program: None,
            user_id: user.and_then(|user| user.id).map(|Id(id)| id),
            user_name: user.and_then(|user| user.name.as_deref()),
            unit: self.systemd.as_ref().map(|systemd| systemd.unit.as_str()),
            container: self.container.as_ref().map(|it| container(None, None, &it.id)),
            is_placed: self.systemd.is_some() || self.container.is_some(),
        };
        facts.who()
    }
}

fn who<'a>(
    caller: Option<&'a Text<'_>>,
    process: &'a Process<'_>,
    user: Option<&'a ProcessUser<'_>>,
    systemd: Option<&'a Systemd<'_>>,
    placed: Option<&'a Container<'_>>,
) -> Option<Who<'a>> {
    let image = |it: &'a Container<'_>| {
        let image = it.image.as_ref().map(|image| image.name.as_str());
        container(image, it.name.as_deref(), &it.id)
    };
    let facts = Facts {
        caller: caller.map(Text::as_str),
        program: Some(process.executable.as_ref().unwrap_or(&process.name)),
        user_id: user.and_then(|user| user.id).map(|Id(id)| id),
        user_name: user.and_then(|user| user.name.as_deref()),
        unit: systemd.and_then(|systemd| systemd.user_unit.as_deref().or(systemd.unit.as_deref())),
        container: placed.map(image),
        is_placed: systemd.is_some() || placed.is_some(),
    };
    facts.who()
}
