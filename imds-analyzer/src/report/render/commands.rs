//! A shell script that requires tokens on the hosts that are ready, and undoes it. It is read before it runs: each host has
//! its evidence beside it.

use std::fmt::{self, Write as _};

use super::{instance_id, minutes, region};
use crate::report::{Host, Report, verdict::Verdict};

const HEAD: &str = r#"#!/bin/sh
# Requires IMDSv2 tokens on the instances for which nothing speaks against it, or undoes that.
# Read it before you run it:  sh require-tokens.sh apply   or   sh require-tokens.sh undo
#
# This changes running instances only. Also change what makes new ones, or the next instance undoes it:
#   launch templates and launch configurations of Auto Scaling groups:  MetadataOptions: HttpTokens=required
#   images:    aws ec2 modify-image-attribute --image-id ami-... --imds-support v2.0
#   accounts:  aws ec2 modify-instance-metadata-defaults --http-tokens required --region ...
# After that: CloudWatch's MetadataNoTokenRejected counts what breaks, and so does imds-analyzer.
set -eu

require() { # instance region [options]
    instance=$1 region=$2
    shift 2
    aws ec2 modify-instance-metadata-options --instance-id "$instance" --region "$region" --http-tokens required "$@"
}

# Leaves a raised hop limit as it is.
undo() { # instance region
    aws ec2 modify-instance-metadata-options --instance-id "$1" --region "$2" --http-tokens optional
}
"#;

pub(super) fn render(report: &Report) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a String does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> fmt::Result {
    let ready = report
        .hosts
        .iter()
        .filter(|host| host.verdict.known() == Some(Verdict::Ready));
    let (known, nameless): (Vec<&Host>, Vec<&Host>) = ready.partition(|host| place(host).is_some());
    writeln!(text, "\ncase ${{1-}} in\napply)")?;
    for (host, (instance, region)) in known.iter().filter_map(|host| Some((host, place(host)?))) {
        writeln!(text, "    # {}", evidence(host))?;
        write!(text, "    require {instance} {region}")?;
        if let Some(hops) = host.hop_limit {
            write!(text, " --http-put-response-hop-limit {hops}")?;
        }
        writeln!(text)?;
    }
    if known.is_empty() {
        writeln!(text, "    echo 'No instance is ready.' >&2\n    exit 1")?;
    }
    writeln!(text, "    ;;\nundo)")?;
    for (instance, region) in known.iter().filter_map(|host| place(host)) {
        writeln!(text, "    undo {instance} {region}")?;
    }
    if known.is_empty() {
        writeln!(text, "    :")?;
    }
    writeln!(
        text,
        "    ;;\n*)\n    echo \"usage: sh $0 apply|undo\" >&2\n    exit 2\n    ;;\nesac"
    )?;
    for host in nameless {
        writeln!(
            text,
            "# Ready, but its instance or region is not known: {}",
            comment(&host.name)
        )?;
    }
    let verdicts = report.observed.verdicts;
    writeln!(
        text,
        "# Left out: {} hosts that are not ready, {} that are unproven. imds-analyzer report says why.",
        verdicts.not_ready, verdicts.unproven
    )
}

/// Instance and region, if both are what they should be.
fn place(host: &Host) -> Option<(&str, &str)> {
    Some((
        instance_id(host.instance.as_deref()?)?,
        region(host.region.as_deref()?)?,
    ))
}

fn evidence(host: &Host) -> String {
    let since = host.since.map(minutes).unwrap_or_default();
    let until = host.until.map(minutes).unwrap_or_default();
    let image = host
        .image
        .as_deref()
        .map(|image| format!(", image {}", comment(image)))
        .unwrap_or_default();
    let containers = if host.hop_limit.is_some() {
        ", with containers"
    } else {
        ""
    };
    format!(
        "{}{image}{containers}: {since} to {until}, {} hours, {} v2 calls, no v1 call, nothing lost",
        comment(&host.name),
        host.hours,
        host.calls.v2
    )
}

/// Text of others in a comment: it ends no line.
fn comment(text: &str) -> String {
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || "-._:/".contains(*character);
    text.chars().filter(is_plain).take(128).collect()
}
