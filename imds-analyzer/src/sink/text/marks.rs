//! Marks at the end of a request's line.

use imds_analyzer_ebpf::classify::{PathClass, Reason, Verdict};

use super::{ALARM, CAUTION, DOUBT, NAME_WIDTH, PLAIN, foreign};
use crate::event::{Ancestor, Cause, Event, NetNs, Orchestrator, Process, Risk, User};

/// The marks of `event`.
pub(super) fn marks(event: &Event) -> Vec<(anstyle::Style, String)> {
    let mut marks = Vec::new();
    if let Some(reason) = event.reason {
        marks.push((DOUBT, format!("reason={}", reason.as_str())));
    }
    if event.malformed && event.reason != Some(Reason::Malformed) {
        marks.push((DOUBT, "malformed".to_owned()));
    }
    if matches!(
        event.path_class,
        PathClass::Credential | PathClass::UserData | PathClass::Identity
    ) {
        marks.push((CAUTION, event.path_class.as_str().to_owned()));
    }
    // No mark for callers that never asked: they make most v1 calls.
    if let Some(cause) = event.judgement.cause.filter(|cause| *cause != Cause::NoTokenRequest) {
        marks.push((CAUTION, cause.as_str().to_owned()));
    }
    if event.judgement.risks.contains(&Risk::ServerChild) {
        marks.push((ALARM, Risk::ServerChild.as_str().to_owned()));
    }
    if event.verdict == Verdict::V1 && event.answer.status() == Some(401) {
        marks.push((ALARM, "rejected".to_owned()));
    }
    if event.relay {
        marks.push((CAUTION, "relay".to_owned()));
    }
    marks.extend(of_process(event.local, event.net_ns, event.process.as_deref()));
    marks
}

/// The marks of a connection and its process.
pub(super) fn of_process(local: bool, net_ns: NetNs, process: Option<&Process>) -> Vec<(anstyle::Style, String)> {
    let mut marks = Vec::new();
    if local {
        marks.push((CAUTION, "local".to_owned()));
    }
    if net_ns == NetNs::Other {
        marks.push((PLAIN, "netns".to_owned()));
    }
    if let Some(process) = process {
        let mut named = |key: &str, value: &str| marks.push((PLAIN, format!("{key}={}", foreign(value, NAME_WIDTH))));
        if let Some(user) = user_name(&process.user) {
            named("user", &user);
        }
        let login = process.login.as_ref().filter(|login| login.user.id != process.user.id);
        if let Some(login) = login.and_then(|login| user_name(&login.user)) {
            named("login", &login);
        }
        if let Some(via) = via(&process.ancestors) {
            named("via", &via);
        }
        match (&process.container, process.user_unit.as_ref().or(process.unit.as_ref())) {
            (Some(container), _) => named("container", container.short_name()),
            (None, Some(unit)) => named("unit", unit),
            (None, None) => {}
        }
        if let Some(orchestrator) = &process.orchestrator
            && let Some(workload) = workload(orchestrator)
        {
            named(orchestrator.platform.workload().as_str(), &workload);
        }
    }
    marks
}

pub(super) fn user_name(user: &User) -> Option<String> {
    user.name.clone().or_else(|| user.id.map(|id| id.to_string()))
}

/// How the process was started: ancestors that stand for a person or a schedule, outermost first.
fn via(ancestors: &[Ancestor]) -> Option<String> {
    let known = |ancestor: &Ancestor| match ancestor.name.as_str() {
        "sshd" | "sshd-session" | "dropbear" => Some("ssh"),
        "cron" | "crond" | "anacron" | "atd" => Some("cron"),
        "sudo" | "doas" | "pkexec" => Some("sudo"),
        "su" | "runuser" => Some("su"),
        "ssm-session-wor" => Some("ssm"),
        _ => None,
    };
    let mut steps: Vec<_> = ancestors.iter().rev().filter_map(known).collect();
    // Several sshd processes serve a connection, and sudo may have a monitor process.
    steps.dedup();
    (!steps.is_empty()).then(|| steps.join(","))
}

/// `namespace/pod`, or the task's family.
pub(super) fn workload(orchestrator: &Orchestrator) -> Option<String> {
    let name = orchestrator.name.as_deref()?;
    let namespace = orchestrator.namespace.as_deref().or(orchestrator.cluster.as_deref());
    Some(namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{event::Platform, sink::tests::full_event};

    #[test]
    fn a_workload_is_called_what_its_platform_calls_it() {
        for (platform, expected) in [(Platform::Kubernetes, "pod=prod/web"), (Platform::Ecs, "task=prod/web")] {
            let mut orchestrator = Orchestrator::new(platform, "id".to_owned());
            orchestrator.name = Some("web".to_owned());
            match platform {
                Platform::Kubernetes => orchestrator.namespace = Some("prod".to_owned()),
                Platform::Ecs => orchestrator.cluster = Some("prod".to_owned()),
            }
            let mut event = full_event();
            event.process = Some(Arc::new(Process {
                orchestrator: Some(orchestrator),
                ..Process::default()
            }));
            let marks: Vec<_> = marks(&event).into_iter().map(|(_, mark)| mark).collect();
            assert!(marks.iter().any(|mark| mark == expected), "{marks:?}");
        }
    }

    /// Names as `ps` shows them, the parent first.
    fn via_of(names: &str) -> Option<String> {
        let ancestor = |name: &str| Ancestor {
            name: name.to_owned(),
            ..Ancestor::default()
        };
        via(&names.split(' ').map(ancestor).collect::<Vec<_>>())
    }

    #[test]
    fn what_started_a_process_is_named_from_the_outside_in() {
        for (chain, expected) in [
            ("sh cron cron systemd", Some("cron")),
            ("bash sudo sudo bash sshd sshd sshd systemd", Some("ssh,sudo")),
            ("bash su sudo bash sshd-session sshd systemd", Some("ssh,sudo,su")),
            (
                "sh ssm-session-wor ssm-agent-worke amazon-ssm-agen systemd",
                Some("ssm"),
            ),
            ("run-parts sh crond systemd", Some("cron")),
            ("runc containerd-shim systemd", None),
            ("systemd", None),
        ] {
            assert_eq!(via_of(chain).as_deref(), expected, "{chain}");
        }
    }
}
