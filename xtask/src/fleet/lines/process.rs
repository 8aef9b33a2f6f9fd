//! The parts of a record that are about the process.

use serde_json::json;

use super::{
    super::{
        callers::{Place, Spec},
        host::Host,
        template::PID,
    },
    quoted,
};

const INIT: &[&str] = &[
    "/usr/lib/systemd/systemd",
    "--switched-root",
    "--system",
    "--deserialize=43",
];

/// `process`, `user` and `group`.
pub(super) fn process(host: &Host, spec: &Spec) -> String {
    let outer: &[&[&str]] = match spec.place {
        Place::Docker(..) | Place::Pod(..) => &[
            &[
                "/usr/bin/containerd-shim-runc-v2",
                "-namespace",
                "moby",
                "-address",
                "/run/containerd/containerd.sock",
            ],
            INIT,
        ],
        Place::Session => &[&["/usr/sbin/sshd", "-D"], INIT],
        Place::Unit(_) => &[INIT],
    };
    let ancestors: Vec<_> = spec
        .parents
        .iter()
        .chain(outer)
        .enumerate()
        .map(|(above, args)| {
            let executable = args.first().copied().unwrap_or_default();
            let name = executable.rsplit('/').next().unwrap_or_default();
            let pid = if std::ptr::eq(*args, INIT) { 1 } else { 900 - above };
            format!(
                r#"{{"pid":{pid},"name":{},"executable":{},"command_line":{},"user":{{"id":"0"}}}}"#,
                quoted(name.get(..15).unwrap_or(name)),
                quoted(executable),
                quoted(&args.join(" "))
            )
        })
        .collect();
    let args = json!(spec.args);
    let command_line = quoted(&spec.args.join(" "));
    let user = spec.user.id();
    let name = spec
        .user
        .name(host.login)
        .map(|name| format!(r#","name":"{name}""#))
        .unwrap_or_default();
    format!(
        r#""process":{{"pid":{PID},"name":"{}","source":"kernel","executable":"{}","args":{args},"command_line":{command_line},"start":"2026-11-01T00:00:07Z","working_directory":"{}","ancestors":[{}]}},"user":{{"id":"{user}"{name}}},"group":{{"id":"{user}"}},"#,
        spec.name(),
        spec.executable,
        spec.directory,
        ancestors.join(",")
    )
}

/// `systemd`, `container`, `orchestrator` and `kubernetes`.
pub(super) fn place(spec: &Spec) -> String {
    // The same for each record of the caller.
    let id = spec.caller.bytes().fold(0x1234_5678_9abc_def0_u64, |id, byte| {
        id.rotate_left(7) ^ u64::from(byte)
    });
    match spec.place {
        Place::Unit(unit) => format!(r#""systemd":{{"unit":"{unit}","slice":"system.slice"}},"#),
        Place::Session => r#""systemd":{"unit":"session-4.scope","slice":"user-1000.slice","session":"4"},"#.to_owned(),
        Place::Docker(name, image) => format!(
            r#""systemd":{{"unit":"docker-{id:064x}.scope","slice":"system.slice"}},"container":{{"id":"{id:064x}","runtime":"docker","name":"{name}","image":{{"name":"{image}"}}}},"#
        ),
        Place::Pod(namespace, name, image) => format!(
            r#""container":{{"id":"{id:064x}","runtime":"containerd","name":"main","image":{{"name":"{image}"}}}},"orchestrator":{{"type":"kubernetes","resource":{{"id":"1b4e28ba-2fa1-11d2-883f-{:012x}","type":"pod","name":"{name}"}},"namespace":"{namespace}"}},"kubernetes":{{"qos":"burstable"}},"#,
            id >> 16
        ),
    }
}

/// `user`, `systemd` and `container` of records that stand for many requests.
pub(super) fn short_place(host: &Host, spec: &Spec) -> String {
    let user = spec.user.id();
    let name = spec
        .user
        .name(host.login)
        .map(|name| format!(r#","name":"{name}""#))
        .unwrap_or_default();
    let mut text = format!(r#""user":{{"id":"{user}"{name}}},"#);
    if let Place::Unit(unit) = spec.place {
        text += &format!(r#""systemd":{{"unit":"{unit}"}},"#);
    }
    text
}
