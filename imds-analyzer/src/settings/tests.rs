use std::sync::Arc;

use clap::{Parser, ValueEnum as _};
use imds_analyzer_ebpf::abi::OwnerHook;

use super::*;
use crate::{
    cli::{Cli, Command as CliCommand},
    kernel::plan::Object,
    sink::tests::{full_event, minimal_event},
};

fn settings(args: &str) -> Result<WatchSettings, SettingsError> {
    let args = ["imds-analyzer", "watch"].into_iter().chain(args.split_whitespace());
    match Cli::try_parse_from(args).expect("valid arguments").command {
        CliCommand::Watch(args) => args.try_into(),
        other => unreachable!("{other:?}"),
    }
}

fn matches(args: &str, event: &Event) -> bool {
    settings(args).expect("valid settings").filter.matches(event)
}

fn fails(args: &str, event: &Event) -> bool {
    settings(args).expect("valid settings").fail_on.matches(event)
}

#[test]
fn defaults() {
    let settings = settings("").expect("valid settings");
    assert_eq!(settings.format, Format::Text);
    assert_eq!(settings.color, ColorChoice::Auto);
    assert_eq!(settings.wanted, Wanted::default());
    assert_eq!(settings.args, ArgsMode::Redacted);
    assert_eq!(
        (settings.duration, settings.count, settings.command),
        (None, None, None)
    );
    assert!(!settings.verbose && !settings.quiet);
    assert!(settings.filter.matches(&full_event()) && settings.filter.matches(&minimal_event()));
    assert!(!settings.fail_on.matches(&full_event()));
}

#[test]
fn everything() {
    let settings = settings(
        "--format json --color never --duration 10m --count 3 --owner tp_btf --object legacy --kernel-rate 7 --args full -q -- aws s3 ls --debug",
    )
    .expect("valid settings");
    assert_eq!(settings.format, Format::Json);
    assert_eq!(settings.duration, Some(Duration::from_secs(600)));
    assert_eq!(settings.count.map(NonZeroU64::get), Some(3));
    assert_eq!(settings.wanted.owner, Some(OwnerHook::TpBtf));
    assert_eq!(settings.wanted.object, Some(Object::Legacy));
    assert_eq!(settings.wanted.budget.rate, 7);
    assert_eq!(settings.args, ArgsMode::Full);
    let command = Command {
        program: "aws".into(),
        args: ["s3", "ls", "--debug"].map(OsString::from).to_vec(),
    };
    assert_eq!(settings.command, Some(command));
}

#[test]
fn filters() {
    let event = full_event();
    for args in [
        "--v1",
        "--pid 1234",
        "--pid 1,1234",
        "--comm python3",
        "--comm curl --comm python3",
        "--uid 1000",
        "--path security-credentials",
        "--path /latest/ --uid 1000 --v1",
    ] {
        assert!(matches(args, &event), "{args}");
    }
    for args in [
        "--pid 1",
        "--comm python",
        "--uid 0",
        "--path user-data",
        "--pid 1234 --uid 0",
    ] {
        assert!(!matches(args, &event), "{args}");
    }
    // A v2 call of nobody known, without a path.
    for args in ["--v1", "--pid 1234", "--comm python3", "--uid 0", "--path /"] {
        assert!(!matches(args, &minimal_event()), "{args}");
    }
}

#[test]
fn names_longer_than_the_kernel_keeps() {
    let mut event = full_event();
    let mut process = event.process.as_deref().cloned().expect("a process");
    process.name = "amazon-ssm-agen".to_owned();
    event.process = Some(Arc::new(process));
    assert!(matches("--comm amazon-ssm-agent", &event));
    assert!(matches("--comm amazon-ssm-agen", &event));
    assert!(!matches("--comm amazon-ssm", &event));
}

#[test]
fn descendants() {
    let filter = |pid| Filter::default().below(pid);
    assert!(filter(1234).matches(&full_event()));
    assert!(filter(1200).matches(&full_event()));
    assert!(!filter(1240).matches(&full_event()));
    assert!(!filter(1).matches(&minimal_event()));
}

#[test]
fn each_kind_of_fail_on_matches_its_calls_alone() {
    let call = |verdict, local, relay| Event {
        verdict,
        local,
        relay,
        ..minimal_event()
    };
    for (event, expected) in [
        (call(Verdict::V1, false, false), Some("v1")),
        (call(Verdict::V1, true, false), Some("v1-local")),
        (call(Verdict::Unknown, false, false), Some("unknown")),
        (call(Verdict::Unknown, true, false), None),
        // It repeats a call that was seen already.
        (call(Verdict::V1, false, true), None),
        (call(Verdict::V1, true, true), None),
        (call(Verdict::Unknown, false, true), None),
        (call(Verdict::V2, false, false), None),
        (call(Verdict::V2EmptyToken, false, false), None),
        (call(Verdict::InvalidTokenRequest, false, false), None),
        (call(Verdict::OtherCloud, false, false), None),
    ] {
        for kind in FailCondition::value_variants() {
            let matched = fails(&format!("--fail-on {kind}"), &event);
            assert_eq!(
                matched,
                expected == Some(&kind.to_string()),
                "{kind}: {:?}",
                event.verdict
            );
        }
        assert_eq!(
            fails("--fail-on v1,v1-local --fail-on unknown", &event),
            expected.is_some()
        );
        assert!(!fails("", &event));
    }
}

#[test]
fn contradiction() {
    let error = settings("--v1 --fail-on v1,unknown").expect_err("a contradiction");
    assert_eq!(
        error.to_string(),
        "--fail-on unknown never matches with --v1, which filters such calls out: remove --v1 or unknown"
    );
}
