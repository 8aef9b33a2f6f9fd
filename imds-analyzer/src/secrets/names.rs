//! Names that announce a secret.

/// The kind of secret that a name announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The header of an IMDS token, with any prefix (`-H`, `HTTP_`).
    TokenHeader,
    /// `Authorization`, `Proxy-Authorization`, and options that take their value.
    Authorization,
    /// A password-, secret- or key-like name.
    Secret,
    /// `key` alone: a secret as an option or in a query, but rarely elsewhere.
    Key,
    /// `PWD`: a secret in a connection string, the working directory in a shell.
    Directory,
}

impl Name {
    /// True for names of headers, whose values are masked in every mode.
    pub(super) fn is_header(self) -> bool {
        matches!(self, Self::TokenHeader | Self::Authorization)
    }
}

/// Classifies a word of `[A-Za-z0-9_.-]`.
pub(super) fn classify(word: &[u8]) -> Option<Name> {
    if ends_with_parts(word, b"ec2metadatatoken") {
        return Some(Name::TokenHeader);
    }
    if ends_with(word, b"authorization") || is_one_of(word, AUTHORIZATION_OPTIONS) {
        return Some(Name::Authorization);
    }
    // Java's `-Dapi-key=x`.
    let word = word.strip_prefix(b"-D").unwrap_or(word);
    let mut parts = word.rsplit(is_joint);
    let last = trim_digits(parts.next()?);
    let before = parts.next().unwrap_or_default();
    if is_one_of(word, &[b"pwd", b"oldpwd"]) {
        return Some(Name::Directory);
    }
    // The AWS CLI's `--secret-string`.
    if is_one_of(last, &[b"string", b"binary"]) && is_one_of(before, &[b"secret"]) {
        return Some(Name::Secret);
    }
    let ending = || SECRET_ENDINGS.iter().any(|ending| ends_with(last, ending));
    let with_pass = || PASS_ENDINGS.iter().any(|ending| ends_with(last, ending));
    // `REDISCLI_AUTH`; npm's `_auth`.
    if ends_with(word, b"-auth") && word.iter().rev().nth(4) == Some(&b'_') {
        return Some(Name::Secret);
    }
    if ending() || is_one_of(last, SECRET_PARTS) || with_pass() && !is_one_of(last, NO_SECRETS) {
        return Some(Name::Secret);
    }
    match is_one_of(last, &[b"key"]) {
        true if is_one_of(before, KEY_KINDS) => Some(Name::Secret),
        true if before.is_empty() => Some(Name::Key),
        _ => None,
    }
}

/// True for a secret's name that differs from an ordinary word: it has several parts (`aws_secret_access_key`,
/// `dbPassword`) and is neither a command (`create-access-key`) nor a file name (`server.key`).
pub(super) fn is_compound(word: &[u8]) -> bool {
    if word.starts_with(b"-") || is_flag(word) || is_command(word) || is_one_of(word, ORDINARY) {
        return false;
    }
    let joint = word.iter().rev().find(|byte| is_joint(byte));
    joint != Some(&b'.') || ends_with(word, b"password") || ends_with(word, b"passwd")
}

/// True for a secret's name that is a single word.
pub(super) fn is_password_word(word: &[u8]) -> bool {
    is_one_of(word, &[b"password", b"passphrase", b"requirepass", b"masterauth"])
}

/// Subcommands that take a name and its value: `config set token x`.
pub(super) fn sets_values(word: &[u8]) -> bool {
    // Excludes the HTTP method `PUT`.
    let verbs: [&[u8]; 8] = [
        b"set",
        b"setenv",
        b"hset",
        b"put",
        b"setx",
        b"--set",
        b"--add",
        b"--replace",
    ];
    verbs.contains(&word)
}

/// True for a complete header name: `Proxy-Authorization`, `-HAuthorization`, but not `TestAuthorization`.
pub(super) fn is_bare_header(word: &[u8]) -> bool {
    let word = word.strip_prefix(b"-H").unwrap_or(word);
    let before = word
        .len()
        .checked_sub(b"authorization".len() + 1)
        .and_then(|at| word.get(at));
    ends_with(word, b"authorization") && before.is_none_or(is_joint)
}

/// Options that prompt for something or turn it off and take no value: `--no-password`.
pub(super) fn is_flag(word: &[u8]) -> bool {
    let mut parts = word.split(is_joint).filter(|part| !part.is_empty());
    parts.next().is_some_and(|first| is_one_of(first, FLAGS)) && parts.next().is_some()
}

fn is_command(word: &[u8]) -> bool {
    let mut parts = word.split(is_joint);
    parts.next().is_some_and(|first| is_one_of(first, COMMANDS)) && parts.next().is_some()
}

fn is_joint(byte: &u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.')
}

/// Options that take the value of the header.
const AUTHORIZATION_OPTIONS: &[&[u8]] = &[b"--oauth2-bearer", b"--bearer", b"--bearer-token", b"--auth-header"];

/// Endings that make a name secret, whatever precedes them: `dbpassword`, `sessionToken`.
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
    b"secretstring",
];

/// [`SECRET_ENDINGS`], except the words in [`NO_SECRETS`].
const PASS_ENDINGS: &[&[u8]] = &[b"pass", b"pwd"];

/// Ordinary words that end like secrets.
const NO_SECRETS: &[&[u8]] = &[
    b"bypass",
    b"compass",
    b"encompass",
    b"surpass",
    b"trespass",
    b"overpass",
    b"underpass",
    b"singlepass",
    b"multipass",
    b"onepass",
    b"firstpass",
    b"getpass",
    b"askpass",
    b"sshpass",
    b"keepass",
];

/// Last parts that make a name secret if they are separate parts: `db_pass`, but not `bypass`.
const SECRET_PARTS: &[&[u8]] = &[
    b"pass",
    b"pwd",
    b"pw",
    b"sig",
    b"cookie",
    b"passcode",
    b"bindpw",
    b"rootpw",
    b"adminpw",
    b"userpw",
];

/// Names of secrets that are also ordinary words.
const ORDINARY: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"token",
    b"signature",
    b"pass",
    b"pwd",
    b"pw",
    b"sig",
    b"cookie",
    b"passcode",
];

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
    b"subscription",
    b"functions",
    b"session",
    b"hmac",
    b"deploy",
];

const FLAGS: &[&[u8]] = &[
    b"no", b"ask", b"skip", b"show", b"prompt", b"print", b"without", b"require", b"disable", b"enable", b"hide",
    b"never",
];

/// Verbs that begin a subcommand's name.
const COMMANDS: &[&[u8]] = &[
    b"get",
    b"create",
    b"delete",
    b"describe",
    b"list",
    b"generate",
    b"rotate",
    b"update",
    b"revoke",
    b"new",
    b"read",
    b"check",
    b"reset",
    b"remove",
    b"change",
    b"forgot",
    b"refresh",
    b"issue",
    b"validate",
    b"verify",
];

/// True if `text` is the scheme of an `Authorization` value, which precedes the secret.
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

/// True for a word that may be an unlisted scheme: `Splunk`, `GoogleLogin`.
pub(super) fn is_like_scheme(text: &[u8]) -> bool {
    (2..=24).contains(&text.len())
        && text.first().is_some_and(u8::is_ascii_alphabetic)
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// True for the key of the value if the name is a value too: `{"name": "Authorization", "value": "x"}`.
pub(super) fn is_value_key(word: &[u8]) -> bool {
    is_one_of(
        word,
        &[
            b"value",
            b"values",
            b"val",
            b"v",
            b"content",
            b"headervalue",
            b"parametervalue",
        ],
    )
}

/// Compares without case and with `_` equal to `-`. `name` is lower case and uses `-`.
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

/// [`ends_with`], with or without separators between the parts: `xAwsEc2MetadataToken`.
fn ends_with_parts(word: &[u8], name: &[u8]) -> bool {
    let mut letters = word.iter().rev().filter(|byte| !is_joint(byte));
    // The last byte must be part of the name: `-token-` is not a token.
    !word.last().is_some_and(is_joint)
        && name
            .iter()
            .rev()
            .all(|wanted| letters.next().is_some_and(|byte| byte.to_ascii_lowercase() == *wanted))
}

fn is_one_of(part: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| part.eq_ignore_ascii_case(name))
}

fn trim_digits(part: &[u8]) -> &[u8] {
    let digits = part.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    part.get(..part.len() - digits).unwrap_or(part)
}
