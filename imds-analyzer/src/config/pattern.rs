//! `[[ignore]]` and `[[expect]]`: which calls are meant.

use serde::Deserialize;

use crate::event::{Event, Process};

/// All that is given must match; nothing given is an error, as it would mean everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Pattern(Fields);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    unit: Option<String>,
    executable: Option<String>,
    container: Option<String>,
    user: Option<String>,
    path: Option<String>,
}

impl TryFrom<Fields> for Pattern {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        if fields == Fields::default() {
            return Err("an entry without a key would mean every call");
        }
        Ok(Self(fields))
    }
}

impl Pattern {
    pub fn matches(&self, event: &Event) -> bool {
        let process = event.process.as_deref();
        let fits = |wanted: &Option<String>, value: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| value.is_some_and(|value| fits(wanted, value)))
        };
        let user = |wanted: &str| {
            process.is_some_and(|process| {
                process
                    .user
                    .name
                    .as_deref()
                    .is_some_and(|name| self::fits(wanted, name))
                    || process.user.id.is_some_and(|id| wanted == id.to_string())
            })
        };
        let Fields {
            unit,
            executable,
            container,
            user: wanted_user,
            path,
        } = &self.0;
        let place = process.and_then(|process| process.container.as_ref());
        let unit_of = |of: fn(&Process) -> &Option<String>| process.and_then(|process| of(process).as_deref());
        (fits(unit, unit_of(|process| &process.unit)) || fits(unit, unit_of(|process| &process.user_unit)))
            && fits(executable, process.and_then(|process| process.executable.as_deref()))
            && (fits(container, place.map(|it| it.id.as_str()))
                || fits(container, place.and_then(|it| it.name.as_deref())))
            && wanted_user.as_deref().is_none_or(user)
            && fits(path, event.http.path.as_deref())
    }
}

/// Whether `text` is `pattern`, in which `*` is any text. Takes the first place for each part, which is never wrong but
/// for the last part, which belongs at the end.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}
