//! Converts the record of a request to a call that a summary counts.

use imds_analyzer_ebpf::classify::Version;

use super::{
    Word,
    request::{Container, Request},
};
use crate::{
    event::AnswerWord,
    process,
    summary::{Call, Who},
};

impl<'a> From<&'a Request<'_>> for Call<'a> {
    fn from(record: &'a Request<'_>) -> Self {
        Self {
            // The meaning of a later version's word is unknown.
            version: record.imds.version.known().unwrap_or(Version::Unknown),
            local: record.imds.local,
            relay: record.imds.relay,
            // The first lines of this schema have no answer.
            answer: record
                .imds
                .answer
                .as_ref()
                .and_then(Word::known)
                .unwrap_or(AnswerWord::Unseen),
            status: record.http.as_ref().and_then(|http| Some(http.response?.status_code)),
            remedy: record
                .imds
                .remedy
                .as_ref()
                .map(|remedy| (remedy.id.as_str(), remedy.text.as_str())),
            who: who(record),
            path: record.url.as_ref().and_then(|url| url.path.as_deref()),
        }
    }
}

fn who<'a>(record: &'a Request<'_>) -> Option<Who<'a>> {
    let process = record.process.as_ref()?;
    // The first lines of this schema have no caller.
    let key = record.imds.caller.as_ref().or(process.executable.as_ref());
    let key = key.unwrap_or(&process.name).as_str();
    let user = record.user.as_ref();
    let systemd = record.systemd.as_ref();
    let unit = systemd.and_then(|systemd| systemd.user_unit.as_deref().or(systemd.unit.as_deref()));
    let is_placed = record.container.is_some() || systemd.is_some();
    Some(Who {
        key,
        program: if is_placed { process::program_of(key) } else { key },
        user_id: user.and_then(|user| Some(user.id?.0)),
        user_name: user.and_then(|user| user.name.as_deref()),
        place: record.container.as_ref().map(image).or(unit),
    })
}

/// The container's image. Without one, its name. Without a name, as much of its id as `docker ps` shows.
fn image<'a>(container: &'a Container<'_>) -> &'a str {
    match (&container.image, &container.name) {
        (Some(image), _) => &image.name,
        (None, Some(name)) => name,
        (None, None) => container.id.get(..12).unwrap_or(&container.id),
    }
}
