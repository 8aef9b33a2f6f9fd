//! The generated parts of `docs/runbook.md`.

use super::{Block, code, table};
use crate::{config::Config, sink::journald::Field, vocabulary::Vocabulary as _};

pub(super) fn blocks() -> Vec<Block> {
    vec![
        ("journal fields", journal_fields()),
        ("restart-only keys", restart_only_keys()),
    ]
}

fn journal_fields() -> String {
    let rows = Field::ALL.iter().map(|&field| {
        let holds = match field {
            Field::Action => "the kind of record, `event.action`",
            Field::Version => "`imds.version`: `v1`, `v2`, `other` or `unknown`",
            Field::Verdict => "`imds.verdict`",
            Field::Reason => "`imds.reason`",
            Field::PathClass => "`imds.path_class`",
            Field::Path => "`url.path`",
            Field::Method => "`http.request.method`",
            Field::UserAgent => "`user_agent.original`",
            Field::Endpoint => "`imds.endpoint`: `ipv4` or `ipv6`",
            Field::Local => "`1` if the call was to an address of this host itself, else `0`",
            Field::Relay => "`1` if the call repeats one that has a record of its own; else absent",
            Field::Answer => "`imds.answer`: `answered`, `none` or `unseen`",
            Field::Status => "`http.response.status_code`",
            Field::Cause => "`imds.cause`: why a call had no token, or why its token was rejected",
            Field::Client => "`imds.client.name`",
            Field::ClientVersion => "`imds.client.version`",
            Field::Remedy => "`imds.remedy.id`: see `imds-analyzer explain`",
            Field::Attempt => "`imds.attempt`: what became of a connection without a call",
            Field::Caller => "`imds.caller`",
            Field::Pid => "`process.pid`",
            Field::Comm => "`process.name`",
            Field::Exe => "`process.executable`",
            Field::Cmdline => "`process.command_line`, masked",
            Field::Uid => "`user.id`",
            Field::User => "`user.name`",
            Field::Unit => "`systemd.unit`",
            Field::UserUnit => "`systemd.user_unit`",
            Field::Container => "`container.id`",
            Field::Orchestrator => "`orchestrator.resource.id`: the pod or task",
            Field::CallsV1 => "v1 calls that a rate-limited record stands for",
            Field::CallsV2 => "v2 calls that it stands for",
            Field::CallsOther => "calls for other clouds that it stands for",
            Field::CallsUnknown => "calls that it stands for and that could not be judged",
            Field::Record => "the whole record, as in the log file",
        };
        [code(field.as_str()), holds.to_owned()]
    });
    table(["field", "holds"], rows)
}

fn restart_only_keys() -> String {
    let config = Config::default();
    let keys = config
        .read_at_start(&config)
        .map(|(key, _)| format!("- {}\n", code(key)));
    keys.concat()
}
