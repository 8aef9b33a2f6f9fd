//! Why a call had no token, or why its token was rejected.

use imds_analyzer_ebpf::classify::Verdict;

use super::history::Asked;
use crate::event::{Answer, Cause, Event, Judgement};

/// The header of a token, as it appears in arguments.
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// Finds the cause, and the status that goes with it. `asked` is the caller's last request for a token.
pub(super) fn of(event: &Event, asked: Option<Asked>, is_known: bool) -> Judgement {
    let (cause, token_status) = match event.verdict {
        Verdict::V1 if is_known => without_token(event, asked),
        Verdict::V2 | Verdict::V2EmptyToken | Verdict::V2TokenRequest | Verdict::InvalidTokenRequest => {
            (rejected(event), None)
        }
        Verdict::V1 | Verdict::OtherCloud | Verdict::Unknown => (None, None),
    };
    Judgement {
        cause,
        token_status,
        ..Judgement::default()
    }
}

fn without_token(event: &Event, asked: Option<Asked>) -> (Option<Cause>, Option<u16>) {
    if names_token_header(event) {
        return (Some(Cause::EmptyVariable), None);
    }
    let Some(asked) = asked else {
        return (Some(Cause::NoTokenRequest), None);
    };
    match asked.answer {
        // The caller did not wait for the answer, or none came.
        None | Some(Answer::None) => (Some(Cause::TokenUnanswered), None),
        Some(Answer::Answered(reply)) if reply.is_success() => (Some(Cause::TokenUnused), None),
        Some(Answer::Answered(reply)) => (Some(Cause::TokenRefused), Some(reply.status)),
        Some(Answer::Unseen) => (None, None),
    }
}

fn rejected(event: &Event) -> Option<Cause> {
    let is_token_request = matches!(event.verdict, Verdict::V2TokenRequest | Verdict::InvalidTokenRequest);
    match event.answer.status()? {
        401 if !is_token_request => Some(Cause::TokenRejected),
        403 if event.forwarded => Some(Cause::Forwarded),
        400 if is_token_request => Some(Cause::TtlInvalid),
        _ => None,
    }
}

/// True for arguments like `curl -H "X-aws-ec2-metadata-token: "`. The header of a token's lifetime has a longer name.
fn names_token_header(event: &Event) -> bool {
    let Some(process) = event.process.as_deref() else {
        return false;
    };
    let header = TOKEN_HEADER.as_bytes();
    process.args.iter().any(|arg| {
        let mut rest = arg.as_bytes();
        while let Some(name) = rest.get(..header.len()) {
            if name.eq_ignore_ascii_case(header) && rest.get(header.len()) != Some(&b'-') {
                return true;
            }
            rest = &rest[1..];
        }
        false
    })
}
