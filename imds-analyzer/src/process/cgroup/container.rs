//! Recognises containers, pods and tasks by the names of cgroups.

use super::names;
use crate::{
    event::{Container, Orchestrator, Platform, Qos, Runtime},
    secrets,
};

/// The innermost container of a path.
pub(super) fn innermost(path: &str) -> Option<Container> {
    let names: Vec<&str> = names(path).collect();
    names.iter().enumerate().rev().find_map(|(index, name)| {
        let parents = names.get(..index).unwrap_or_default();
        by_id(name, parents).or_else(|| by_name(name, parents))
    })
}

/// Index of the outermost container in `names`.
pub(super) fn outermost(names: &[&str]) -> Option<usize> {
    names.iter().enumerate().position(|(index, name)| {
        let parents = names.get(..index).unwrap_or_default();
        by_id(name, parents).or_else(|| by_name(name, parents)).is_some()
    })
}

/// A container with an id of 64 hexadecimal digits, which all common OCI runtimes use.
fn by_id(name: &str, parents: &[&str]) -> Option<Container> {
    if let Some(container) = of_task(name, parents) {
        return Some(container);
    }
    let (prefix, id) = id(name)?;
    let runtime = runtime(prefix).or_else(|| parents.iter().rev().find_map(|parent| parent_runtime(parent)));
    Some(Container {
        id: id.to_owned(),
        runtime,
        ..Container::default()
    })
}

/// Splits `<id>`, `<runtime>-<id>.scope` (systemd driver) or `<slice>:<runtime>:<id>` (cgroupfs driver with a systemd
/// path) into the text before the id, and the id.
fn id(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = name.rsplit_once([':', '-']).unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    // The monitor is outside the container that it watches.
    (is_id && !prefix.ends_with("-conmon")).then_some((prefix, id))
}

fn runtime(prefix: &str) -> Option<Runtime> {
    match prefix.rsplit(':').next().unwrap_or(prefix) {
        "docker" => Some(Runtime::Docker),
        "cri-containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::CriO),
        "libpod" | "libpod-payload" => Some(Runtime::Podman),
        _ => None,
    }
}

/// The runtime, from the parent of a bare id: `/docker/<id>`, ECS's `/ecs/<task>/<id>`, and containerd's namespaces.
fn parent_runtime(parent: &str) -> Option<Runtime> {
    match parent {
        "docker" | "docker.service" | "ecs" | "ecs-anywhere" => Some(Runtime::Docker),
        "default" | "k8s.io" => Some(Runtime::Containerd),
        "libpod_parent" => Some(Runtime::Podman),
        _ => None,
    }
}

/// A container whose only id is its name.
fn by_name(name: &str, parents: &[&str]) -> Option<Container> {
    let parent = parents.last().copied().unwrap_or_default();
    let (id, runtime) = if let Some(name) = name.strip_prefix("lxc.payload.") {
        (name.to_owned(), Runtime::Lxc)
    } else if matches!(parent, "lxc" | "lxc.payload") {
        (name.to_owned(), Runtime::Lxc)
    } else if let Some(name) = name.strip_prefix("systemd-nspawn@") {
        (unescaped(name.strip_suffix(".service")?), Runtime::Nspawn)
    } else {
        let name = name.strip_prefix("machine-")?.strip_suffix(".scope")?;
        // libvirt's scopes are `machine-<driver>\x2d<id>\x2d<name>.scope`, mostly virtual machines.
        if parent != "machine.slice" || name.starts_with("qemu\\x2d") || name.starts_with("lxc\\x2d") {
            return None;
        }
        (unescaped(name), Runtime::Nspawn)
    };
    let known = !id.is_empty();
    known.then(|| Container {
        id: secrets::mask_path(&id),
        runtime: Some(runtime),
        ..Container::default()
    })
}

/// Reverses systemd-escape(1).
fn unescaped(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(part.get(2..).unwrap_or_default());
            }
            None => {
                text.push_str("\\x");
                text.push_str(part);
            }
        }
    }
    text
}

/// The innermost pod or task of a path.
pub(super) fn orchestrator(path: &str) -> Option<Orchestrator> {
    let names: Vec<&str> = names(path).collect();
    names.iter().enumerate().rev().find_map(|(index, name)| {
        let parents = names.get(..index).unwrap_or_default();
        pod(name, parents).or_else(|| task(name, parents))
    })
}

/// `pod<uid>`, `kubepods-burstable-pod<uid with underscores>.slice`, and the latter before `:<runtime>:<id>`; the
/// names before `kubepods` depend on the kubelet's cgroup root.
fn pod(name: &str, parents: &[&str]) -> Option<Orchestrator> {
    let name = name.split(':').next().unwrap_or(name);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (class, uid) = match name.strip_prefix("pod") {
        Some(uid) => (parents.last().copied().unwrap_or_default(), uid),
        None => {
            let (class, uid) = name.rsplit_once("-pod")?;
            class.contains("kubepods").then_some((class, uid))?
        }
    };
    let uid = uid.replace('_', "-");
    let parts: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = parts
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    // A static pod's uid is a plain hash.
    let is_uid = hex && matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32]);
    // The class without its own directory is `guaranteed`.
    let qos = match class.rsplit(['-', '/']).next() {
        Some("burstable") => Some(Qos::Burstable),
        Some("besteffort") => Some(Qos::BestEffort),
        Some("kubepods" | "kubepods.slice") => Some(Qos::Guaranteed),
        _ => None,
    };
    is_uid.then(|| Orchestrator {
        qos,
        ..Orchestrator::new(Platform::Kubernetes, uid)
    })
}

/// Parent cgroups of ECS tasks with cgroup v1.
const ECS_ROOTS: [&str; 2] = ["ecs", "ecs-anywhere"];

/// `/ecs/<task>/<container>` or `/ecs/<cluster>/<task>/<container>`, and `ecstasks-<task>.slice` with cgroup v2, where
/// slices nest at each dash in an id.
fn task(name: &str, parents: &[&str]) -> Option<Orchestrator> {
    let id = match name.strip_prefix("ecstasks-") {
        Some(slice) => slice.strip_suffix(".slice")?.replace('_', "-"),
        None => {
            let below_ecs = parents.iter().rev().take(2).any(|parent| ECS_ROOTS.contains(parent));
            below_ecs.then(|| name.to_owned())?
        }
    };
    is_task_id(&id).then(|| Orchestrator::new(Platform::Ecs, id))
}

/// True for 32 hexadecimal digits, or a uuid, the format before 2018.
fn is_task_id(id: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    matches!(lengths.as_slice(), [32] | [8, 4, 4, 4, 12]) && id.split('-').all(is_hex)
}

/// `/ecs/<task>/<task>-<number>`, the name that Fargate gives containers. Their runtime is unknown.
fn of_task(name: &str, parents: &[&str]) -> Option<Container> {
    let (task, number) = name.rsplit_once('-')?;
    let below_ecs = parents.iter().rev().take(3).any(|parent| ECS_ROOTS.contains(parent));
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let of_task = below_ecs && is_number && parents.last() == Some(&task) && is_task_id(task);
    of_task.then(|| Container {
        id: name.to_owned(),
        ..Container::default()
    })
}
