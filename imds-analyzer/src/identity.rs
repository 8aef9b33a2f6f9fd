//! Which host and which instance this is, from files of this host alone: never by a call to IMDS.
//!
//! On Nitro instances DMI has the instance's id (`board_asset_tag`) and type (`product_name`). Everything else is in what
//! cloud-init noted. An image that was made of a running instance has the notes of that one: a note counts only if it names
//! the instance that DMI names, or, where DMI names none (Xen), if it was written since this boot.

mod note;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::Path, time::SystemTime};

use serde::Deserialize;

use self::note::Note;
use crate::host::{clock::Now, file};

const DMI: &str = "sys/class/dmi/id";
const HYPERVISOR: &str = "sys/hypervisor/uuid";
/// Of cloud-init: what it learnt in this boot, in memory; and the instance that it saw last, on disk.
const NOTE: &str = "run/cloud-init/instance-data.json";
const LAST_INSTANCE: &str = "var/lib/cloud/data/instance-id";
/// Maximum length of a value, in bytes.
const VALUE_MAX: usize = 128;

/// A host, as its records name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// All but its name.
    pub cloud: Facts,
    /// What the configuration adds.
    pub labels: BTreeMap<String, String>,
}

/// What is known of a host and its instance: `[host]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// The host's name, where it is not the kernel's.
    pub name: Option<String>,
    /// `aws`, or the name of another cloud.
    pub provider: Option<String>,
    pub account_id: Option<String>,
    pub region: Option<String>,
    pub availability_zone: Option<String>,
    pub instance_id: Option<String>,
    /// As `c6a.2xlarge`.
    pub machine_type: Option<String>,
    /// Id of the image that the instance was started from.
    pub image_id: Option<String>,
}

impl Facts {
    /// What is known here, else by `other`.
    fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            provider: self.provider.or(other.provider),
            account_id: self.account_id.or(other.account_id),
            region: self.region.or(other.region),
            availability_zone: self.availability_zone.or(other.availability_zone),
            instance_id: self.instance_id.or(other.instance_id),
            machine_type: self.machine_type.or(other.machine_type),
            image_id: self.image_id.or(other.image_id),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Identity {
    /// A host of which only the name is known.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// This host: what `given` says, else what its files say. What is not known is absent.
    pub fn of_this_host(mut given: Facts, labels: BTreeMap<String, String>) -> Self {
        let of_kernel = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let booted = Now::read().wall_at(0);
        Self {
            name: given.name.take().unwrap_or_else(of_kernel),
            cloud: given.or(read(Path::new("/"), booted)),
            labels,
        }
    }
}

/// What the files below `root` say. `booted` is when this boot began.
fn read(root: &Path, booted: SystemTime) -> Facts {
    let dmi = |name: &str| value(root, &format!("{DMI}/{name}"));
    let is_ec2 = dmi("sys_vendor").is_some_and(|vendor| vendor == "Amazon EC2")
        || value(root, HYPERVISOR).is_some_and(|uuid| uuid.to_ascii_lowercase().starts_with("ec2"));
    let of_hardware = Facts {
        provider: is_ec2.then(|| "aws".to_owned()),
        instance_id: dmi("board_asset_tag").filter(|tag| is_ec2 && is_instance_id(tag)),
        machine_type: dmi("product_name").filter(|name| is_ec2 && name.contains('.')),
        ..Facts::default()
    };
    let is_current = |id: Option<&str>, written: SystemTime| match &of_hardware.instance_id {
        Some(own) => id == Some(own),
        None => written >= booted,
    };
    let note = file(root, NOTE).ok().and_then(|(text, written)| {
        let cloud = Note::parse(&text)?.cloud();
        is_current(cloud.instance_id.as_deref(), written).then_some(cloud)
    });
    let last = file(root, LAST_INSTANCE).ok().and_then(|(text, written)| {
        let id = shown(text.trim())?;
        (is_instance_id(&id) && is_current(Some(&id), written)).then_some(id)
    });
    of_hardware.or(note.unwrap_or_default()).or(Facts {
        instance_id: last,
        ..Facts::default()
    })
}

/// The first line of a file.
fn value(root: &Path, path: &str) -> Option<String> {
    let (text, _) = file(root, path)
        .inspect_err(|error| tracing::trace!("{path}: {error}"))
        .ok()?;
    shown(text.lines().next()?.trim())
}

/// A file, and when it was written. Nothing that could make this wait is opened.
fn file(root: &Path, path: &str) -> io::Result<(String, SystemTime)> {
    let (text, metadata) = file::text(&root.join(path), libc::O_NOFOLLOW)?;
    Ok((text, metadata.modified()?))
}

/// `text` if it is a value of the kind that clouds give: short, and nothing but letters, digits and a few signs.
fn shown(text: &str) -> Option<String> {
    let is_value = !text.is_empty()
        && text.len() <= VALUE_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" .:_-/".contains(&byte));
    is_value.then(|| text.to_owned())
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-")
        .is_some_and(|digits| (8..=17).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
