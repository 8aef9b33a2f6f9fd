//! Masking of anything that is, or looks like, a secret, in text that others control: arguments, request targets,
//! user agents.
//!
//! Two nets. The first goes by **name**: what follows `X-aws-ec2-metadata-token`, `Authorization` or, unless everything
//! may be shown, a password-, secret- or key-like name. The second goes by **shape**: a run of base64 characters that
//! ends like a session token ends, wherever it stands. Masking too much is a nuisance, too little is a leak: in doubt
//! the text is masked.

mod names;
mod scan;
#[cfg(test)]
mod tests;
mod tools;

use clap::ValueEnum;
use serde::Deserialize;

use self::scan::{Awaited, MASK, Pending, Scanner, Shown};

/// `args`: how much of a process's command line to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ArgsMode {
    /// All arguments; only IMDS tokens and Authorization values are masked.
    Full,
    /// All arguments; values of passwords, secrets and keys are masked too.
    #[default]
    Redacted,
    /// Only the first argument, the program's name.
    Executable,
}

/// Masks the secrets in an argument vector; the result has as many arguments, one at most in
/// [`ArgsMode::Executable`].
///
/// A value may be an argument of its own (`-H`, `X-aws-ec2-metadata-token:`, `AQ...`), so the vector is masked as a whole.
pub fn mask_args(mut args: Vec<String>, mode: ArgsMode) -> Vec<String> {
    if mode == ArgsMode::Executable {
        args.truncate(1);
    }
    let names = match mode {
        ArgsMode::Full => Shown::AllButTokens,
        ArgsMode::Redacted | ArgsMode::Executable => Shown::NoSecrets,
    };
    let mut scanner = Scanner::new(names);
    let mut pending = None;
    let mut shell_text = false;
    args.into_iter()
        .map(|arg| {
            let (scanned, announced) = scanner.argument(&arg, shell_text);
            let (masked, next) = match pending.map(|pending| value(&arg, pending)) {
                Some(Role::Skipped) => (arg.clone(), pending),
                Some(Role::Shown(next)) => (scanned, Some(next)),
                Some(Role::Value(next)) => (MASK.to_owned(), next.or(announced)),
                Some(Role::UserInfo(separator)) => (mask_password(&scanned, separator), announced),
                Some(Role::Proxy) => (mask_proxy(&scanned), announced),
                Some(Role::Other) | None => (scanned, announced),
            };
            shell_text = takes_shell_text(&arg);
            pending = next;
            masked
        })
        .collect()
}

/// Masks the secrets in one piece of text that is no argument: a request target, a user agent.
pub fn mask_text(text: &str) -> String {
    Scanner::new(Shown::NoSecrets).text(text)
}

/// Masks tokens, and nothing else, in the path of a file.
pub fn mask_path(path: &str) -> String {
    // Name by name: a slash is a base64 character too, and the rest of the path is worth seeing.
    let mask = |name| Scanner::new(Shown::AllButTokens).text(name);
    path.split('/').map(mask).collect::<Vec<_>>().join("/")
}

/// As [`mask_text`] and to be applied to text that is known to have been cut at its end, where a token may have lost
/// the `==` that gives it away: a trailing run of 16 or more base64url characters is masked too.
pub fn mask_truncated(text: &str) -> String {
    scan::mask_tail(&mask_text(text))
}

/// As [`mask_args`], for arguments that are known to have been cut at the end of the last one.
pub fn mask_truncated_args(args: Vec<String>, mode: ArgsMode) -> Vec<String> {
    let cut_is_shown = mode != ArgsMode::Executable || args.len() == 1;
    let mut args = mask_args(args, mode);
    if let Some(last) = args.last_mut().filter(|_| cut_is_shown) {
        *last = scan::mask_tail(last);
    }
    args
}

/// The part that an argument plays behind one that announced a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing yet: empty, or the colon.
    Skipped,
    /// The scheme of an `Authorization` value.
    Shown(Pending),
    /// The value, and whether there is more of it.
    Value(Option<Pending>),
    UserInfo(u8),
    Proxy,
    Other,
}

/// The role of `arg` behind what announced it. A URL is no header's value: it follows an empty header
/// (`-H X-aws-ec2-metadata-token: http://...`), and is worth seeing.
fn value(arg: &str, pending: Pending) -> Role {
    let is_mark = arg.bytes().all(|byte| b":=,>\"'` \t\r\n\\".contains(&byte));
    let header = matches!(pending, Pending::Header | Pending::Authorization(_));
    match pending {
        _ if header && is_mark => Role::Skipped,
        _ if header && scan::is_url(arg.trim_start_matches(['"', '\''])) => Role::Other,
        Pending::Header => Role::Value(None),
        Pending::Authorization(awaited) => authorization(arg, awaited),
        // An option whose value is asked for or left out is masked as well: it may be one.
        Pending::Secret => Role::Value(None),
        Pending::Named if arg == "--" || is_mark => Role::Skipped,
        Pending::Named if is_option(arg) => Role::Other,
        Pending::Named => Role::Value(None),
        Pending::UserInfo(separator) => Role::UserInfo(separator),
        Pending::Proxy => Role::Proxy,
    }
}

/// `Authorization:`, `Bearer`, `<value>`; the value of `Digest` may be many arguments.
fn authorization(arg: &str, awaited: Awaited) -> Role {
    let text = arg.trim_matches(|char: char| char.is_ascii_whitespace() || ":\"'\\".contains(char));
    let more = arg
        .trim_end()
        .ends_with(',')
        .then_some(Pending::Authorization(Awaited::Credentials));
    match awaited {
        _ if names::is_auth_scheme(text.as_bytes()) => Role::Shown(Pending::Authorization(Awaited::Credentials)),
        Awaited::Perhaps if arg.starts_with('-') && arg.len() < scan::TOKEN_SHAPE => Role::Other,
        Awaited::Scheme if scan::awaited(text.as_bytes()).is_some() => {
            Role::Value(more.or(Some(Pending::Authorization(Awaited::Perhaps))))
        }
        Awaited::Scheme | Awaited::Credentials | Awaited::Perhaps => Role::Value(more),
    }
}

/// True for an option. An argument as long as a token is a value, even if it begins with dashes.
fn is_option(arg: &str) -> bool {
    let is_short = arg.starts_with('-') && arg.len() == 2;
    is_short || arg.starts_with("--") && arg.len() < scan::TOKEN_SHAPE
}

/// `user:password@host`, and `host` alone.
fn mask_proxy(arg: &str) -> String {
    let at = arg.find("://").map_or(0, |at| at + 3);
    match arg
        .split_at_checked(at)
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)))
    {
        Some((scheme, (user, host))) => format!("{scheme}{}@{host}", mask_password(user, b':')),
        None => arg.to_owned(),
    }
}

/// `user:password`, and `user` alone.
fn mask_password(arg: &str, separator: u8) -> String {
    match arg.split_once(char::from(separator)) {
        Some((user, _)) => format!("{user}{}{MASK}", char::from(separator)),
        None => arg.to_owned(),
    }
}

/// `sh -c`, `bash -lc`: the next argument is a program's text, in which a value ends where the shell says.
fn takes_shell_text(arg: &str) -> bool {
    arg.strip_prefix('-')
        .is_some_and(|flags| flags.ends_with('c') && flags.bytes().all(|flag| flag.is_ascii_alphabetic()))
}
