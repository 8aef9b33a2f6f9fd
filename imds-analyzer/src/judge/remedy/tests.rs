#![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

use super::*;
use crate::{
    event::{Client, ClientSource},
    sink::tests::full_event,
};

fn find(client: Option<(&'static str, Option<&str>)>, cause: Cause, change: impl FnOnce(&mut Event)) -> Option<String> {
    let mut event = full_event();
    event.judgement = Judgement::default();
    change(&mut event);
    let judgement = Judgement {
        cause: Some(cause),
        client: client.map(|(name, version)| Client {
            name,
            version: version.map(str::to_owned),
            source: ClientSource::UserAgent,
            path: None,
        }),
        ..Judgement::default()
    };
    let advice = Remedies::built_in().find(&event, &judgement)?;
    Some(format!("{}: {}", advice.id, advice.text))
}

#[test]
fn the_built_in_file_is_as_such_files_are() {
    let remedies = parse(BUILT_IN).unwrap();
    assert!(remedies.len() > 30);
    for remedy in &remedies {
        assert!(remedy.source.starts_with("https://"), "{}", remedy.id);
        assert!(
            remedy.text.ends_with('.') && remedy.text.matches(". ").count() == 0,
            "{}",
            remedy.text
        );
        let has_floor = remedy.affected.iter().any(|range| range.fixed.is_some());
        assert!(!has_floor || remedy.since.is_some(), "{}", remedy.id);
    }
    let last = remedies.last().unwrap();
    assert!(
        last.client.is_empty() && last.cause.is_empty() && last.program.is_empty(),
        "the last one is for all"
    );
}

#[test]
fn client_version_cause_and_place_decide() {
    let no_request = Cause::NoTokenRequest;
    for (client, cause, expected) in [
        (Some(("botocore", Some("1.12.253"))), no_request, "botocore-upgrade"),
        (Some(("botocore", Some("1.13.25"))), no_request, "sdk-capable"),
        (Some(("botocore", None)), no_request, "botocore-upgrade"),
        (Some(("aws-cli", Some("1.16.288"))), no_request, "aws-cli-upgrade"),
        (Some(("aws-cli", Some("2.15.0"))), no_request, "sdk-capable"),
        (Some(("aws-sdk-go", Some("1.25.37"))), no_request, "go-upgrade"),
        (Some(("aws-sdk-ruby", Some("2.11.400"))), no_request, "ruby-upgrade"),
        (Some(("aws-sdk-ruby", Some("2.11.500"))), no_request, "sdk-capable"),
        (Some(("aws-sdk-ruby", Some("3.50.0"))), no_request, "ruby-upgrade"),
        (Some(("aws-sdk-java", Some("1.11.534.1"))), no_request, "java-upgrade"),
        (Some(("curl", Some("8.5.0"))), no_request, "shell-script"),
        (Some(("curl", Some("8.5.0"))), Cause::EmptyVariable, "empty-variable"),
        (Some(("python-requests", None)), no_request, "own-code"),
        (
            Some(("botocore", Some("1.12.253"))),
            Cause::TokenUnanswered,
            "hop-limit",
        ),
        (None, Cause::TokenRejected, "token-rejected"),
        (None, no_request, "unknown"),
    ] {
        let found = find(client, cause, |_| {}).unwrap();
        assert!(
            found.starts_with(&format!("{expected}: ")),
            "{client:?} {cause:?}: {found}"
        );
    }
    let found = find(None, Cause::TokenUnanswered, |event| event.net_ns = NetNs::Host).unwrap();
    assert!(found.starts_with("token-unanswered: "), "{found}");
    let found = find(Some(("botocore", None)), no_request, |_| {}).unwrap();
    assert!(found.ends_with("; the version in use could not be read."), "{found}");
}

#[test]
fn a_call_that_is_well_needs_none() {
    let mut event = full_event();
    event.verdict = Verdict::V2;
    assert_eq!(Remedies::built_in().find(&event, &Judgement::default()), None);
}

#[test]
fn a_file_adds_and_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("remedies.toml");
    let own = "[[remedy]]\nid = \"own\"\nprogram = [\"run*\"]\ntext = \"Ask team X.\"\nsource = \"wiki\"\n\
        [[remedy]]\nid = \"unknown\"\ntext = \"Ask us.\"\nsource = \"wiki\"\n";
    std::fs::write(&path, own).unwrap();
    let remedies = Remedies::built_in().with_file(&path).unwrap();
    assert_eq!(remedies.get("unknown").unwrap().text, "Ask us.");
    let advice = remedies.find(&full_event(), &Judgement::default()).unwrap();
    assert_eq!(&*advice.text, "Ask team X.");
    assert_eq!(remedies.iter().count(), Remedies::built_in().iter().count() + 1);
}

#[test]
fn errors_say_which_entry_and_why() {
    let entry = |more: &str| format!("[[remedy]]\nid = \"a\"\ntext = \"t\"\nsource = \"s\"\n{more}\n");
    for (text, expected) in [
        (
            entry("client = [\"botcore\"]"),
            "remedy 1, \"a\": there is no client \"botcore\"",
        ),
        (entry("cause = [\"bad\"]"), "there is no cause \"bad\""),
        (entry("netns = \"mine\""), "netns must be host or other"),
        (entry("affected = [{ fixed = \"1\" }]"), "affected needs a client"),
        (
            entry("client = [\"curl\"]\naffected = [{}]"),
            "affected needs introduced or fixed",
        ),
        (
            entry("client = [\"curl\"]\naffected = [{ fixed = \"v1\" }]"),
            "affected needs introduced or fixed",
        ),
        (entry("").repeat(2), "remedy 2: there are two \"a\""),
        (entry("hint = 1"), "unknown field `hint`"),
        (
            "[[remedy]]\nid = \"A B\"\ntext = \"t\"\nsource = \"s\"".to_owned(),
            "id must be lower-case",
        ),
        ("[[remedy]]\nid = \"a\"".to_owned(), "missing field `text`"),
        ("[[remedies]]".to_owned(), "did you mean `remedy`?"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
