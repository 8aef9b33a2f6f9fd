//! What `/proc/<pid>/cgroup` says about who runs a process: systemd unit, container, pod. Pure.
//!
//! A line is `hierarchy:controllers:path` (cgroups(7)); cgroup v2 is `0::path`, systemd's own v1 hierarchy has
//! `name=systemd` for its controllers. On hybrid hosts both exist.

use crate::event::Container;

/// Where a process stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The innermost service, else the innermost scope, as systemd names it.
    pub unit: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
    /// Kubernetes pod uid, `8-4-4-4-12`.
    pub pod: Option<String>,
}

/// Reads the text of `/proc/<pid>/cgroup`; what it does not know is left out.
pub fn parse(text: &str) -> Placement {
    let lines = || text.lines().filter_map(line);
    let of_hierarchy = |wanted: &str| {
        lines()
            .find(|(controllers, _)| *controllers == wanted)
            .map(|(_, path)| path)
    };
    Placement {
        unit: of_hierarchy("name=systemd")
            .and_then(unit)
            .or_else(|| of_hierarchy("").and_then(unit)),
        container: lines().find_map(|(_, path)| container(path)),
        pod: lines().find_map(|(_, path)| names(path).rev().find_map(pod)),
    }
}

/// Controllers and path.
fn line(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')?.1.split_once(':')
}

fn names(path: &str) -> std::str::Split<'_, char> {
    path.split('/')
}

fn unit(path: &str) -> Option<String> {
    let innermost = |suffix: &str| {
        names(path)
            .rev()
            .find(|name| name.len() > suffix.len() && name.ends_with(suffix))
    };
    // systemd puts `_` before a name that would clash with the kernel's own files.
    innermost(".service")
        .or_else(|| innermost(".scope"))
        .map(|unit| unit.strip_prefix('_').unwrap_or(unit).to_owned())
}

fn container(path: &str) -> Option<Container> {
    let names: Vec<&str> = names(path).collect();
    names.iter().enumerate().rev().find_map(|(index, name)| {
        let parents = names.get(..index).unwrap_or_default();
        let (prefix, id) = container_id(name)?;
        let runtime = runtime(prefix).or_else(|| parents.iter().rev().find_map(|parent| parent_runtime(parent)));
        Some(Container {
            id: id.to_owned(),
            runtime: runtime.map(str::to_owned),
        })
    })
}

/// `<id>`, `<runtime>-<id>.scope` (systemd driver), `<slice>:<runtime>:<id>` (cgroupfs driver given a systemd path):
/// what stands before the id, and the id.
fn container_id(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = name.rsplit_once([':', '-']).unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    // The monitor stands outside of the container that it watches.
    (is_id && !prefix.ends_with("-conmon")).then_some((prefix, id))
}

fn runtime(prefix: &str) -> Option<&'static str> {
    match prefix.rsplit(':').next().unwrap_or(prefix) {
        "docker" => Some("docker"),
        "cri-containerd" | "nerdctl" => Some("containerd"),
        "crio" => Some("cri-o"),
        "libpod" => Some("podman"),
        _ => None,
    }
}

/// The runtime that the parent of a bare id tells: `/docker/<id>`, ECS's `/ecs/<task>/<id>`, and containerd's
/// namespaces.
fn parent_runtime(parent: &str) -> Option<&'static str> {
    match parent {
        "docker" | "ecs" => Some("docker"),
        "default" | "k8s.io" => Some("containerd"),
        "libpod_parent" => Some("podman"),
        _ => None,
    }
}

/// `pod<uid>`, `kubepods-burstable-pod<uid with underscores>.slice`, and the latter before `:<runtime>:<id>`.
fn pod(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or(name);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.strip_prefix("kubepods")?.rsplit_once("-pod")?.1,
    };
    let uid = uid.replace('_', "-");
    let parts: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = parts
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    // A static pod's uid is a plain hash.
    (hex && matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32])).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::parse;

    const ID: &str = "3f9d2c1b4a5968778695a4b3c2d1e0f00112233445566778899aabbccddeeff0";
    const POD: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const POD_: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";

    /// Text, unit, container's runtime (`"?"` for one that is not told), pod.
    #[track_caller]
    fn check(text: &str, unit: Option<&str>, runtime: Option<&str>, pod: Option<&str>) {
        let placement = parse(text);
        assert_eq!(placement.unit.as_deref(), unit, "unit of {text}");
        let container = placement.container.map(|container| {
            assert_eq!(container.id, ID, "id in {text}");
            container.runtime.unwrap_or("?".to_owned())
        });
        assert_eq!(container.as_deref(), runtime, "container in {text}");
        assert_eq!(placement.pod.as_deref(), pod, "pod in {text}");
    }

    #[test]
    fn services_and_sessions() {
        check("0::/system.slice/app.service", Some("app.service"), None, None);
        check(
            "0::/system.slice/system-getty.slice/getty@tty1.service",
            Some("getty@tty1.service"),
            None,
            None,
        );
        check(
            "0::/user.slice/user-1000.slice/session-3.scope",
            Some("session-3.scope"),
            None,
            None,
        );
        check(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-a.scope",
            Some("user@1000.service"),
            None,
            None,
        );
        check("0::/init.scope", Some("init.scope"), None, None);
        check("0::/", None, None, None);
        check("", None, None, None);
        check("nonsense\n0:\n::::", None, None, None);
    }

    #[test]
    fn systemd_s_own_hierarchy_names_the_unit_on_v1_and_hybrid() {
        let v1 = "11:memory:/system.slice/other.service\n1:name=systemd:/system.slice/amazon-ssm-agent.service\n";
        check(v1, Some("amazon-ssm-agent.service"), None, None);
        let hybrid = "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/app.service\n0::/system.slice/app.service\n";
        check(hybrid, Some("app.service"), None, None);
        check(
            "1:name=systemd:/\n0::/system.slice/app.service\n",
            Some("app.service"),
            None,
            None,
        );
    }

    #[test]
    fn docker() {
        check(
            &format!("4:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}"),
            None,
            Some("docker"),
            None,
        );
        let scope = format!("docker-{ID}.scope");
        check(&format!("0::/system.slice/{scope}"), Some(&scope), Some("docker"), None);
        check(
            &format!("0::/system.slice/{scope}/system.slice/nginx.service"),
            Some("nginx.service"),
            Some("docker"),
            None,
        );
    }

    #[test]
    fn amazon_ecs() {
        check(
            &format!("9:cpu:/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/{ID}"),
            None,
            Some("docker"),
            None,
        );
        let path = format!("0::/ecstasks.slice/ecstasks-0f1e2d3c4b5a69788796a5b4c3d2e1f0.slice/docker-{ID}.scope");
        check(&path, Some(&format!("docker-{ID}.scope")), Some("docker"), None);
    }

    #[test]
    fn kubernetes() {
        let scope = format!("cri-containerd-{ID}.scope");
        check(
            &format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/{scope}"),
            Some(&scope),
            Some("containerd"),
            Some(POD),
        );
        check(
            &format!("3:cpu:/kubepods/besteffort/pod{POD}/{ID}"),
            None,
            Some("?"),
            Some(POD),
        );
        check(
            &format!("1:name=systemd:/system.slice/containerd.service/kubepods-pod{POD_}.slice:cri-containerd:{ID}"),
            Some("containerd.service"),
            Some("containerd"),
            Some(POD),
        );
        check(
            &format!("0::/kubepods.slice/kubepods-pod{POD_}.slice/crio-{ID}.scope/container"),
            Some(&format!("crio-{ID}.scope")),
            Some("cri-o"),
            Some(POD),
        );
        let hash = "0123456789abcdef0123456789abcdef";
        check(
            &format!("0::/kubepods.slice/kubepods-burstable-pod{hash}.slice"),
            None,
            None,
            Some(hash),
        );
    }

    #[test]
    fn podman_and_its_monitor() {
        let scope = format!("libpod-{ID}.scope");
        check(
            &format!("0::/machine.slice/{scope}/container"),
            Some(&scope),
            Some("podman"),
            None,
        );
        let monitor = format!("libpod-conmon-{ID}.scope");
        check(&format!("0::/machine.slice/{monitor}"), Some(&monitor), None, None);
    }

    #[test]
    fn containerd_s_namespaces() {
        check(&format!("0::/default/{ID}"), None, Some("containerd"), None);
        check(
            &format!("0::/system.slice/nerdctl-{ID}.scope"),
            Some(&format!("nerdctl-{ID}.scope")),
            Some("containerd"),
            None,
        );
    }

    #[test]
    fn names_that_only_look_alike() {
        check(
            &format!("0::/system.slice/{}.service", &ID[..63]),
            Some(&format!("{}.service", &ID[..63])),
            None,
            None,
        );
        check(
            "0::/podcast.slice/pod-thing.service",
            Some("pod-thing.service"),
            None,
            None,
        );
    }
}
