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

use clap::ValueEnum;
use serde::Deserialize;

use self::scan::{MASK, Pending, Scanner, Shown};

/// How much of a process's arguments is written (`args` in the configuration).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ArgsMode {
    /// All of them; only IMDS tokens and `Authorization` values are masked.
    Full,
    /// All of them; values of password-, secret- and key-like names are masked as well.
    #[default]
    Redacted,
    /// The first only, the program's name.
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
            let (masked, next) = match pending {
                Some(pending) if is_value(&arg, pending) => mask_value(&arg, pending, &mut scanner),
                _ => scanner.argument(&arg, shell_text),
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

/// Whether `arg` is the value that the argument before it announced. A URL is not: it follows an empty header
/// (`-H X-aws-ec2-metadata-token: http://...`), and is worth seeing.
fn is_value(arg: &str, pending: Pending) -> bool {
    match pending {
        Pending::Header | Pending::Authorization => !scan::is_url(arg),
        // An option whose value is asked for or left out; what is as long as a token is no option.
        Pending::Secret | Pending::UserInfo => !arg.starts_with("--") || arg.len() >= scan::TOKEN_SHAPE,
    }
}

fn mask_value(arg: &str, pending: Pending, scanner: &mut Scanner) -> (String, Option<Pending>) {
    match pending {
        // `Authorization:`, `Bearer`, `<value>`.
        Pending::Authorization if names::is_auth_scheme(arg.as_bytes()) => {
            (arg.to_owned(), Some(Pending::Authorization))
        }
        Pending::UserInfo => {
            let (masked, _) = scanner.argument(arg, false);
            match masked.split_once(':') {
                Some((user, _)) => (format!("{user}:{MASK}"), None),
                None => (masked, None),
            }
        }
        Pending::Header | Pending::Authorization | Pending::Secret => (MASK.to_owned(), None),
    }
}

/// `sh -c`, `bash -lc`: the next argument is a program's text, in which a value ends where the shell says.
fn takes_shell_text(arg: &str) -> bool {
    arg.strip_prefix('-')
        .is_some_and(|flags| flags.ends_with('c') && flags.bytes().all(|flag| flag.is_ascii_alphabetic()))
}
