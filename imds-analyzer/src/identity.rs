//! The host and the instance that this tool runs on, only from files of this host: never from a call to IMDS.
//!
//! On Nitro instances DMI has the instance's id (`board_asset_tag`) and type (`product_name`). All other facts come
//! from cloud-init's notes. An image made of a running instance contains that instance's notes. So a note counts only
//! if it names the same instance as DMI, or, if DMI names none (Xen), if it was written since this boot.

mod note;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::Path, time::SystemTime};

use serde::Deserialize;

use self::note::Note;
use crate::host::{clock::Now, file};

const DMI: &str = "sys/class/dmi/id";
const HYPERVISOR: &str = "sys/hypervisor/uuid";
/// Files of cloud-init: what it learnt in this boot, in memory, and the last instance that it saw, on disk.
const NOTE: &str = "run/cloud-init/instance-data.json";
const LAST_INSTANCE: &str = "var/lib/cloud/data/instance-id";
/// Maximum length of a value, in bytes.
const VALUE_MAX: usize = 128;

/// How records identify the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// All facts but the name.
    pub cloud: Facts,
    /// Labels from the configuration.
    pub labels: BTreeMap<String, String>,
}

/// The known facts about a host and its instance: `[host]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// The host's name; by default the kernel's.
    pub name: Option<String>,
    /// `aws`, or the name of another cloud.
    pub provider: Option<String>,
    pub account_id: Option<String>,
    pub region: Option<String>,
    pub availability_zone: Option<String>,
    pub instance_id: Option<String>,
    /// For example `c6a.2xlarge`.
    pub machine_type: Option<String>,
    /// Id of the image that the instance was started from.
    pub image_id: Option<String>,
}

impl Facts {
    /// These facts, completed from `other`.
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
    /// A host with only a name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// This host: the facts in `given`, completed from the host's files. Unknown facts are absent.
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

/// The facts in files below `root`. `booted` is when this boot began.
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

/// The text of a file, and when it was written. Never opens anything that could block.
fn file(root: &Path, path: &str) -> io::Result<(String, SystemTime)> {
    let (text, metadata) = file::text(&root.join(path), libc::O_NOFOLLOW)?;
    Ok((text, metadata.modified()?))
}

/// `text` if it looks like a value of a cloud: short, and only letters, digits and a few other characters.
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
