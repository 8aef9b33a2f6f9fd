//! Folds random parts of paths, so that a program is the same caller on every run and host.
//!
//! Random parts are recognised by shape (uuids, hashes, times, long numbers) or by place (`/snap/<name>/<revision>`,
//! `/proc/<pid>`, a directory for temporary files), and replaced by `*`. Versions stay: `python3.11` and `jdk-17` are
//! programs in their own right.

/// Replacement of a random part.
const FOLDED: char = '*';
/// Minimum digits of a number that is not a version, alone and next to letters.
const LONG_NUMBER: usize = 6;
const LONG_RUN: usize = 8;
/// Minimum length of a hash, in hexadecimal and in mixed letters and digits.
const HASH: usize = 8;
const LONG_HASH: usize = 20;
/// Minimum length of a hash that consists only of letters, in hexadecimal digits.
const FULL_HASH: usize = 32;
/// Minimum length of names made by mktemp and similar functions.
const RANDOM: usize = 6;
/// In directories for temporary files: minimum digits of a number, alone and after letters.
const SHORT_NUMBER: usize = 3;
const SHORT_RUN: usize = 5;

/// Prefixes of names whose rest is random.
const RANDOM_AFTER: [&str; 16] = [
    "ansible-tmp-",
    "durable-",
    "pip-build-",
    "pip-build-env-",
    "pip-ephem-wheel-cache-",
    "pip-install-",
    "pip-modern-metadata-",
    "pip-req-build-",
    "pip-standalone-pip-",
    "pip-unpack-",
    "pip-wheel-",
    "go-build",
    "application_",
    "container_",
    "_MEI",
    ".mount_",
];

/// Directories for temporary files.
const TEMPORARY: [&str; 5] = ["tmp", "temp", ".tmp", "_temp", "shm"];

/// Folds the random parts of `path`. The result is never longer, empty only if `path` is, and folding it again changes
/// nothing.
pub(super) fn path(path: &str) -> String {
    let mut path = path.to_owned();
    // Terminates, because each round that changes something removes a character that is not a star.
    loop {
        let folded = once(&path);
        if folded == path {
            return path;
        }
        path = folded;
    }
}

/// Folds the random part of a unit's name: `sshd@7-10.0.0.5:22-10.0.0.9:51234.service`.
pub(super) fn unit(unit: &str) -> String {
    if let Some((template, rest)) = unit.split_once('@')
        && let Some((instance, suffix)) = rest.rsplit_once('.')
        && is_of_connection(instance)
    {
        return format!("{template}@{FOLDED}.{suffix}");
    }
    path(unit)
}

/// systemd's names for the connections of a socket unit: a number, then both addresses or the peer's pid and uid.
fn is_of_connection(instance: &str) -> bool {
    let mut parts = instance.split('-');
    let is_number = |part: Option<&str>| part.is_some_and(is_number);
    let is_address = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']'))
    };
    is_number(parts.next()) && parts.clone().count() == 2 && parts.all(is_address)
}

fn once(path: &str) -> String {
    let names: Vec<&str> = path.split('/').collect();
    let mut folded = String::with_capacity(path.len());
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            folded.push('/');
        }
        let above = names.get(..index).unwrap_or_default();
        let below = names.get(index + 1).copied();
        match by_place(name, above, below) {
            Some(text) => folded.push_str(&text),
            None => folded.push_str(&joined(&by_shape(name, is_temporary(above.last())))),
        }
    }
    folded
}

fn is_temporary(name: Option<&&str>) -> bool {
    name.is_some_and(|name| TEMPORARY.contains(name))
}

/// Folds names that are random because of their place or their prefix.
fn by_place(name: &str, above: &[&str], below: Option<&str>) -> Option<String> {
    let star = || Some(FOLDED.to_string());
    let mut upwards = above.iter().rev().copied();
    let (parent, grandparent) = (upwards.next().unwrap_or_default(), upwards.next().unwrap_or_default());
    let has_digit = name.bytes().any(|byte| byte.is_ascii_digit());
    let numbered = match parent {
        "proc" => above.len() == 2,
        "fd" | "task" => matches!(grandparent, "self" | "dev" | "thread-self") || above.get(1) == Some(&"proc"),
        "builds" => true,
        _ => grandparent == "builds" || above.iter().any(|name| TEMPORARY.contains(name)),
    };
    if is_number(name) && numbered || grandparent == "snap" && is_revision(name) {
        return star();
    }
    // Capistrano and similar tools; GitLab's runners: `builds/<runner>/<slot>/group/project`.
    let is_release = matches!(parent, "releases" | "revisions") && has_digit;
    let is_slot = |name: &str| is_number(name) || name == "*";
    let is_runner = parent == "builds" && name.len() >= HASH && below.is_some_and(is_slot);
    if is_release || is_runner {
        return star();
    }
    if parent == "store"
        && matches!(grandparent, "nix" | "gnu")
        && let Some((hash, rest)) = name.split_at_checked(32)
        && hash
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return Some(format!("{FOLDED}{rest}"));
    }
    if above.contains(&"workspace") && name.contains('@') {
        return slot_of_workspace(name);
    }
    if above.contains(&"deployment-root")
        && let Some(id) = name.strip_prefix("d-")
        && id.len() == 9
        && id
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    {
        return Some("d-*".to_owned());
    }
    if above.contains(&"codebuild") && name.strip_prefix("src").is_some_and(is_number) {
        return Some("src*".to_owned());
    }
    let below_pytest = |name: &str| name.starts_with("pytest-of-");
    if below_pytest(parent) || below_pytest(grandparent) {
        let stem = name.trim_end_matches(|char: char| char.is_ascii_digit());
        return (stem.len() < name.len()).then(|| format!("{stem}{FOLDED}"));
    }
    // `systemd-private-<boot id>-<unit>-<six letters>`.
    if name.starts_with("systemd-private-")
        && let Some((unit, random)) = name.rsplit_once('-')
        && random.len() == RANDOM
    {
        return Some(joined(&format!("{}-{FOLDED}", by_shape(unit, true))));
    }
    after_prefix(name, is_temporary(above.last()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// True for the revision of a snap; `x1` is the revision of an unsigned snap.
fn is_revision(name: &str) -> bool {
    is_number(name.strip_prefix('x').unwrap_or(name))
}

/// Jenkins builds a job in `job`, `job@2` and `job@3`, with its own files in `job@2@tmp`.
fn slot_of_workspace(name: &str) -> Option<String> {
    let mut parts = name.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts.filter(|part| !is_number(part)) {
        text.push('@');
        text.push_str(part);
    }
    if text.is_empty() {
        text.push(FOLDED);
    }
    (text != name).then_some(text)
}

/// Folds names with the prefix of a random name.
fn after_prefix(name: &str, temporary: bool) -> Option<String> {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if is_extension(extension) => (stem, name.get(stem.len()..).unwrap_or_default()),
        _ => (name, ""),
    };
    // Longest first, because one prefix may begin with another.
    let prefixes = RANDOM_AFTER.iter().filter(|prefix| stem.starts_with(**prefix));
    let prefix = prefixes.max_by_key(|prefix| prefix.len()).copied();
    let random = |prefix: &str| stem.get(prefix.len()..).filter(|rest| rest.len() >= RANDOM);
    let payload = || stem.find("_payload_").and_then(|at| stem.get(..at + "_payload_".len()));
    let prefix = prefix
        .filter(|prefix| random(prefix).is_some())
        .or_else(|| payload().filter(|prefix| stem.starts_with("ansible_") && random(prefix).is_some()))
        .or_else(|| (temporary && random("tmp.").is_some() && name.starts_with("tmp.")).then_some("tmp."))
        .or_else(|| (temporary && stem.strip_prefix(".tmp").is_some_and(is_of_tempfile_crate)).then_some(".tmp"))
        .or_else(|| (temporary && stem.strip_prefix("tmp").is_some_and(is_of_tempfile)).then_some("tmp"))?;
    Some(format!("{prefix}{FOLDED}{extension}"))
}

fn is_extension(text: &str) -> bool {
    (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// True for the letters that Python's tempfile appends to `tmp`.
fn is_of_tempfile(rest: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let has_digit = rest.bytes().any(|byte| byte.is_ascii_digit());
    rest.len() >= RANDOM && !rest.starts_with('_') && rest.bytes().all(known) && (has_digit || rest.len() == 8)
}

/// True for the letters and digits that Rust's tempfile appends to `.tmp`.
fn is_of_tempfile_crate(rest: &str) -> bool {
    rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Folds the parts of a name that look random. In a directory for temporary files, shorter parts count as random.
fn by_shape(name: &str, temporary: bool) -> String {
    let mut folded = String::with_capacity(name.len());
    let mut rest = name;
    let mut before = "";
    while let Some(first) = rest.chars().next() {
        let is_part = first.is_ascii_alphanumeric();
        let end = |part: &str| {
            part.find(|char: char| char.is_ascii_alphanumeric() != is_part)
                .unwrap_or(part.len())
        };
        let (length, text) = if let Some(length) = is_part.then(|| long_shape(rest, before)).flatten() {
            (length, FOLDED.to_string())
        } else {
            let part = rest.get(..end(rest)).unwrap_or(rest);
            let text = if is_part {
                part_folded(part, temporary)
            } else {
                part.to_owned()
            };
            (part.len(), text)
        };
        folded.push_str(&text);
        let (taken, left) = rest.split_at_checked(length).unwrap_or((rest, ""));
        if is_part {
            before = taken;
        }
        rest = left;
    }
    folded
}

/// Length of a random part with separators: a uuid, a date, the address in a host's name.
fn long_shape(text: &str, before: &str) -> Option<usize> {
    let is_digit = |byte: u8| byte.is_ascii_digit();
    // Groups of digits, not adjacent to another letter or digit.
    let groups = |lengths: &[usize], separators: &[u8], is_of: fn(&u8) -> bool| {
        let bytes = text.as_bytes();
        let mut at = 0;
        for (index, length) in lengths.iter().enumerate() {
            if index > 0 {
                separators.contains(bytes.get(at)?).then_some(())?;
                at += 1;
            }
            bytes.get(at..at + length)?.iter().all(is_of).then_some(())?;
            at += length;
        }
        Some(at)
    };
    let ends = |length: &usize| {
        text.as_bytes()
            .get(*length)
            .is_none_or(|byte| !byte.is_ascii_alphanumeric())
    };
    let uuid = groups(&[8, 4, 4, 4, 12], b"-_", |byte| byte.is_ascii_hexdigit()).filter(ends);
    let date = groups(&[4, 2, 2], b"-_", |byte| byte.is_ascii_digit())
        .filter(|length| text.starts_with("20") && text.as_bytes().get(*length).is_none_or(|byte| !is_digit(*byte)));
    let address = || {
        let mut parts = text.splitn(4, '-');
        let numbers = parts.by_ref().take(3).all(is_number);
        let last = parts.next()?;
        let last = last.bytes().take_while(|byte| is_digit(*byte)).count();
        let whole = text.splitn(4, '-').take(3).map(|part| part.len() + 1).sum::<usize>() + last;
        (before == "ip" && numbers && last > 0).then_some(whole).filter(ends)
    };
    uuid.or(date).or_else(address)
}

/// Replaces a part of letters and digits by a star if it looks random, or else the long numbers in it.
fn part_folded(part: &str, temporary: bool) -> String {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_hash = is_hex && (part.len() >= HASH && digits >= 2 && digits < part.len() || part.len() >= FULL_HASH);
    let is_mixed = digits > 0 && part.len() >= LONG_HASH && changes(part) * 4 >= part.len();
    let number = if temporary { SHORT_NUMBER } else { LONG_NUMBER };
    let is_long = digits == part.len() && digits >= number;
    let is_random = temporary && part.len() >= RANDOM && (changes(part) >= 3 || changes(part) * 3 >= part.len());
    if is_hash || is_mixed || is_long || is_random {
        return FOLDED.to_string();
    }
    let mut folded = String::with_capacity(part.len());
    let mut rest = part;
    while !rest.is_empty() {
        let end = |is_digit: bool| {
            rest.find(|char: char| char.is_ascii_digit() != is_digit)
                .unwrap_or(rest.len())
        };
        let is_digit = rest.starts_with(|char: char| char.is_ascii_digit());
        let (run, left) = rest.split_at_checked(end(is_digit)).unwrap_or((rest, ""));
        let last = temporary && left.is_empty() && run.len() >= SHORT_RUN;
        if is_digit && (run.len() >= LONG_RUN || last) {
            folded.push(FOLDED);
        } else {
            folded.push_str(run);
        }
        rest = left;
    }
    folded
}

/// Number of changes between digits, lower and upper case. The capital at the start of a word does not count.
fn changes(part: &str) -> usize {
    let kind = |byte: u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        _ => 2,
    };
    let pairs = part.as_bytes().windows(2);
    pairs
        .filter(|pair| match pair {
            [one, next] => kind(*one) != kind(*next) && (kind(*one), kind(*next)) != (2, 1),
            _ => false,
        })
        .count()
}

/// Merges stars with adjacent stars and numbers: `*-12.5`, `4711-*`, `*_*`.
fn joined(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(FOLDED) {
        let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
        text.push_str(number_before(before, text.is_empty()));
        text.push(FOLDED);
        rest = from.get(1..).unwrap_or_default();
        while let Some(length) = belongs_to_it(rest) {
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    text.push_str(rest);
    text
}

/// `text` without a trailing number of four or more digits and its separator from the following star.
fn number_before(text: &str, is_first: bool) -> &str {
    const DIGITS: usize = 4;
    let Some(stem) = text.strip_suffix(['-', '_', '.']) else {
        return text;
    };
    let rest = stem.trim_end_matches(|char: char| char.is_ascii_digit());
    let stands_alone = match rest.chars().next_back() {
        Some(char) => !char.is_ascii_alphanumeric(),
        None => is_first,
    };
    if stem.len() - rest.len() >= DIGITS && stands_alone {
        rest
    } else {
        text
    }
}

/// Length of a following star or number, with its separator from the preceding star.
fn belongs_to_it(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix(['-', '_', '.', ':', 'T']).unwrap_or(rest);
    let separator = rest.len() - after.len();
    if after.starts_with(FOLDED) {
        return Some(separator + 1);
    }
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let ends = after
        .as_bytes()
        .get(digits)
        .is_none_or(|byte| !byte.is_ascii_alphanumeric() || *byte == b'Z');
    (separator > 0 && digits > 0 && ends).then_some(separator + digits)
}

#[cfg(test)]
mod tests;
