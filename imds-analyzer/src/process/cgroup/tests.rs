//! Forms of cgroup paths, each published by someone who runs such a host.

use super::{Placement, parse, parse_path};
use crate::event::{Container, Orchestrator, Qos, Runtime};

/// The expected parts; absent parts are `""`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    unit: &'static str,
    user_unit: &'static str,
    runtime: &'static str,
    container: &'static str,
    orchestrator: &'static str,
    qos: &'static str,
}

const NONE: Expected = Expected {
    unit: "",
    user_unit: "",
    runtime: "",
    container: "",
    orchestrator: "",
    qos: "",
};

fn summary(placement: &Placement) -> [String; 6] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let container = placement.container.clone().unwrap_or_default();
    let Container { id, runtime, .. } = container;
    let orchestrator =
        |part: fn(&Orchestrator) -> String| placement.orchestrator.as_ref().map(part).unwrap_or_default();
    [
        text(&placement.unit),
        text(&placement.user_unit),
        runtime.map(Runtime::as_str).unwrap_or_default().to_owned(),
        id,
        orchestrator(|it| it.id.clone()),
        orchestrator(|it| it.qos.map(Qos::as_str).unwrap_or_default().to_owned()),
    ]
}

#[track_caller]
fn check(source: &str, text: &str, expected: Expected) {
    let Expected {
        unit,
        user_unit,
        runtime,
        container,
        orchestrator,
        qos,
    } = expected;
    let expected = [unit, user_unit, runtime, container, orchestrator, qos].map(str::to_owned);
    assert_eq!(summary(&parse(text)), expected, "{source}: {text}");
    // The kernel side reads only the path.
    if let Some(path) = text.strip_prefix("0::") {
        assert_eq!(summary(&parse_path(path)), expected, "{source}: {path}");
    }
}

#[test]
fn docker() {
    const ID: &str = "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860";
    let bare = Expected {
        runtime: "docker",
        container: ID,
        ..NONE
    };
    check(
        "DataDog's container tagging examples, v1, cgroupfs driver",
        "13:name=systemd:/docker/3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860\n\
         12:pids:/docker/3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860",
        bare,
    );
    check(
        "neuvector/neuvector share/system/cgroup_test.go, v1, systemd driver",
        "10:devices:/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope\n\
         1:name=systemd:/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
        Expected {
            unit: "docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
            runtime: "docker",
            container: "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d",
            ..NONE
        },
    );
    check(
        "docs.docker.com/engine/containers/runmetrics, v2, systemd inside the container",
        "0::/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope/system.slice/nginx.service",
        Expected {
            unit: "nginx.service",
            runtime: "docker",
            container: "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d",
            ..NONE
        },
    );
    check(
        "neuvector/neuvector share/system/cgroup_test.go: a runtime that says nothing of itself",
        "10:net_prio:/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970",
        Expected {
            container: "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970",
            ..NONE
        },
    );
    check(
        "docs.docker.com/engine/security/rootless, v2",
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
        Expected {
            unit: "user@1000.service",
            user_unit: "docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
            ..NONE
        },
    );
}

#[test]
fn amazon_ecs() {
    const ID: &str = "432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da";
    const TASK: &str = "bf1ddbfbbc8f45c9b1ac4f779368741e";
    let expected = || Expected {
        runtime: "docker",
        container: ID,
        orchestrator: TASK,
        ..NONE
    };
    check(
        "aws/amazon-ecs-agent#1119 and #4077, v1",
        &format!("9:perf_event:/ecs/{TASK}/{ID}\n8:memory:/ecs/{TASK}/{ID}"),
        expected(),
    );
    check(
        "DataDog's container tagging examples, v1: a task id as they were before 2018",
        &format!("9:perf_event:/ecs/5a0d5ceddf6c44c1928d367a815d890f/{ID}"),
        Expected {
            orchestrator: "5a0d5ceddf6c44c1928d367a815d890f",
            ..expected()
        },
    );
    check(
        "open-telemetry/opentelemetry-collector-contrib#33716, v1, with the cluster's name",
        &format!("4:memory:/ecs/AL2023/dc454d1e84c0478fa8ed683523fe7e55/{ID}"),
        Expected {
            orchestrator: "dc454d1e84c0478fa8ed683523fe7e55",
            ..expected()
        },
    );
    check(
        "aws/amazon-ecs-agent#3127, v2",
        &format!("0::/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope"),
        Expected {
            unit: "docker-432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da.scope",
            ..expected()
        },
    );
}

#[test]
fn ids_of_ecs_tasks_are_those_of_tasks() {
    const ID: &str = "432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da";
    const TASK: &str = "bf1ddbfbbc8f45c9b1ac4f779368741e";
    const UUID: &str = "5a0d5ced-df6c-44c1-928d-367a815d890f";
    let slices = "ecstasks.slice/ecstasks-5a0d5ced.slice/ecstasks-5a0d5ced-df6c.slice/ecstasks-5a0d5ced-df6c-44c1.slice/\
                  ecstasks-5a0d5ced-df6c-44c1-928d.slice/ecstasks-5a0d5ced-df6c-44c1-928d-367a815d890f.slice";
    let fargate = format!("{TASK}-1234567890");
    let (docker, bare) = ("docker", "");
    for (path, task, container, runtime) in [
        (format!("/ecs/{TASK}/{ID}"), TASK, ID, docker),
        (format!("/ecs/{UUID}/{ID}"), UUID, ID, docker),
        (format!("/ecs/my-cluster/{TASK}/{ID}"), TASK, ID, docker),
        (format!("/ecs/my-cluster/{UUID}/{ID}"), UUID, ID, docker),
        // A cluster whose name looks like a task id.
        (format!("/ecs/{UUID}/{TASK}/{ID}"), TASK, ID, docker),
        (format!("/ecs-anywhere/{TASK}/{ID}"), TASK, ID, docker),
        (format!("/ecs/{TASK}/{ID}/system.slice/nginx.service"), TASK, ID, docker),
        (format!("/docker/{ID}/ecs/{TASK}/{ID}"), TASK, ID, docker),
        // Fargate: the container's id begins with the task's id.
        (format!("/ecs/{TASK}/{fargate}"), TASK, &fargate, bare),
        (format!("/ecs/my-cluster/{TASK}/{fargate}"), TASK, &fargate, bare),
        (
            format!("/ecs/{UUID}/{UUID}-0987654321"),
            UUID,
            "5a0d5ced-df6c-44c1-928d-367a815d890f-0987654321",
            bare,
        ),
        (
            format!("/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope"),
            TASK,
            ID,
            docker,
        ),
        (
            format!("/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope (deleted)"),
            TASK,
            ID,
            docker,
        ),
        (format!("/{slices}/docker-{ID}.scope"), UUID, ID, docker),
        (
            format!(
                "/ecstasks.slice/ecstasks-{}.slice/docker-{ID}.scope",
                UUID.replace('-', "_")
            ),
            UUID,
            ID,
            docker,
        ),
        (format!("/ecstasks.slice/ecstasks-{TASK}.slice"), TASK, "", bare),
        // Not task ids.
        (format!("/ecs/my-cluster/{ID}"), "", ID, docker),
        (format!("/ecs/{}/{ID}", "-".repeat(40)), "", ID, docker),
        (format!("/ecs/{TASK}abcd/{ID}"), "", ID, docker),
        (
            format!("/ecstasks.slice/ecstasks-web.slice/docker-{ID}.scope"),
            "",
            ID,
            docker,
        ),
        (format!("/system.slice/docker-{ID}.scope"), "", ID, docker),
        (format!("/ecs/{TASK}/{UUID}-17"), TASK, "", bare),
        (format!("/{TASK}/{fargate}"), "", "", bare),
    ] {
        for text in [
            format!("0::{path}"),
            format!("12:pids:/\n9:perf_event:{path}\n1:name=systemd:/"),
        ] {
            let [.., found_runtime, found_container, found_task, _qos] = summary(&parse(&text));
            assert_eq!(
                [found_task.as_str(), &found_container, &found_runtime],
                [task, container, runtime],
                "{text}"
            );
        }
    }
}

#[test]
fn a_process_that_has_exited_is_where_it_was() {
    let kernel = || parse_path("/system.slice/app.service");
    for (text, of_exited) in [
        ("12:pids:/\n1:name=systemd:/\n", true),
        ("12:pids:/\n1:name=systemd:/\n0::/system.slice/app.service\n", true),
        // The process exited while the kernel wrote the text.
        ("12:pids:/system.slice/app.service\n1:name=systemd:/\n", true),
        ("12:pids:/\n", true),
        ("12:pids:/\n1:name=systemd:/system.slice/other.service\n", false),
        ("0::/\n", false),
        ("0::/system.slice/app.service\n", false),
        ("", false),
    ] {
        assert_eq!(super::may_be_of_exited(text), of_exited, "{text}");
        if of_exited {
            assert_eq!(parse(text).or(kernel()).unit.as_deref(), Some("app.service"), "{text}");
        }
    }
    // Facts still in /proc win, and facts that belong together stay together.
    let now = parse("1:name=systemd:/\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service\n");
    assert_eq!(now.clone().or(kernel()), now);
    let container = parse_path("/docker/3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860");
    let both = container.clone().or(kernel());
    assert_eq!((both.container, both.unit), (container.container, kernel().unit));
    assert_eq!(Placement::default().or(kernel()), kernel());
    assert_eq!(kernel().or(Placement::default()), kernel());
    // The cgroup was deleted too.
    let gone = parse("0::/system.slice/app.service (deleted)");
    assert_eq!(gone.unit.as_deref(), Some("app.service"));
}

#[test]
fn kubernetes() {
    check(
        "opencontainers/runc#4620: CRI-O, v1, systemd driver",
        "13:freezer:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda5c1f8d5_1919_434d_add7_4afaafdaef89.slice/crio-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope\n\
         11:files:/",
        Expected {
            runtime: "cri-o",
            container: "5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c",
            orchestrator: "a5c1f8d5-1919-434d-add7-4afaafdaef89",
            qos: "burstable",
            ..NONE
        },
    );
    check(
        "kubernetes/minikube#11280: CRI-O in a node that is a container itself",
        "0::/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2ca4a155_3599_498d_bb9d_4446693fa3ea.slice/crio-358607a37e7ada357032e7f5729c9ae6a3efdb7962acbcbe47ff6a3c5506cb1c.scope",
        Expected {
            unit: "crio-358607a37e7ada357032e7f5729c9ae6a3efdb7962acbcbe47ff6a3c5506cb1c.scope",
            runtime: "cri-o",
            container: "358607a37e7ada357032e7f5729c9ae6a3efdb7962acbcbe47ff6a3c5506cb1c",
            orchestrator: "2ca4a155-3599-498d-bb9d-4446693fa3ea",
            qos: "besteffort",
            ..NONE
        },
    );
    check(
        "netdata/netdata#4868: containerd, systemd driver, a static pod",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod187bff14cccb94f179e943eacce55bb3.slice/cri-containerd-c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415.scope",
        Expected {
            unit: "cri-containerd-c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415.scope",
            runtime: "containerd",
            container: "c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415",
            orchestrator: "187bff14cccb94f179e943eacce55bb3",
            qos: "burstable",
            ..NONE
        },
    );
    check(
        "open-telemetry/opentelemetry-java#4507 and elastic/apm-agent-nodejs#3550: containerd, cgroupfs driver, a systemd path",
        "11:perf_event:/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459\n\
         1:name=systemd:/system.slice/containerd.service/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
        Expected {
            unit: "containerd.service",
            runtime: "containerd",
            container: "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
            orchestrator: "0125ec2f-b64a-4868-8f5b-94b56cbab864",
            qos: "besteffort",
            ..NONE
        },
    );
    check(
        "DataDog's container tagging examples: cgroupfs driver",
        "11:perf_event:/kubepods/besteffort/pod3d274242-8ee0-11e9-a8a6-1e68d864ef1a/3e74d3fd9db4c9dd921ae05c2502fb984d0cde1b36e581b13f79c639da4518a1",
        Expected {
            container: "3e74d3fd9db4c9dd921ae05c2502fb984d0cde1b36e581b13f79c639da4518a1",
            orchestrator: "3d274242-8ee0-11e9-a8a6-1e68d864ef1a",
            qos: "besteffort",
            ..NONE
        },
    );
    check(
        "kontena/pharos-cluster#440: dockershim, systemd driver, v1",
        "1:name=systemd:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod9692aa0e_748e_11e8_8dfa_76d458035df6.slice/docker-abddff03dfd7710c79a750ce3e730365cbb2c8247a974170c1062683bc3e9152.scope",
        Expected {
            unit: "docker-abddff03dfd7710c79a750ce3e730365cbb2c8247a974170c1062683bc3e9152.scope",
            runtime: "docker",
            container: "abddff03dfd7710c79a750ce3e730365cbb2c8247a974170c1062683bc3e9152",
            orchestrator: "9692aa0e-748e-11e8-8dfa-76d458035df6",
            qos: "besteffort",
            ..NONE
        },
    );
    check(
        "kubernetes-sigs/kind: the kubelet's cgroup root is a slice of its own; a guaranteed pod",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice/cri-containerd-ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459.scope",
        Expected {
            unit: "cri-containerd-ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459.scope",
            runtime: "containerd",
            container: "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
            orchestrator: "0125ec2f-b64a-4868-8f5b-94b56cbab864",
            qos: "guaranteed",
            ..NONE
        },
    );
}

#[test]
fn podman() {
    const ID: &str = "5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c";
    let expected = |unit| Expected {
        unit,
        runtime: "podman",
        container: ID,
        ..NONE
    };
    check(
        "podman-run(1), --cgroup-manager=systemd",
        &format!("0::/machine.slice/libpod-{ID}.scope/container"),
        expected("libpod-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope"),
    );
    check(
        "podman-run(1), rootless",
        &format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
        Expected {
            unit: "user@1000.service",
            user_unit: "libpod-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope",
            ..NONE
        },
    );
    check(
        "podman-run(1), --cgroups=split, as quadlet sets it",
        &format!("0::/system.slice/web.service/libpod-payload-{ID}"),
        expected("web.service"),
    );
    check(
        "podman-run(1), --cgroup-manager=cgroupfs",
        &format!("4:memory:/libpod_parent/libpod-{ID}"),
        expected(""),
    );
    check(
        "containers/crun#376: podman itself, in no container",
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/podman-6696.scope",
        Expected {
            unit: "user@1000.service",
            user_unit: "podman-6696.scope",
            ..NONE
        },
    );
    for monitor in ["libpod-conmon", "crio-conmon"] {
        let path = format!("0::/machine.slice/{monitor}-{ID}.scope");
        let placement = parse(&path);
        assert_eq!(placement.container, None, "{path}");
    }
}

#[test]
fn containerd_on_its_own() {
    const ID: &str = "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459";
    check(
        "containerd's namespaces, ctr and nerdctl, cgroupfs",
        &format!("0::/default/{ID}"),
        Expected {
            runtime: "containerd",
            container: ID,
            ..NONE
        },
    );
    check(
        "containerd/nerdctl docs/rootless.md, systemd",
        &format!("0::/system.slice/nerdctl-{ID}.scope"),
        Expected {
            unit: "nerdctl-ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459.scope",
            runtime: "containerd",
            container: ID,
            ..NONE
        },
    );
}

#[test]
fn lxc_lxd_incus() {
    let lxc = |unit, container| Expected {
        unit,
        runtime: "lxc",
        container,
        ..NONE
    };
    check(
        "liske/needrestart#238: LXD, v2",
        "0::/lxc.payload.focal/system.slice/avahi-daemon.service",
        lxc("avahi-daemon.service", "focal"),
    );
    check("lxc/lxc#2782: LXC 3, v1", "5:pids:/lxc.payload/web", lxc("", "web"));
    check("lxc(7), LXC 1 and 2, v1", "5:pids:/lxc/web", lxc("", "web"));
    check("lxc/lxc#2782: its monitor", "0::/lxc.monitor.web", NONE);
}

#[test]
fn systemd_nspawn() {
    let nspawn = |unit, container| Expected {
        unit,
        runtime: "systemd-nspawn",
        container,
        ..NONE
    };
    check(
        "systemd/systemd#18104",
        r"0::/machine.slice/machine-web\x2d1.scope/payload/system.slice/nginx.service",
        nspawn("nginx.service", "web-1"),
    );
    check(
        "systemd/systemd#10482",
        "0::/machine.slice/systemd-nspawn@jessie.service/payload",
        nspawn("systemd-nspawn@jessie.service", "jessie"),
    );
    check(
        "libvirt.org/cgroups.html: a virtual machine",
        r"0::/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
        Expected {
            unit: r"machine-qemu\x2d1\x2dvm.scope",
            ..NONE
        },
    );
}

#[test]
fn systemd_units() {
    let unit = |unit| Expected { unit, ..NONE };
    for (text, expected) in [
        ("0::/system.slice/app.service", unit("app.service")),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service",
            unit("getty@tty1.service"),
        ),
        (
            "0::/user.slice/user-1000.slice/session-3.scope",
            unit("session-3.scope"),
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service",
            Expected {
                user_unit: "sync.service",
                ..unit("user@1000.service")
            },
        ),
        ("0::/init.scope", unit("init.scope")),
        ("0::/", NONE),
        // v1: systemd's own hierarchy names the unit, whatever the controllers' hierarchies contain.
        (
            "11:memory:/system.slice/other.service\n1:name=systemd:/system.slice/amazon-ssm-agent.service\n",
            unit("amazon-ssm-agent.service"),
        ),
        // Hybrid.
        (
            "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/app.service\n0::/system.slice/app.service\n",
            unit("app.service"),
        ),
        ("1:name=systemd:/\n0::/system.slice/app.service\n", unit("app.service")),
        // Seen from inside a cgroup namespace.
        ("0::/../../system.slice/app.service", unit("app.service")),
    ] {
        check("systemd.io/CGROUP_DELEGATION", text, expected);
    }
}

#[test]
fn slices_and_sessions() {
    let placement = parse("0::/user.slice/user-1000.slice/session-c3.scope");
    assert_eq!(placement.slice.as_deref(), Some("user-1000.slice"));
    assert_eq!(placement.session.as_deref(), Some("c3"));
    let placement = parse("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-sync.scope");
    assert_eq!(placement.slice.as_deref(), Some("user-1000.slice"));
    assert_eq!(placement.user_slice.as_deref(), Some("app.slice"));
    assert_eq!(placement.user_unit.as_deref(), Some("app-sync.scope"));
    assert_eq!(placement.session, None);
}

#[test]
fn a_users_own_container_is_named_as_the_user_s() {
    const ID: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
    for (name, runtime) in [("docker", "docker"), ("libpod", "podman"), ("nerdctl", "containerd")] {
        let path = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/{name}-{ID}.scope/x");
        let placement = parse_path(&path);
        let container = placement.user_container.unwrap_or_default();
        assert_eq!(
            (container.id.as_str(), container.runtime.map(Runtime::as_str)),
            (ID, Some(runtime)),
            "{path}"
        );
        assert_eq!(placement.container, None, "{path}");
    }
    let of_system = parse_path(&format!("/system.slice/docker-{ID}.scope"));
    assert_eq!(of_system.user_container, None);
}

#[test]
fn shapes_that_nobody_knows() {
    const HEX: &str = "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac01645";
    for text in [
        "",
        "nonsense\n0:\n::::",
        // BuildKit's ids are not container ids.
        "0::/docker/buildkit/zw1qkqd2hnuyytsg4zvlsqxqm",
        "0::/garden/0f99ad5f-45163e",
        &format!("0::/{HEX}"),
        "0::/podcast.slice",
        "0::/kubepods/pod-of-whales",
        "0::/ecs/cluster",
        "0::/lxc.payload.",
        "0::/machine.slice/machine-.scope/x",
        "0::/\u{1b}[2J/\u{fffd}",
    ] {
        let mut placement = parse(text);
        (placement.unit, placement.system_unit, placement.slice) = (None, None, None);
        assert_eq!(placement, Placement::default(), "{text}");
    }
}

#[test]
fn tokens_in_names_are_masked() {
    let token = format!("AQAEA{}==", "Bx9".repeat(17));
    for token in [token.clone(), token.replace('=', "\\x3d")] {
        let path = format!("/user.slice/{token}.slice/{token}.service");
        let placement = parse_path(&path);
        assert_eq!(placement.unit.as_deref(), Some("***.service"), "{path}");
        assert_eq!(placement.slice.as_deref(), Some("***.slice"), "{path}");
        let path = format!("/user.slice/user-1.slice/user@1.service/x-{token}.slice/a@{token}.service");
        let shown = format!("{:?}", parse_path(&path));
        assert!(!shown.contains("Bx9") && shown.contains("a@***.service"), "{shown}");
        for name in [
            format!("lxc.payload.{token}"),
            format!("systemd-nspawn@{token}.service"),
            format!("machine.slice/machine-{token}.scope"),
            format!("lxc/{token}"),
            format!("session-{token}.scope"),
        ] {
            let shown = format!("{:?}", parse(&format!("0::/{name}")));
            assert!(!shown.contains("Bx9") && shown.contains("***"), "{name}: {shown}");
        }
    }
}
