//! Which names announce a secret.

/// What a name says about the value behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The IMDS token's header, whatever stands before it (`-H`, `HTTP_`).
    TokenHeader,
    /// `Authorization`, `Proxy-Authorization`.
    Authorization,
    /// A password-, secret- or key-like name.
    Secret,
    /// `key` alone: a secret as an option or in a query, otherwise mostly not.
    Key,
}

/// Classifies a word of `[A-Za-z0-9_.-]`.
pub(super) fn classify(word: &[u8]) -> Option<Name> {
    if ends_with(word, b"x-aws-ec2-metadata-token") {
        return Some(Name::TokenHeader);
    }
    if ends_with(word, b"authorization") {
        return Some(Name::Authorization);
    }
    let mut parts = word.rsplit(|byte| matches!(byte, b'-' | b'_' | b'.'));
    let last = trim_digits(parts.next()?);
    let before = parts.next().unwrap_or_default();
    if SECRET_ENDINGS.iter().any(|ending| ends_with(last, ending)) || is_one_of(last, SECRET_PARTS) {
        // The shell's working directory.
        return (!matches!(word, b"PWD" | b"pwd")).then_some(Name::Secret);
    }
    match is_one_of(last, &[b"key"]) {
        true if is_one_of(before, KEY_KINDS) => Some(Name::Secret),
        true if before.is_empty() => Some(Name::Key),
        _ => None,
    }
}

/// Last parts of a name that make it secret however they begin: `dbpassword`, `sessionToken`.
const SECRET_ENDINGS: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"token",
    b"apikey",
    b"secretkey",
    b"accesskey",
    b"privatekey",
    b"authkey",
    b"accountkey",
    b"signature",
];

/// Last parts of a name that make it secret when they stand alone: `db_pass`, but not `bypass`.
const SECRET_PARTS: &[&[u8]] = &[b"pass", b"pwd", b"pw", b"sig", b"cookie"];

/// Kinds of `key` that are secret: `api-key`, `SECRET_ACCESS_KEY`.
const KEY_KINDS: &[&[u8]] = &[
    b"api",
    b"access",
    b"secret",
    b"private",
    b"auth",
    b"account",
    b"app",
    b"client",
    b"encryption",
    b"license",
    b"master",
    b"service",
    b"shared",
    b"signing",
    b"storage",
];

/// Whether `text` is the scheme that precedes the secret part of an `Authorization` value.
pub(super) fn is_auth_scheme(text: &[u8]) -> bool {
    is_one_of(
        text,
        &[
            b"basic",
            b"bearer",
            b"digest",
            b"negotiate",
            b"token",
            b"aws4-hmac-sha256",
        ],
    )
}

/// Programs with options that only they use for a password; `word` may be any word of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// `-pPASSWORD`.
    Mysql,
    /// `-pPASSWORD` and `-p PASSWORD`.
    Sshpass,
    /// `-u USER:PASSWORD`.
    Curl,
}

pub(super) fn program(word: &[u8]) -> Option<Program> {
    match word {
        b"mysql" | b"mysqldump" | b"mysqladmin" | b"mysqlimport" | b"mysqlcheck" | b"mysqlshow" | b"mariadb"
        | b"mariadb-dump" | b"mariadb-admin" => Some(Program::Mysql),
        b"sshpass" => Some(Program::Sshpass),
        b"curl" => Some(Program::Curl),
        _ => None,
    }
}

/// Whether `word` is one of curl's options for `user:password`.
pub(super) fn is_user_option(word: &[u8]) -> bool {
    matches!(word, b"-u" | b"-U" | b"--user" | b"--proxy-user")
}

/// `name` is lower case with `-`; case is ignored, and `_` is `-`.
fn ends_with(word: &[u8], name: &[u8]) -> bool {
    word.len()
        .checked_sub(name.len())
        .and_then(|start| word.get(start..))
        .is_some_and(|tail| {
            tail.iter().zip(name).all(|(byte, name)| match byte {
                b'_' => *name == b'-',
                _ => byte.to_ascii_lowercase() == *name,
            })
        })
}

fn is_one_of(part: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| part.eq_ignore_ascii_case(name))
}

fn trim_digits(part: &[u8]) -> &[u8] {
    let digits = part.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    part.get(..part.len() - digits).unwrap_or(part)
}
