use std::sync::Arc;

use clap::Parser;

use super::*;
use crate::{
    cli::{Cli, Command as CliCommand},
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
    assert_eq!(settings.owner, OwnerChoice::Auto);
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
        "--format json --color never --duration 10m --count 3 --owner tp_btf --args full -q -- aws s3 ls --debug",
    )
    .expect("valid settings");
    assert_eq!(settings.format, Format::Json);
    assert_eq!(settings.duration, Some(Duration::from_secs(600)));
    assert_eq!(settings.count.map(NonZeroU64::get), Some(3));
    assert_eq!(settings.owner, OwnerChoice::TpBtf);
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
fn fail_on_keeps_local_apart() {
    let v1 = full_event();
    let v2 = minimal_event();
    let local = Event {
        local: true,
        ..v1.clone()
    };
    let unknown = Event {
        verdict: Verdict::Unknown,
        ..v2.clone()
    };
    assert!(fails("--fail-on v1", &v1));
    assert!(!fails("--fail-on v1", &local));
    assert!(!fails("--fail-on v1", &v2));
    assert!(!fails("--fail-on v1", &unknown));
    assert!(fails("--fail-on v1-local", &local));
    assert!(!fails("--fail-on v1-local", &v1));
    assert!(fails("--fail-on unknown", &unknown));
    assert!(fails("--fail-on v1,v1-local,unknown", &local));
    assert!(fails("--fail-on v1 --fail-on unknown", &unknown));
}

#[test]
fn contradiction() {
    let error = settings("--v1 --fail-on v1,unknown").expect_err("a contradiction");
    assert_eq!(
        error.to_string(),
        "--fail-on unknown never matches with --v1, which filters such calls out: remove --v1 or unknown"
    );
}
