//! Masking of anything that is, or looks like, a secret, in text that others control: arguments, request targets,
//! user agents.
//!
//! There are two methods. The first goes by **name**: it masks the value after `X-aws-ec2-metadata-token`,
//! `Authorization` or, unless secrets may be shown, after a password-, secret- or key-like name. The second goes by
//! **shape**: it masks a run of base64 characters that ends like a session token, at any place. Masking too much is a
//! nuisance, masking too little is a leak: if in doubt, the text is masked.

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

/// Masks the secrets in an argument vector. The result has the same number of arguments, or at most one in
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

/// Masks the secrets in a text that is not an argument, such as a request target or a user agent.
pub fn mask_text(text: &str) -> String {
    Scanner::new(Shown::NoSecrets).text(text)
}

/// Masks only tokens in the path of a file.
pub fn mask_path(path: &str) -> String {
    // Masks each name separately: a slash is a base64 character too, and the rest of the path is useful.
    let mask = |name| Scanner::new(Shown::AllButTokens).text(name);
    path.split('/').map(mask).collect::<Vec<_>>().join("/")
}

/// Like [`mask_text`], for text that was cut at its end, where a token may have lost the `==` that reveals it: also
/// masks a trailing run of 16 or more base64url characters.
pub fn mask_truncated(text: &str) -> String {
    scan::mask_tail(&mask_text(text))
}

/// Like [`mask_args`], if the last argument was cut at its end.
pub fn mask_truncated_args(args: Vec<String>, mode: ArgsMode) -> Vec<String> {
    let cut_is_shown = mode != ArgsMode::Executable || args.len() == 1;
    let mut args = mask_args(args, mode);
    if let Some(last) = args.last_mut().filter(|_| cut_is_shown) {
        *last = scan::mask_tail(last);
    }
    args
}

/// The role of an argument after one that announced a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing yet: an empty argument or the colon.
    Skipped,
    /// The scheme of an `Authorization` value.
    Shown(Pending),
    /// The value, and what follows if the value continues in the next argument.
    Value(Option<Pending>),
    UserInfo(u8),
    Proxy,
    Other,
}

/// The role of `arg` after the argument that announced it. A URL is not the value of a header: it follows an empty
/// header (`-H X-aws-ec2-metadata-token: http://...`), and is useful.
fn value(arg: &str, pending: Pending) -> Role {
    let is_mark = arg.bytes().all(|byte| b":=,>\"'` \t\r\n\\".contains(&byte));
    let header = matches!(pending, Pending::Header | Pending::Authorization(_));
    match pending {
        _ if header && is_mark => Role::Skipped,
        _ if header && scan::is_url(arg.trim_start_matches(['"', '\''])) => Role::Other,
        Pending::Header => Role::Value(None),
        Pending::Authorization(awaited) => authorization(arg, awaited),
        // If the option's value is prompted for or left out, the next argument is masked nevertheless: it may be the
        // value.
        Pending::Secret => Role::Value(None),
        Pending::Named if arg == "--" || is_mark => Role::Skipped,
        Pending::Named if is_option(arg) => Role::Other,
        Pending::Named => Role::Value(None),
        Pending::UserInfo(separator) => Role::UserInfo(separator),
        Pending::Proxy => Role::Proxy,
    }
}

/// The role in `Authorization:`, `Bearer`, `<value>`. The value of `Digest` may be many arguments.
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

/// Masks the password in `user:password@host`. Leaves `host` alone unchanged.
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

/// Masks the password in `user:password`. Leaves `user` alone unchanged.
fn mask_password(arg: &str, separator: u8) -> String {
    match arg.split_once(char::from(separator)) {
        Some((user, _)) => format!("{user}{}{MASK}", char::from(separator)),
        None => arg.to_owned(),
    }
}

/// True for `sh -c` or `bash -lc`: the next argument is the text of a program, in which a value ends by the rules of
/// the shell.
fn takes_shell_text(arg: &str) -> bool {
    arg.strip_prefix('-')
        .is_some_and(|flags| flags.ends_with('c') && flags.bytes().all(|flag| flag.is_ascii_alphabetic()))
}
