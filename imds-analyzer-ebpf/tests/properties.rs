//! Properties of the classifier over generated streams, against the naive [`reference`] and httparse.
#![allow(clippy::unwrap_used, reason = "a failed expectation is the point of a test")]

mod reference;

use std::{fmt, ops::Deref};

use imds_analyzer_ebpf::classify::{Classifier, Method, PathClass, Reason, Step, Verdict, facts};
use proptest::{collection::vec, prelude::*, sample::select};
use reference::{Expected, HEAD_MAX, Seen, classify, feed, judge, path_class, see};

/// Fewer cases where each one tries every place to cut. Failures are reported with their input; no files are written.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

// ---- Generators. -------------------------------------------------------------------------------------------------

/// Bytes of a stream, legible when a case fails.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// One head, and whether it is free of everything that httparse rejects although servers accept it.
#[derive(Clone, Debug)]
struct Text {
    bytes: Bytes,
    strict: bool,
}

const METHODS: &[&str] = &[
    "GET", "GET", "GET", "PUT", "PUT", "HEAD", "POST", "DELETE", "get", "GETS", "GE", "PUTT", "HEA", "M-SEARCH",
];

const SEGMENTS: &[&str] = &[
    "latest",
    "latest",
    "latest",
    "1.0",
    "2021-01-03",
    "2099-1-03",
    "meta-data",
    "meta-data",
    "meta-data",
    "user-data",
    "dynamic",
    "instance-identity",
    "document",
    "iam",
    "iam",
    "info",
    "security-credentials",
    "role",
    "identity-credentials",
    "ec2",
    "public-keys",
    "managed-ssh-keys",
    "tags",
    "instance",
    "spot",
    "events",
    "autoscaling",
    "network",
    "mac",
    "local-ipv4",
    "ipv6",
    "api",
    "token",
    "computeMetadata",
    "metadata",
    "opc",
    "openstack",
    "hetzner",
    "v1",
    "v1.json",
    "instance_identity",
    "ami-id",
];

const PATHS: &[&str] = &[
    "/latest/api/token",
    "/latest/api/token",
    "/latest/meta-data/iam/security-credentials/role",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/dynamic/instance-identity/document",
    "/latest/user-data",
    "/latest/meta-data/",
    "/computeMetadata/v1/",
    "/metadata/instance?api-version=2021-02-01",
    "/nowhere",
    "/",
    "*",
];

const HEADERS: &[&str] = &[
    "Host",
    "Accept",
    "User-Agent",
    "User-Agents",
    "Cookie",
    "Authorization",
    "X-aws-ec2-metadata-token",
    "X-aws-ec2-metadata-token",
    "X-aws-ec2-metadata-token-ttl-seconds",
    "X-aws-ec2-metadata-token-ttl",
    "X-aws-ec2-metadata-toke",
    "X-Forwarded-For",
    "X-Forwarded",
    "Metadata-Flavor",
    "Metadata",
    "Metadata-Token",
    "Content-Lengths",
    "Transfer-Encodin",
    "x!#$%&'*+-.^_`|~9",
];

const VALUES: &[&str] = &[
    "",
    "",
    "x",
    "21600",
    "true",
    "TRUE",
    "tru",
    "Google",
    "a: b, c",
    "AQAEAHVsecret==",
    "x-aws-ec2-metadata-token: t",
    "caf\u{e9}\ttab",
    "GET /latest/user-data",
];

/// `text` with the case of each letter set by `upper`.
fn in_case(text: &str, upper: &[bool]) -> String {
    let cased = |(at, letter): (usize, char)| match upper.get(at) {
        Some(true) => letter.to_ascii_uppercase(),
        Some(false) => letter.to_ascii_lowercase(),
        None => letter,
    };
    text.chars().enumerate().map(cased).collect()
}

fn eol() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("\r\n"), 1 => Just("\n")]
}

/// White space, mostly of the usual kind.
fn blank(usual: &'static str) -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(usual), 1 => select(&["", " ", "\t", " \t "][..])]
}

/// A header line (or several, by obs-fold).
fn header() -> impl Strategy<Value = Text> {
    let fold = (blank(" "), select(VALUES), eol());
    let line = (select(HEADERS), vec(any::<bool>(), 0..40), select(VALUES), eol());
    let oddities = (
        prop_oneof![8 => Just(""), 1 => blank("")],
        prop_oneof![8 => Just(None), 1 => fold.prop_map(Some)],
    );
    (line, blank(" "), blank(""), oddities).prop_map(|((name, upper, value, eol), before, after, (space, fold))| {
        let name = in_case(name, &upper);
        let mut text = format!("{name}{space}:{before}{value}{after}{eol}");
        let strict = space.is_empty() && fold.is_none();
        if let Some((blank, value, eol)) = fold {
            // At least one blank makes it a fold.
            text += &format!(" {blank}{value}{eol}");
        }
        Text {
            bytes: Bytes(text.into_bytes()),
            strict,
        }
    })
}

/// A request target: known segments, some spelled in other ways, and noise.
fn target() -> impl Strategy<Value = String> {
    let letter_encoded =
        (select(SEGMENTS), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, at, upper)| {
            let at = at.index(text.len());
            let code = format!("{:02x}", text.as_bytes()[at]);
            let code = if upper { code.to_uppercase() } else { code };
            format!("{}%{code}{}", &text[..at], &text[at + 1..])
        });
    let noise = select(
        &[
            "",
            "",
            ".",
            "..",
            "..",
            "...",
            "x/..",
            "x/y/../..",
            "./.",
            "%2e",
            "%2E%2e",
            ".%2e",
            "%",
            "%%",
            "%4",
            "%zz",
            "%2",
            "%%2f..",
            "%?",
            "%2?",
            "%4?x=",
            "%2f",
            "x%2F..",
            "%3f",
            "%23",
            "%25",
            "%00",
            "%ff",
            "?",
            "?a=/../..",
            "#",
            "~",
            "LATEST",
            "latestx",
            "toke",
            "tokens",
            "h",
            "http://h",
            ";x",
        ][..],
    );
    let segment = prop_oneof![
        6 => select(SEGMENTS).prop_map(str::to_owned),
        1 => letter_encoded,
        2 => noise.prop_map(str::to_owned),
    ];
    let prefix = prop_oneof![
        12 => Just("/"),
        1 => select(&["", "http://169.254.169.254/", "HTTP://h", "http://h?", "http:/", "https://h/", "h", "ftp://"][..]),
        3 => Just("/latest/meta-data/"),
        1 => Just("/latest/meta-data/iam/security-credentials/"),
    ];
    let random = (prefix, vec(segment, 0..12), any::<bool>()).prop_map(|(prefix, segments, slash)| {
        let text = format!("{prefix}{}{}", segments.join("/"), if slash { "/" } else { "" });
        if text.is_empty() { "/".to_owned() } else { text }
    });
    prop_oneof![2 => random, 1 => select(PATHS).prop_map(str::to_owned)]
}

/// A head without a body of its own; `extra` are header lines to mix in.
fn head(extra: &'static [&'static str]) -> impl Strategy<Value = Text> {
    let spaces = || prop_oneof![8 => Just(" "), 1 => Just("   ")];
    let version = select(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.7"][..]);
    let line = (select(METHODS), spaces(), target(), spaces(), version, blank(""), eol());
    let extra = extra.iter().map(|line| Text {
        bytes: Bytes(line.as_bytes().to_vec()),
        strict: true,
    });
    let extra = Just(extra.collect::<Vec<_>>());
    let headers = (vec(header(), 0..6), extra).prop_flat_map(|(mut headers, extra)| {
        headers.extend(extra);
        Just(headers).prop_shuffle()
    });
    (line, headers, eol()).prop_map(|(line, headers, end)| {
        let (method, first, target, second, version, after, eol) = line;
        let after = after.replace('\t', " ");
        let mut bytes = format!("{method}{first}{target}{second}{version}{after}{eol}").into_bytes();
        let mut strict = (first, second, after.as_str()) == (" ", " ", "") && version != "HTTP/1.7";
        for header in headers {
            bytes.extend_from_slice(&header.bytes);
            strict &= header.strict;
        }
        bytes.extend_from_slice(end.as_bytes());
        let bytes = Bytes(bytes);
        Text { bytes, strict }
    })
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = vec(
        prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"GET /latest/ HTTP/1.1\r\n\r\n".to_vec()),
            Just(b"x GET /latest/ HTTP/1.1".to_vec()),
            Just(b"GET /latest/\n".to_vec()),
            vec(any::<u8>(), 0..12),
        ],
        0..4,
    )
    .prop_map(|pieces| pieces.concat());
    // The framing is put in front of the final empty line.
    let framed = (head(&[]), body, 0_u8..8, 1_usize..9).prop_map(|(head, body, kind, chunk)| {
        let mut bytes = head.bytes.0;
        let end = if bytes.ends_with(b"\r\n") { 2 } else { 1 };
        bytes.truncate(bytes.len() - end);
        let length = body.len();
        match kind {
            0 => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(chunk) {
                    bytes.extend(format!("{:x};e\r\n", piece.len()).into_bytes());
                    bytes.extend(piece);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\nTrailer: t\r\n\r\n");
                return bytes;
            }
            1 => bytes.extend(format!("Content-Length: {length}\r\ncontent-length: 0\r\n\r\n").into_bytes()),
            2 => bytes.extend(format!("Content-Length: {length},\n\n").into_bytes()),
            3 => bytes.extend(b"Transfer-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"),
            _ => bytes.extend(format!("Content-Length: {length}\r\n\r\n").into_bytes()),
        }
        bytes.extend(body);
        bytes
    });
    let simple = target().prop_map(|target| format!("GET {target}\r\n").into_bytes());
    prop_oneof![
        6 => head(&[]).prop_map(|head| head.bytes.0),
        4 => framed,
        1 => simple,
        1 => Just(b"\r\n\n".to_vec()),
    ]
}

fn requests() -> impl Strategy<Value = Bytes> {
    vec(request(), 1..4).prop_map(|requests| Bytes(requests.concat()))
}

/// Any bytes, mostly made of meaningful pieces.
fn soup() -> impl Strategy<Value = Bytes> {
    let pieces = [
        "GET",
        "PUT",
        "HEAD",
        "GET /latest/ HTTP/1.1\r\n",
        "PUT / HTTP/1.0\n",
        "/latest/api/token",
        "HTTP/1.1",
        "HTTP/1.",
        "HTTP/1.1\r\n",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        " ",
        "\t",
        ":",
        "Content-Length: 3\r\n",
        "Content-Length:",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "X-aws-ec2-metadata-token",
        "X-Aws-Ec2-Metadata-Token-TTL-Seconds: 1\r\n",
        "User-Agent: u\r\n",
        "Metadata: true\r\n",
        "0\r\n",
        "5\r\n",
        "a",
        "12",
        "0000000000001",
        "%",
        "/",
        "?",
        ",",
        "\0",
        "\u{7f}",
    ];
    let piece = prop_oneof![
        8 => select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
        1 => request(),
    ];
    vec(piece, 0..30).prop_map(|pieces| Bytes(pieces.concat()))
}

/// Cuts `stream` at `places` (of any length, any order).
fn cut<'a>(stream: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(stream.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in places.into_iter().chain([stream.len()]) {
        pieces.push(&stream[from..to]);
        from = to;
    }
    pieces
}

fn places() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..8)
}

/// The first head as httparse reads it: its length, method, target, and how many token and TTL headers it has.
fn httparse(stream: &[u8]) -> Option<(usize, String, String, usize, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = request.parse(stream).ok()? else {
        return None;
    };
    let named = |name: &str| {
        request
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name))
            .count()
    };
    let tokens = named("x-aws-ec2-metadata-token");
    let ttls = named("x-aws-ec2-metadata-token-ttl-seconds");
    Some((len, request.method?.to_owned(), request.path?.to_owned(), tokens, ttls))
}

// ---- Properties. -------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(cases(4000))]

    /// 1. A well-formed head is judged as the reference judges it, and is a head to httparse too.
    #[test]
    fn a_head_is_judged(text in head(&[])) {
        let expected = judge(&text.bytes);
        prop_assert_eq!(expected.heads.len(), 1);
        let seen = classify([&text.bytes[..]]);
        expected.check(&seen, &text.bytes).map_err(TestCaseError::fail)?;
        let Expected::Judged { .. } = expected.heads[0] else {
            // Blanks before a colon or a line, or a token header's name that only some readers see.
            prop_assert!(!text.strict, "{:?}", expected);
            return Ok(());
        };
        prop_assert_eq!(seen[0].head.len as usize, text.bytes.len());
        let parsed = httparse(&text.bytes);
        prop_assert!(parsed.is_some() || !text.strict);
        if let Some((len, method, target, tokens, ttls)) = parsed {
            let head = seen[0].head;
            prop_assert_eq!(len, text.bytes.len());
            let named = match method.as_str() {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "PUT" => Method::Put,
                _ => Method::Other,
            };
            prop_assert_eq!(head.method, named);
            prop_assert_eq!(head.path_class, path_class(&target).0);
            prop_assert_eq!(head.facts & facts::TOKEN != 0, tokens > 0);
            prop_assert_eq!(head.facts & facts::TTL != 0, ttls > 0);
        }
    }

    /// 7. The class of a path, from its normal form.
    #[test]
    fn a_path_is_classified(target in target()) {
        let stream = format!("GET {target} HTTP/1.1\r\n\r\n");
        let seen = classify([stream.as_bytes()]);
        prop_assert_eq!(seen.len(), 1);
        let (class, cloud) = path_class(&target);
        prop_assert_eq!((seen[0].head.reason, seen[0].head.path_class), (None, class));
        prop_assert_eq!(seen[0].head.facts & facts::CLOUD_PATH != 0, cloud);
    }

    /// 4. Any bytes: there is no panic, the result is the reference's however the stream is cut, and a head to httparse
    /// is a head.
    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut(stream in soup(), places in places()) {
        let seen = classify([&stream[..]]);
        judge(&stream).check(&seen, &stream).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&seen, &classify(cut(&stream, &places)));
        prop_assert_eq!(&seen, &classify(stream.chunks(1)));
        // httparse takes bytes above 0x7f in a target, and a colon in front.
        let is_target = |target: &str| target.is_ascii() && !target.starts_with(':');
        if let Some((len, _, target, ..)) = httparse(&stream).filter(|(_, _, target, ..)| is_target(target)) {
            let empty_lines = stream.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            prop_assert_eq!((seen[0].head.reason, seen[0].head.len as usize), (None, len - empty_lines));
            prop_assert_eq!(seen[0].head.path_class, path_class(&target).0);
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// 2. One result per request, in order, with one cut at every place and with many cuts.
    #[test]
    fn requests_are_judged_one_by_one(stream in requests(), places in places()) {
        let seen = classify([&stream[..]]);
        judge(&stream).check(&seen, &stream).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&seen, &classify([&stream[..]]));
        prop_assert_eq!(&seen, &classify(stream.chunks(1)));
        prop_assert_eq!(&seen, &classify(cut(&stream, &places)));
        for at in 0..=stream.len() {
            let (front, back) = stream.split_at(at);
            prop_assert_eq!(&seen, &classify([front, back]), "cut at {}", at);
        }
    }

    /// 3. A stream may end anywhere: complete heads keep their verdict, a cut one is unknown.
    #[test]
    fn a_cut_head_is_never_v1(stream in requests()) {
        let whole = classify([&stream[..]]);
        for end in 0..stream.len() {
            let part = &stream[..end];
            let seen = classify([part]);
            judge(part).check(&seen, part).map_err(TestCaseError::fail)?;
            // The last may be the cut one; the rest were complete already.
            let cut = seen.last().filter(|last| last.head.reason == Some(Reason::Closed));
            let complete = seen.len() - usize::from(cut.is_some());
            prop_assert_eq!(&seen[..complete], &whole[..complete], "cut at {}", end);
        }
    }
}

/// The content of the values of secret headers.
const MARKER: &str = "zQ9secretmarker7Kw";

/// A stream with [`MARKER`] in the values of headers that are never shown, mixed with everything that is shown.
fn secrets(like_lines: bool) -> impl Strategy<Value = Bytes> {
    let names = [
        "X-aws-ec2-metadata-token",
        "x-AWS-ec2-metadata-TOKEN",
        "Authorization",
        "Cookie",
        "X-Other",
        "User-Agen",
        "User-Agents",
        "X-Forwarded-For",
        "X-aws-ec2-metadata-token-ttl-seconds",
        "Metadata",
        "Metadata-Flavor",
        "Content-Length",
        "Transfer-Encoding",
    ];
    let values: &[&str] = &[
        "M", "Bearer M", "a=M; b=1", "\tM\t", "M\r\n M", "\r\n\tM", "M\0M", "M\rM", "M:M",
    ];
    // Lines that end like a request line. Where requests begin nobody can tell them from one, so they are left out of
    // tests with gaps and wrong lengths.
    let lines: &[&str] = &[
        "M HTTP/1.1",
        "a M HTTP/1.1",
        "GET /M HTTP/1.1",
        "x\r\n a M HTTP/1.1",
        "GET /M\rGET /M",
    ];
    let values = if like_lines {
        [values, lines].concat()
    } else {
        values.to_vec()
    };
    let length = if like_lines {
        "Content-Length: 900\r\n"
    } else {
        "Content-Length: 9\r\n"
    };
    let secret = (
        select(names.to_vec()),
        prop_oneof![6 => Just(""), 1 => Just(" ")],
        blank(" "),
        select(values),
        eol(),
    )
        .prop_map(|(name, space, before, value, eol)| {
            format!("{name}{space}:{before}{}{eol}", value.replace('M', MARKER))
        });
    let plain = select(vec![
        "User-Agent: curl\r\n",
        "User-Agent: curl\r\n more\r\n",
        "User-Agent: \0\r\n",
        "no colon\r\n",
        "no colon\n",
        " folded\r\n",
        "Host: h\r\n",
        length,
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
    ])
    .prop_map(str::to_owned);
    let line = select(
        &[
            "GET /latest/ HTTP/1.1\r\n",
            "PUT /latest/api/token HTTP/1.1\r\n",
            "GET /\r\n",
            "POST / HTTP/1.1\n",
            "NOT HTTP\r\n",
            "",
        ][..],
    );
    let head = (line, vec(prop_oneof![3 => secret, 1 => plain], 0..6), eol())
        .prop_map(|(line, headers, end)| format!("{line}{}{end}", headers.concat()));
    vec(head, 1..4).prop_map(|heads| Bytes(heads.concat().into_bytes()))
}

fn shows_marker(shown: &[u8]) -> bool {
    // A few letters of it are already too many.
    shown
        .windows(6)
        .any(|window| MARKER.as_bytes().windows(6).any(|part| part == window))
}

/// Pushes byte by byte and looks at what would be shown each time a head, finished or not, might be sent.
fn assert_nothing_leaks(classifier: &mut Classifier, stream: &[u8]) -> Result<(), TestCaseError> {
    for (at, &byte) in stream.iter().enumerate() {
        if classifier.push(byte) == Step::Head || classifier.is_unfinished() {
            let shown = see(classifier).shown;
            let text = || format!("{} at {at} of {}", shown.escape_ascii(), stream.escape_ascii());
            prop_assert!(!shows_marker(&shown), "{}", text());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(2000))]

    /// 5. The values of headers are not shown in heads, in bytes that are not a head, or in scanned bodies, wherever
    /// the stream ends.
    #[test]
    fn secrets_are_never_shown(stream in secrets(true)) {
        assert_nothing_leaks(&mut Classifier::new(), &stream)?;
    }

    /// 5. The values of headers are not shown when parts of the stream are missing, either.
    #[test]
    fn secrets_are_never_shown_after_a_gap(stream in secrets(false), places in places(), joined in any::<bool>()) {
        let mut classifier = Classifier::new();
        let pieces = cut(&stream, &places);
        if joined {
            classifier.join_midstream(Reason::Midstream);
        }
        // Every other piece is missing.
        let mut missing = joined;
        for piece in pieces {
            if missing {
                if classifier.gap(piece.len() as u32) == Step::Head {
                    prop_assert!(!shows_marker(&see(&classifier).shown));
                }
            } else {
                assert_nothing_leaks(&mut classifier, piece)?;
            }
            missing = !missing;
        }
        if classifier.close() == Step::Head {
            prop_assert!(!shows_marker(&see(&classifier).shown));
        }
    }
}

/// A head whose meaning no head before it can change.
const NEXT: &[u8] = b"GET /latest/user-data HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n";

fn is_next(seen: &Seen) -> bool {
    let head = seen.head;
    (head.verdict, head.path_class, head.len as usize) == (Verdict::V2, PathClass::UserData, NEXT.len())
}

proptest! {
    #![proptest_config(cases(150))]

    /// 8. After a gap anywhere in a head, or after joining anywhere in it: that head is unknown or was whole, and the
    /// next one is judged.
    #[test]
    fn after_a_cut_head_the_next_one_is_judged(text in head(&[]), length in any::<prop::sample::Index>()) {
        let stream = &text.bytes;
        let method = stream.iter().position(|&byte| byte == b' ').unwrap();
        for from in 0..stream.len() - 1 {
            let to = from + 1 + length.index(stream.len() - 1 - from);
            let mut classifier = Classifier::new();
            let mut seen = Vec::new();
            feed(&mut classifier, &stream[..from], &mut seen);
            if classifier.gap((to - from) as u32) == Step::Head {
                seen.push(see(&classifier));
            }
            feed(&mut classifier, &stream[to..], &mut seen);
            feed(&mut classifier, NEXT, &mut seen);
            let last = seen.pop();
            prop_assert!(last.as_ref().is_some_and(is_next), "{last:?}, gap {from}..{to}");
            // After a gap in the first bytes of a method, the rest looks like a method, and the head like a whole one.
            if from > 0 || to >= method {
                prop_assert!(seen.iter().all(|seen| seen.head.verdict == Verdict::Unknown), "{seen:?}, gap {from}..{to}");
            }
            // Cut once or more (what follows the gap may look like a head), but not lost.
            prop_assert!(!seen.is_empty() || from == 0);
        }
        for from in method..stream.len() - 1 {
            let mut classifier = Classifier::new();
            let mut seen = Vec::new();
            classifier.join_midstream(Reason::Midstream);
            feed(&mut classifier, &stream[from..], &mut seen);
            feed(&mut classifier, NEXT, &mut seen);
            let last = seen.pop();
            prop_assert!(last.as_ref().is_some_and(is_next), "{last:?}, from {from}");
            prop_assert!(seen.iter().all(|seen| seen.head.verdict == Verdict::Unknown), "{seen:?}, from {from}");
        }
    }

    /// 8. A gap inside a body that ends later does not lose the end of the body.
    #[test]
    fn a_gap_in_a_body_is_part_of_it(
        body in vec(any::<u8>(), 2..60),
        method in select(&["POST", "PUT", "GET"][..]),
        from in any::<prop::sample::Index>(),
        length in any::<prop::sample::Index>(),
    ) {
        let from = from.index(body.len() - 1);
        let to = from + 1 + length.index(body.len() - from);
        let head = format!("{method} / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut classifier = Classifier::new();
        let mut seen = Vec::new();
        feed(&mut classifier, head.as_bytes(), &mut seen);
        feed(&mut classifier, &body[..from], &mut seen);
        prop_assert_eq!(classifier.gap((to - from) as u32), Step::More);
        feed(&mut classifier, &body[to..], &mut seen);
        feed(&mut classifier, NEXT, &mut seen);
        prop_assert_eq!((seen.len(), is_next(&seen[1])), (2, true), "{:?}", seen);
    }

    /// 6. Nothing is smuggled past in a body whose framing is ambiguous, and the stream is found again.
    #[test]
    fn a_head_in_an_ambiguous_body_is_reported(
        before in vec(any::<u8>(), 0..40),
        inner in head(&["Accept: */*\r\n"]),
        after in vec(any::<u8>(), 0..20),
        cut_short in 0_usize..6,
        chunk in 1_usize..400,
    ) {
        let body = [&before[..], &inner.bytes, &after].concat();
        let reports = |head: &str, body: &[u8]| {
            let stream = [head.as_bytes(), body, NEXT].concat();
            let seen = classify([&stream[..]]);
            judge(&stream).check(&seen, &stream).map_err(TestCaseError::fail)?;
            let smuggled = seen[1..].iter().any(|seen| seen.head.reason == Some(Reason::Framing));
            Ok::<_, TestCaseError>((smuggled, seen.last().is_some_and(is_next), seen))
        };

        let length = format!("GET / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        let (smuggled, next, seen) = reports(&length, &body)?;
        prop_assert!(smuggled && next, "{seen:?}");

        // The body may end before the line end of the head's first line: other readings still see the whole line.
        let line_end = inner.bytes.iter().position(|&byte| byte == b'\n').unwrap();
        let short = &body[..before.len() + line_end + 1 - cut_short.min(2)];
        let length = format!("HEAD / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", short.len());
        if inner.bytes[line_end - 1] == b'\r' || cut_short < 2 {
            let (smuggled, next, seen) = reports(&length, short)?;
            prop_assert!(smuggled && next, "{seen:?}");
        }

        // A head inside one chunk: a head that chunk lines cut is not a head in any reading.
        let whole = [&before[..], &inner.bytes].concat();
        let mut chunked = format!("{:x}\r\n", whole.len()).into_bytes();
        chunked.extend(whole);
        for piece in after.chunks(chunk) {
            chunked.extend(format!("\r\n{:X}\r\n", piece.len()).into_bytes());
            chunked.extend(piece);
        }
        chunked.extend(b"\r\n0\r\n\r\n");
        let (smuggled, next, seen) = reports("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", &chunked)?;
        prop_assert!(smuggled && next, "{seen:?}");

        // Without a length the scan ends at an empty line, so there is none in front of the head here.
        let before: Vec<u8> = before.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        for framing in ["Content-Length: 5\r\nContent-Length: 0", "Content-Length: +5", "Transfer-Encoding: x"] {
            let head = format!("PUT / HTTP/1.1\r\n{framing}\r\n\r\n");
            let (smuggled, next, seen) = reports(&head, &[&before[..], &inner.bytes].concat())?;
            prop_assert!(smuggled && next, "{seen:?}");
        }
    }
}

/// 6. The longest head that is judged, and the shortest that is not: by its line, by a header, complete or not.
#[test]
fn a_head_may_have_16384_bytes() {
    for (front, back) in [
        (
            "GET /latest/ HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\nCookie: ",
            "\r\n\r\n",
        ),
        ("GET /latest/ HTTP/1.1\nCookie: ", "\nX-aws-ec2-metadata-token: t\n\n"),
        ("GET /latest/", " HTTP/1.1\r\n\r\n"),
        ("GET /latest/", "\r\n"),
        ("GET /latest/", "\n"),
        ("GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\nA", ": b\r\n\r\n"),
    ] {
        for (len, judged) in [
            (HEAD_MAX - 1, true),
            (HEAD_MAX, true),
            (HEAD_MAX + 1, false),
            (HEAD_MAX + 9, false),
        ] {
            let mut stream = front.as_bytes().to_vec();
            stream.resize(len - back.len(), b'a');
            stream.extend(back.as_bytes());
            let alone = classify([&stream[..]]);
            assert_eq!(alone.len(), 1);
            stream.extend(NEXT);
            let seen = classify([&stream[..]]);
            judge(&stream).check(&seen, &stream).unwrap();
            assert_eq!(seen.len(), 2, "{len} bytes of {front:?}");
            assert!(is_next(&seen[1]));
            let reason = if judged { None } else { Some(Reason::TooLong) };
            assert_eq!(seen[0].head.reason, reason, "{len} bytes of {front:?}");
        }
    }
}
