//! Judges a stream of requests in the slow and obvious way: on a whole buffer, line by line, with `Vec`s.
//!
//! The reference shares nothing with the classifier but the words of a verdict. Property tests and the fuzz target
//! compare the classifier with it. [`judge`] takes streams that are seen from their beginning and whole up to their
//! end; gaps and streams joined in their middle have properties of their own in `properties.rs`.
#![allow(dead_code, reason = "the fuzz target uses a part of it")]

use std::fmt;

use imds_analyzer_ebpf::classify::{Classifier, Head, Method, PathClass, Reason, Step, Verdict, facts};

/// The longest head that is judged (the contract's 16 KiB).
pub(crate) const HEAD_MAX: usize = 16384;
/// Maximum bytes that a capture holds of a request line, and in all.
const SHOWN_LINE_MAX: usize = 768;
const SHOWN_MAX: usize = 1024;

/// What the classifier said, with the text it would show.
#[derive(Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) head: Head,
    pub(crate) shown: Vec<u8>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} showing {}", self.head, self.shown.escape_ascii())
    }
}

/// Pushes `bytes`, and notes every head.
pub(crate) fn feed(classifier: &mut Classifier, bytes: &[u8], seen: &mut Vec<Seen>) {
    for &byte in bytes {
        if classifier.push(byte) == Step::Head {
            seen.push(see(classifier));
        }
    }
}

/// The head that has just been reported.
pub(crate) fn see(classifier: &Classifier) -> Seen {
    let (bytes, len) = classifier.capture();
    let head = classifier.head();
    assert!(len <= bytes.len());
    assert_eq!(head.reason.is_some(), head.verdict == Verdict::Unknown);
    Seen {
        head,
        shown: bytes[..len].to_vec(),
    }
}

/// Feeds a whole connection, cut into `pieces`.
pub(crate) fn classify<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut classifier = Classifier::new();
    let mut seen = Vec::new();
    let mut pushed = 0;
    for piece in pieces {
        let before = seen.len();
        feed(&mut classifier, piece, &mut seen);
        pushed += piece.len();
        assert!(seen[before..].iter().all(|seen| seen.head.len as usize <= pushed));
    }
    if classifier.close() == Step::Head {
        seen.push(see(&classifier));
    }
    seen
}

/// How a head is expected to be reported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expected {
    /// A complete head, and the text that may be shown of it (`None` if the head is too long to be shown whole).
    Judged { head: Head, shown: Option<Vec<u8>> },
    /// `unknown`, for one of these reasons.
    Unknown(Vec<Reason>),
}

/// The heads expected of a stream, in order.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) heads: Vec<Expected>,
    /// True if the last one is a malformed head with a Content-Length or Transfer-Encoding that is itself malformed:
    /// what comes after it is anybody's guess.
    pub(crate) open: bool,
}

impl Stream {
    /// Returns an error that says what is wrong unless `seen` is what is expected.
    pub(crate) fn check(&self, seen: &[Seen], stream: &[u8]) -> Result<(), String> {
        let pairs = self.heads.iter().zip(seen);
        let wrong = pairs.clone().find(|(expected, seen)| !expected.is(seen));
        let same_length = if self.open {
            seen.len() >= self.heads.len()
        } else {
            seen.len() == self.heads.len()
        };
        if wrong.is_none() && same_length {
            return Ok(());
        }
        Err(format!(
            "expected {} heads, seen {}, the first wrong one {wrong:?}\nexpected {:?}\nseen {seen:?}\nin {}",
            self.heads.len(),
            seen.len(),
            self.heads,
            stream.escape_ascii()
        ))
    }
}

impl Expected {
    fn is(&self, seen: &Seen) -> bool {
        match self {
            Self::Judged { head, shown } => {
                *head
                    == Head {
                        facts: comparable(seen.head.facts),
                        ..seen.head
                    }
                    && shown.as_ref().is_none_or(|shown| *shown == seen.shown)
            }
            Self::Unknown(reasons) => {
                seen.head.verdict == Verdict::Unknown
                    && seen.head.reason.is_some_and(|reason| reasons.contains(&reason))
            }
        }
    }
}

/// Drops facts that do not matter: that an invalid Content-Length was also empty, that a coding which is not chunked
/// (or not only chunked) begins like it, and the values of a malformed head's framing headers.
fn comparable(mut facts: u16) -> u16 {
    if facts & facts::LENGTH_INVALID != 0 {
        facts &= !facts::LENGTH_EMPTY;
    }
    if facts & facts::ENCODING_OTHER != 0 {
        facts &= !facts::CHUNKED;
    }
    if facts & facts::MALFORMED != 0 {
        facts &= !(facts::LENGTH_INVALID | facts::LENGTH_EMPTY | facts::CHUNKED | facts::ENCODING_OTHER);
    }
    facts
}

/// The heads in `stream`, which ends (is closed) after its last byte.
pub(crate) fn judge(stream: &[u8]) -> Stream {
    let mut found = Stream::default();
    let mut rest = stream;
    // Lines of a head that was found in a body may follow the body: they are not reported again.
    let mut trailing = false;
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
            rest = after;
        }
        if rest.is_empty() || rest == b"\r" {
            return found;
        }
        let Some(line_end) = rest.iter().position(|&byte| byte == b'\n') else {
            // The reference does not work out whether the line could still have become a request line.
            let cut = if rest.len() > HEAD_MAX {
                Reason::TooLong
            } else {
                Reason::Closed
            };
            if !trailing {
                found.heads.push(Expected::Unknown(vec![Reason::NotHttp, cut]));
            }
            return found;
        };
        let (line, after) = (&rest[..line_end], &rest[line_end + 1..]);
        let Some(request) = request_line(line) else {
            // A line may be too long before it shows that it is not a request line.
            let mut reasons = vec![Reason::NotHttp];
            if line.len() >= HEAD_MAX {
                reasons.push(Reason::TooLong);
            }
            if !trailing {
                found.heads.push(Expected::Unknown(reasons));
            }
            let end = empty_line(after).unwrap_or(after.len());
            scan(&after[..end], false, trailing, &mut found);
            rest = &after[end..];
            trailing = false;
            continue;
        };
        let end = match request.version {
            None => Some(0),
            Some(_) => head_end(after),
        };
        let Some(end) = end else {
            let too_long = rest.len() > HEAD_MAX;
            let reason = if too_long { Reason::TooLong } else { Reason::Closed };
            found.heads.push(Expected::Unknown(vec![reason]));
            return found;
        };
        let mut headers = Headers::parse(&after[..end]);
        headers.malformed |= request.malformed;
        let len = line.len() + 1 + end;
        found.heads.push(if len > HEAD_MAX {
            Expected::Unknown(vec![Reason::TooLong])
        } else if headers.malformed && (headers.named || headers.facts & (facts::TOKEN | facts::TTL) != 0) {
            Expected::Unknown(vec![Reason::Malformed])
        } else {
            request.judged(&headers, line, len)
        });
        if headers.framing_malformed {
            found.open = true;
            return found;
        }
        (rest, trailing) = after_body(&after[end..], &headers, &mut found);
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The place after the empty line that ends a head; stray CRs in that line do not matter.
fn head_end(text: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = text[start..].iter().position(|&byte| byte == b'\n') {
        let line = &text[start..start + length];
        start += length + 1;
        if line.iter().all(|&byte| byte == b'\r') {
            return Some(start);
        }
    }
    None
}

/// The place after the first empty line.
fn empty_line(text: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = text[start..].iter().position(|&byte| byte == b'\n') {
        let line = &text[start..start + length];
        start += length + 1;
        if line.is_empty() || line == b"\r" {
            return Some(start);
        }
    }
    None
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    /// The digit after "HTTP/1."; `None` for HTTP/0.9.
    version: Option<u8>,
    malformed: bool,
}

fn is_visible(byte: &u8) -> bool {
    matches!(byte, 0x21..=0x7e)
}

fn request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    if line.starts_with(b" ") {
        return None;
    }
    let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    let crs = line.len() - end;
    let words: Vec<&[u8]> = line[..end]
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
        .collect();
    let (method, target, stray, version) = match words[..] {
        [b"GET", target] if crs <= 1 && target.iter().all(is_visible) => (words[0], target, false, None),
        [method, target, version] => match target.strip_suffix(b"\r") {
            Some(target) => (method, target, true, Some(version_digit(version)?)),
            None => (method, target, false, Some(version_digit(version)?)),
        },
        [method, target, b"\r", version] => (method, target, true, Some(version_digit(version)?)),
        _ => return None,
    };
    let odd = !target.iter().all(is_visible);
    // No form of a target begins with a colon (RFC 9112, 3.2).
    let is_target =
        !target.is_empty() && !target.starts_with(b":") && !target.iter().any(|byte| matches!(byte, b'\t' | b'\r'));
    let valid = is_target && method.iter().all(|&byte| is_tchar(byte)) && !(odd && stray);
    valid.then_some(RequestLine {
        method,
        target,
        version,
        malformed: odd || stray || crs > 1,
    })
}

fn version_digit(word: &[u8]) -> Option<u8> {
    match word.strip_prefix(b"HTTP/1.")? {
        [digit @ b'0'..=b'9'] => Some(*digit),
        _ => None,
    }
}

impl RequestLine<'_> {
    fn method(&self) -> Method {
        match self.method {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            _ => Method::Other,
        }
    }

    fn judged(&self, headers: &Headers, line: &[u8], len: usize) -> Expected {
        let target: String = self.target.iter().map(|&byte| char::from(byte)).collect();
        let (path_class, cloud) = path_class(&target);
        let mut facts = headers.facts;
        facts |= if headers.malformed { facts::MALFORMED } else { 0 };
        facts |= if cloud { facts::CLOUD_PATH } else { 0 };
        facts |= match self.version {
            None => facts::HTTP_0_9,
            Some(b'0') => facts::HTTP_1_0,
            Some(_) => 0,
        };
        let head = Head {
            verdict: verdict(self.method, path_class, facts),
            reason: None,
            method: self.method(),
            path_class,
            facts: comparable(facts),
            len: len as u32,
        };
        let mut shown = line.to_vec();
        shown.push(b'\n');
        shown.extend_from_slice(&headers.shown);
        Expected::Judged {
            head,
            shown: (line.len() < SHOWN_LINE_MAX && shown.len() <= SHOWN_MAX).then(|| {
                shown.retain(|&byte| byte != b'\r');
                shown
            }),
        }
    }
}

/// The verdict by the contract's table.
fn verdict(method: &[u8], class: PathClass, facts: u16) -> Verdict {
    let has = |fact| facts & fact != 0;
    if method == b"PUT" && class == PathClass::Token {
        if has(facts::TTL) && !has(facts::FORWARDED) {
            Verdict::V2TokenRequest
        } else {
            Verdict::InvalidTokenRequest
        }
    } else if has(facts::TOKEN_VALUE) {
        Verdict::V2
    } else if has(facts::TOKEN) {
        Verdict::V2EmptyToken
    } else if has(facts::TTL) {
        Verdict::InvalidTokenRequest
    } else if has(facts::CLOUD_PATH) {
        Verdict::OtherCloud
    } else {
        Verdict::V1
    }
}

/// The class of a request target, and whether it is another cloud's.
pub(crate) fn path_class(target: &str) -> (PathClass, bool) {
    let path = if target.starts_with('/') {
        target
    } else if let Some((scheme, rest)) = target.split_at_checked(7)
        && scheme.eq_ignore_ascii_case("http://")
    {
        &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..]
    } else {
        return (PathClass::NotImds, false);
    };
    let path = percent_decoded(path.split(['?', '#']).next().unwrap_or(""));
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let class = match segments[..] {
        [] => PathClass::Root,
        [
            "computeMetadata" | "metadata" | "opc" | "openstack" | "hetzner" | "v1" | "v1.json" | "instance_identity",
            ..,
        ] => return (PathClass::NotImds, true),
        [root, ref below @ ..] if is_root(root) => class_below_root(below),
        _ => PathClass::NotImds,
    };
    (class, false)
}

fn percent_decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = path
            .get(at + 1..at + 3)
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                // No known name has a byte above 0x7f, so it does not matter as which character it is kept.
                decoded.push(char::from(byte));
                at += 3;
            }
            _ => {
                decoded.push(char::from(bytes[at]));
                at += 1;
            }
        }
    }
    decoded
}

fn is_root(segment: &str) -> bool {
    let date = segment.len() == 10
        && segment.starts_with("20")
        && segment.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    segment == "latest" || segment == "1.0" || date
}

fn class_below_root(segments: &[&str]) -> PathClass {
    match segments {
        ["api", "token"] => PathClass::Token,
        ["user-data", ..] => PathClass::UserData,
        ["dynamic", "instance-identity", ..] => PathClass::Identity,
        ["meta-data", "iam", "security-credentials", ..]
        | ["meta-data", "identity-credentials", "ec2", "security-credentials", ..] => PathClass::Credential,
        ["meta-data", "iam", "info", ..] | ["meta-data", "identity-credentials", "ec2", "info", ..] => {
            PathClass::Account
        }
        ["meta-data", "public-keys" | "managed-ssh-keys", ..] => PathClass::Keys,
        ["meta-data", "tags", ..] => PathClass::Tags,
        ["meta-data", "spot" | "events" | "autoscaling", ..] => PathClass::Lifecycle,
        [
            "meta-data",
            "network" | "local-ipv4" | "public-ipv4" | "ipv6" | "mac",
            ..,
        ] => PathClass::Network,
        _ => PathClass::Plain,
    }
}

/// Facts from the header lines of a head.
#[derive(Default)]
struct Headers {
    facts: u16,
    length: u64,
    malformed: bool,
    /// The token header's name is in a place where only some readers see a header.
    named: bool,
    framing_malformed: bool,
    shown: Vec<u8>,
}

/// A header; its value is the list of lines that it is on.
struct Header<'a> {
    name: String,
    /// True if blanks precede its colon.
    spaced: bool,
    value: Vec<&'a [u8]>,
    raw: Vec<&'a [u8]>,
}

/// A prefix that only the two token headers have, the token header's name, and what follows it in the TTL header's.
const PREFIX: &str = "x-aws-ec2-m";
const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL_REST: &str = "-ttl-seconds";

impl Headers {
    /// Reads header lines up to the empty one.
    fn parse(block: &[u8]) -> Self {
        let mut headers = Self::default();
        let mut list: Vec<Header> = Vec::new();
        // True if a line that begins with white space belongs to the last header of the list.
        let mut folds = false;
        let mut first_line = true;
        for raw in block.split_inclusive(|&byte| byte == b'\n') {
            let raw = without_cr(&raw[..raw.len() - 1]);
            if raw.iter().all(|&byte| byte == b'\r') {
                headers.malformed |= !raw.is_empty();
                break;
            }
            // Some readers end a line at a bare CR, and cut off what they take for white space.
            let mut pieces = raw.split(|&byte| byte == b'\r');
            let first = pieces.next().unwrap_or_default();
            let begins = |piece: &[u8]| {
                let cut = piece
                    .iter()
                    .position(|byte| matches!(byte, 0x21..=0x7e))
                    .unwrap_or(piece.len());
                let name = piece.get(cut..cut + PREFIX.len()).unwrap_or_default();
                (name.eq_ignore_ascii_case(PREFIX.as_bytes()), cut)
            };
            headers.named |= pieces.any(|piece| begins(piece).0);
            headers.malformed |= has_control(raw);
            if matches!(raw[0], b' ' | b'\t') {
                let blank = trimmed(raw).is_empty();
                let of_token = folds
                    && list.last().is_some_and(|last: &Header| {
                        last.name == TOKEN && last.value.iter().all(|line| trimmed(line).is_empty())
                    });
                headers.named |= !of_token && begins(first).0;
                headers.malformed |= blank || first_line;
                if let (true, Some(last)) = (folds, list.last_mut()) {
                    last.value.push(raw);
                    last.raw.push(raw);
                }
                folds &= !blank;
                first_line = false;
                continue;
            }
            first_line = false;
            let colon = raw.iter().position(|&byte| byte == b':').unwrap_or(raw.len());
            let name = trimmed(&raw[..colon]);
            let (begins, cut) = begins(first);
            let named = raw
                .get(..TOKEN.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(TOKEN.as_bytes()));
            let behind = &raw[TOKEN.len().min(raw.len())..];
            let ttl = behind
                .get(..TTL_REST.len())
                .is_some_and(|rest| rest.eq_ignore_ascii_case(TTL_REST.as_bytes()));
            let behind = if ttl { &behind[TTL_REST.len()..] } else { behind };
            headers.named |= begins && cut > 0;
            let odd = named && !behind.first().is_some_and(|&byte| byte == b':' || is_tchar(byte));
            headers.named |= odd;
            headers.malformed |= odd;
            if colon == raw.len() || name.is_empty() || !name.iter().all(|&byte| is_tchar(byte)) {
                headers.malformed = true;
                folds = false;
                continue;
            }
            let spaced = name.len() < colon;
            headers.malformed |= spaced;
            list.push(Header {
                name: String::from_utf8_lossy(name).to_ascii_lowercase(),
                spaced,
                value: vec![&raw[colon + 1..]],
                raw: vec![raw],
            });
            folds = true;
        }
        if headers.named {
            headers.facts |= facts::TOKEN_NAME;
        }
        for header in list {
            headers.add(&header);
        }
        headers
    }

    fn add(&mut self, header: &Header) {
        let value = header.value.join(&b' ');
        let value = trimmed(&value);
        let folded = header.value.len() > 1;
        // With blanks before the colon, which make the head malformed, only these headers count.
        let counts = [
            "x-aws-ec2-metadata-token",
            "x-aws-ec2-metadata-token-ttl-seconds",
            "content-length",
            "transfer-encoding",
        ];
        if header.spaced && !counts.contains(&header.name.as_str()) {
            return;
        }
        match header.name.as_str() {
            "x-aws-ec2-metadata-token" => {
                self.facts |= facts::TOKEN;
                if !value.is_empty() {
                    self.facts |= facts::TOKEN_VALUE;
                }
            }
            "x-aws-ec2-metadata-token-ttl-seconds" => self.facts |= facts::TTL,
            "x-forwarded-for" => self.facts |= facts::FORWARDED,
            "metadata-flavor" | "metadata-token" => self.facts |= facts::FOREIGN_HEADER,
            // The check is more generous than "is true, over folds too": that would cost states, and it decides between
            // two harmless words only.
            "metadata" => {
                let word = trimmed(header.value[0]).get(..4).unwrap_or(b"");
                if word.eq_ignore_ascii_case(b"true") {
                    self.facts |= facts::FOREIGN_HEADER;
                }
            }
            "content-length" => {
                let number = str::from_utf8(value)
                    .ok()
                    .filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|value| value.parse().ok())
                    .filter(|&length: &u64| length <= 1 << 53);
                if self.facts & facts::LENGTH != 0 || folded || header.spaced || (number.is_none() && !value.is_empty())
                {
                    self.facts |= facts::LENGTH_INVALID;
                }
                if header.spaced {
                    return;
                }
                if value.is_empty() {
                    self.facts |= facts::LENGTH_EMPTY;
                }
                self.facts |= facts::LENGTH;
                self.length = number.unwrap_or(0);
                self.framing_malformed |= has_control(value);
            }
            "transfer-encoding" => {
                self.facts |= facts::ENCODING;
                let word = header.value[0].trim_ascii_start().to_ascii_lowercase();
                let chunked = trimmed(&word) == b"chunked";
                if chunked {
                    self.facts |= facts::CHUNKED;
                }
                // "chunk" is another coding, too, but all that counts is that it is not chunked.
                if folded || header.spaced || !(chunked || b"chunked".starts_with(&word)) {
                    self.facts |= facts::ENCODING_OTHER;
                }
                self.framing_malformed |= has_control(value);
            }
            "user-agent" => {
                // Some readers see another header in a line that begins with blanks.
                self.shown.extend_from_slice(header.raw[0]);
                self.shown.push(b'\n');
            }
            _ => {}
        }
    }
}

fn has_control(text: &[u8]) -> bool {
    text.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t')
}

fn trimmed(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

/// Skips the body after a head, and notes what is found in it. Returns the rest, and whether lines of a head that was
/// found may follow.
fn after_body<'a>(body: &'a [u8], headers: &Headers, found: &mut Stream) -> (&'a [u8], bool) {
    let has = |fact| headers.facts & fact != 0;
    let length = usize::try_from(headers.length).unwrap_or(usize::MAX);
    let to_empty_line = || (empty_line(body).unwrap_or(body.len()), false);
    let (end, whole) = if has(facts::ENCODING) {
        if has(facts::CHUNKED) && !has(facts::ENCODING_OTHER) {
            let (end, is_head) = chunked_end(body);
            let trailing = scan(&body[..end], false, false, found);
            return (&body[end..], trailing && !is_head);
        }
        to_empty_line()
    } else if has(facts::LENGTH_INVALID) || has(facts::LENGTH_EMPTY) {
        to_empty_line()
    } else {
        let end = length.min(body.len());
        (end, end == length)
    };
    let trailing = scan(&body[..end], whole, false, found);
    (&body[end..], trailing)
}

/// The end of a chunked body, and whether it ends because a request begins where a chunk's size is expected. If the
/// framing breaks, the body ends at the next empty line.
fn chunked_end(body: &[u8]) -> (usize, bool) {
    // The body does not end before the byte that breaks its framing.
    let broken = |at: usize| {
        let mut end = 0;
        while end <= at + 1 {
            match empty_line(&body[end..]) {
                Some(length) => end += length,
                None => return body.len(),
            }
        }
        end
    };
    let line_end = |at: usize| {
        body[at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|length| at + length)
    };
    let mut at = 0;
    loop {
        let digits = body[at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits <= 12 && body.get(at + digits).is_some_and(|&byte| is_tchar(byte)) {
            return (at, true);
        }
        let Some(end) = line_end(at) else {
            // The body is cut in the line of a chunk's size, or broken there: nothing more follows either way.
            return (body.len(), false);
        };
        let digits: String = body[at..end]
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .take(12)
            .map(|&byte| char::from(byte))
            .collect();
        let Ok(size) = usize::from_str_radix(&digits, 16) else {
            return (broken(at), false);
        };
        at = end + 1;
        if size == 0 {
            // Trailer lines.
            while let Some(end) = line_end(at) {
                let empty = body[at..end].iter().all(|&byte| byte == b'\r');
                at = end + 1;
                if empty {
                    return (at, false);
                }
            }
            return (body.len(), false);
        }
        at = at.saturating_add(size);
        while at < body.len() && body[at] == b'\r' {
            at += 1;
        }
        if at >= body.len() {
            return (body.len(), false);
        }
        if body[at] != b'\n' {
            return (broken(at), false);
        }
        at += 1;
    }
}

/// Notes every line that ends like a request line. `ends` says that the last line is complete although `text` has no
/// line end after it, `trailing` that `text` begins in a head that was found. Returns whether `text` ends in one.
fn scan(text: &[u8], ends: bool, trailing: bool, found: &mut Stream) -> bool {
    let mut in_found = trailing;
    let mut begin_line = true;
    let mut begin = 0;
    let mut line = 0;
    for (at, &byte) in text.iter().enumerate() {
        if matches!(byte, 0x20..=0x7e) {
            continue;
        }
        let so_far = &text[begin..at];
        let is_end = matches!(byte, b'\r' | b'\n');
        if is_end && ends_like_request_line(so_far, begin_line) {
            found.heads.push(Expected::Unknown(vec![Reason::Framing]));
            in_found = true;
        } else {
            let words: Vec<&[u8]> = so_far
                .split(|&byte| byte == b' ')
                .filter(|word| !word.is_empty())
                .collect();
            let in_target = match words[..] {
                [_] => so_far.ends_with(b" ") && !is_end,
                [_, target] => !so_far.ends_with(b" ") && !target.starts_with(b":"),
                _ => false,
            };
            let kept = match byte {
                b'\t' | b'\n' => false,
                b'\r' => text.get(at + 1) == Some(&b' '),
                _ => true,
            };
            if in_target && kept {
                continue;
            }
        }
        begin = at + 1;
        begin_line = byte == b'\n';
        if begin_line {
            if matches!(&text[line..at], b"" | b"\r") {
                in_found = false;
            }
            line = begin;
        }
    }
    if ends && ends_like_request_line(&text[begin..], begin_line) {
        found.heads.push(Expected::Unknown(vec![Reason::Framing]));
        in_found = true;
    }
    in_found
}

/// True if `text` ends like a request line. `text` begins a line or follows a byte that ends words; a CR may follow a
/// target.
fn ends_like_request_line(text: &[u8], begin_line: bool) -> bool {
    let words: Vec<&[u8]> = text
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
        .collect();
    match words[..] {
        [b"GET", target] => {
            begin_line
                && text.starts_with(b"GET")
                && text.ends_with(target)
                && target.starts_with(b"/")
                && target.iter().all(is_visible)
        }
        [_, .., _, last] => version_digit(last).is_some(),
        _ => false,
    }
}
