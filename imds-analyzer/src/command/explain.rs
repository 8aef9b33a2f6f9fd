//! `explain`: what a word in a record means, and how to fix what it reports.

use std::process::{Command, Stdio};

use imds_analyzer_ebpf::classify::Verdict;

use crate::{
    console::{self, say},
    event::{Cause, Risk},
    exit_code::ExitCode,
    judge::Remedies,
    vocabulary::Vocabulary,
};

/// When a call gets this verdict. The text is Markdown.
pub(crate) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "the head could not be judged; `imds.reason` says why",
        Verdict::V2TokenRequest => {
            "PUT to the token path with `X-aws-ec2-metadata-token-ttl-seconds` and without `X-Forwarded-For`"
        }
        Verdict::InvalidTokenRequest => "any other PUT to the token path, or the TTL header on another request",
        Verdict::V2 => "the header `X-aws-ec2-metadata-token` with a value",
        Verdict::V2EmptyToken => "the same header with an empty value",
        Verdict::OtherCloud => "a probe for another cloud's metadata service, on a path that IMDS does not serve",
        Verdict::V1 => "every other complete head",
    }
}

pub(super) fn run(word: Option<&str>) -> anyhow::Result<ExitCode> {
    let remedies = console::remedies();
    let text = match word {
        None => overview(&remedies),
        Some(path) if path.starts_with('/') => match package_of(path) {
            Some(package) => format!("{path}\n  package: {}\n", package.trim()),
            None => {
                say(format_args!(
                    "error: neither rpm nor dpkg knows a package that has {path}"
                ));
                return Ok(ExitCode::Failed);
            }
        },
        Some(word) => match of_word(&remedies, word) {
            Some(text) => text,
            None => {
                say(format_args!(
                    "error: {word:?} is no remedy, cause, risk or verdict; `imds-analyzer explain` lists them"
                ));
                return Ok(ExitCode::Usage);
            }
        },
    };
    console::print(&text)?;
    Ok(ExitCode::Ok)
}

/// The answer of rpm or dpkg to the question which package has the file at `path`. The daemon reads dpkg's lists only.
fn package_of(path: &str) -> Option<String> {
    const COMMANDS: [[&str; 2]; 2] = [["rpm", "-qf"], ["dpkg", "-S"]];
    let _asking = console::doing("asking rpm and dpkg", true);
    COMMANDS.into_iter().find_map(|[program, option]| {
        let mut command = Command::new(program);
        let output = command.args([option, "--", path]).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    })
}

/// Everything known about `word`: it may be a remedy, a cause, a risk and a verdict at the same time.
fn of_word(remedies: &Remedies, word: &str) -> Option<String> {
    let mut text = String::new();
    if let Some(remedy) = remedies.get(word) {
        text.push_str(&remedy.to_string());
    }
    let meanings = [
        Cause::of_word(word).map(|cause| ("cause", cause.meaning().to_owned())),
        Risk::of_word(word).map(|risk| {
            let (meaning, limits) = risk.meaning();
            ("risk", format!("{meaning}. It does not say {limits}"))
        }),
        Verdict::of_word(word).map(|it| ("verdict", verdict(it).to_owned())),
    ];
    for (kind, meaning) in meanings.into_iter().flatten() {
        text.push_str(&format!("{word} ({kind})\n  {}\n", meaning.replace('`', "")));
    }
    let of_cause: Vec<_> = remedies.iter().filter(|remedy| remedy.is_for(word)).collect();
    for remedy in of_cause {
        text.push_str(&format!("\n{remedy}"));
    }
    (!text.is_empty()).then_some(text)
}

fn overview(remedies: &Remedies) -> String {
    let mut text = "What to change (remedies)\n".to_owned();
    for remedy in remedies.iter() {
        text.push_str(&format!("  {}\n      {}\n", remedy.id, remedy.text));
    }
    let mut list = |title: &str, words: Vec<&str>| {
        text.push_str(&format!("\n{title}\n  {}\n", words.join(", ")));
    };
    list("Why a call had no token (causes)", words::<Cause>());
    list("Signs of more (risks)", words::<Risk>());
    list("What a call is (verdicts)", words::<Verdict>());
    text.push_str("\nOne of them: imds-analyzer explain WORD\nThe package of a program: imds-analyzer explain /PATH\n");
    text
}

fn words<T: Vocabulary>() -> Vec<&'static str> {
    T::ALL.iter().map(|value| value.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    #[test]
    fn words_are_explained() {
        let remedies = Remedies::built_in();
        golden("command/testdata/explain.txt", &overview(&remedies));
        let words = ["botocore-upgrade", "token-unanswered", "server-child", "v1"];
        let text: Vec<String> = words
            .into_iter()
            .map(|word| of_word(&remedies, word).expect("it is known"))
            .collect();
        golden("command/testdata/explain-words.txt", &text.join("\n"));
        assert_eq!(of_word(&remedies, "nothing"), None);
    }
}
