//! What the kernel kept of a request's head -> [`HttpRequest`].
//!
//! The capture is the request line and the lines of the few headers that may be shown, without CR, each ended by LF
//! where it was seen whole (see [`imds_analyzer_ebpf::classify::Capture`]). All of it is written by whoever sent the
//! request, so nothing in here trusts it: every text is bounded, made valid UTF-8 and masked.

use imds_analyzer_ebpf::{
    abi::CAPTURE_MAX,
    classify::{Reason, facts},
};

use crate::{
    event::{HttpRequest, HttpVersion},
    secrets,
};

const METHOD_MAX: usize = 32;
const TARGET_MAX: usize = 1024;
const USER_AGENT_MAX: usize = 512;

/// Reads what `capture` holds. `facts` and `reason` are the classifier's word on the same head.
pub fn parse(capture: &[u8], facts: u16, reason: Option<Reason>) -> HttpRequest {
    let capture = capture.get(..CAPTURE_MAX).unwrap_or(capture);
    let mut lines = Lines { rest: capture };
    let Some(first) = lines.next() else {
        return HttpRequest::default();
    };
    let line = RequestLine::parse(first, facts, reason);
    let target = line.target.map(|(target, cut)| masked(target, cut, TARGET_MAX));
    HttpRequest {
        method: line.method.map(|method| masked(method, false, METHOD_MAX)),
        // Of the masked target: what is a secret there, for what stands before it, stays one.
        path: target.as_deref().map(path_of).map(str::to_owned),
        target,
        version: line.version,
        user_agent: user_agent(lines),
    }
}

/// A line, and whether its end was seen.
#[derive(Clone, Copy)]
struct Line<'a> {
    text: &'a [u8],
    ended: bool,
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let mut parts = self.rest.splitn(2, |&byte| byte == b'\n');
        let text = parts.next()?;
        let rest = parts.next();
        self.rest = rest.unwrap_or_default();
        Some(Line {
            text,
            ended: rest.is_some(),
        })
    }
}

#[derive(Default)]
struct RequestLine<'a> {
    method: Option<&'a [u8]>,
    /// And whether it is only the beginning of it.
    target: Option<(&'a [u8], bool)>,
    version: Option<HttpVersion>,
}

impl<'a> RequestLine<'a> {
    fn parse(line: Line<'a>, facts: u16, reason: Option<Reason>) -> Self {
        let mut words: Vec<&[u8]> = line
            .text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .collect();
        let version = words.last().and_then(|word| version_of(word));
        // Found inside something else: what stands before the last three words is not part of it.
        let found = matches!(reason, Some(Reason::Framing | Reason::Gap | Reason::Midstream));
        if found && version.is_none() {
            // Its end was too far away to be kept, so where it begins cannot be told.
            return Self::default();
        }
        if found {
            words.drain(..words.len().saturating_sub(3));
        }
        let simple = facts & facts::HTTP_0_9 != 0;
        let (method, target) = match words.as_slice() {
            [] => (None, None),
            // The method's end was not seen.
            [_] if !line.text.ends_with(b" ") && !line.ended => (None, None),
            [method] => (Some(*method), None),
            [method, target] => (Some(*method), Some((*target, !simple))),
            [method, target, ..] => (Some(*method), Some((*target, false))),
        };
        if !method.is_some_and(is_method) {
            return Self::default();
        }
        Self {
            method,
            target,
            version: if simple { Some(HttpVersion::Http09) } else { version },
        }
    }
}

/// RFC 9110, 9.1: a token. What else may stand first (a TLS handshake, a body) is no method.
fn is_method(word: &[u8]) -> bool {
    word.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn version_of(word: &[u8]) -> Option<HttpVersion> {
    match word.strip_prefix(b"HTTP/1.")? {
        b"0" => Some(HttpVersion::Http10),
        [digit] if digit.is_ascii_digit() => Some(HttpVersion::Http11),
        _ => None,
    }
}

/// The path in a request target (RFC 9112, 3.2): `/a` of `/a?b`, of `/a#b` and of `http://host/a`.
fn path_of(target: &str) -> &str {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let target = &target[..end];
    match target.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => match rest.find('/') {
            Some(at) => &rest[at..],
            None => "/",
        },
        _ => target,
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The value of the first User-Agent line, with the lines that continue it (`obs-fold`, RFC 9112, 5.2).
fn user_agent(mut lines: Lines<'_>) -> Option<String> {
    const NAME: &[u8] = b"user-agent";
    let first = lines.find(|line| {
        let name = line.text.split(|&byte| byte == b':').next().unwrap_or_default();
        name.len() < line.text.len() && name.trim_ascii_end().eq_ignore_ascii_case(NAME)
    })?;
    let value = first.text.splitn(2, |&byte| byte == b':').nth(1)?;
    let mut value = value.trim_ascii().to_vec();
    let mut ended = first.ended;
    for line in lines {
        if !line.text.starts_with(b" ") && !line.text.starts_with(b"\t") {
            break;
        }
        value.push(b' ');
        value.extend_from_slice(line.text.trim_ascii());
        ended = line.ended;
    }
    let value = value.trim_ascii();
    (!value.is_empty()).then(|| masked(value, !ended, USER_AGENT_MAX))
}

/// `text` as it may be shown; `cut` where its end was not seen, so that a secret may be there in part.
fn masked(text: &[u8], cut: bool, max: usize) -> String {
    let text = String::from_utf8_lossy(text);
    // Masked before it is shortened, so that no secret becomes too short to be known for one.
    let mut text = if cut {
        secrets::mask_truncated(&text)
    } else {
        secrets::mask_text(&text)
    };
    text.truncate(text.floor_char_boundary(max));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn head(capture: &str) -> HttpRequest {
        parse(capture.as_bytes(), 0, None)
    }

    fn request(method: &str, target: &str, path: &str, version: Option<HttpVersion>) -> HttpRequest {
        HttpRequest {
            method: Some(method.to_owned()),
            target: Some(target.to_owned()),
            path: Some(path.to_owned()),
            version,
            user_agent: None,
        }
    }

    #[test]
    fn request_line_and_user_agent() {
        let parsed = head("GET /latest/user-data?a=1 HTTP/1.1\nHost: 169.254.169.254\nuser-agent :  curl/8.5 \n");
        let expected = HttpRequest {
            user_agent: Some("curl/8.5".to_owned()),
            ..request(
                "GET",
                "/latest/user-data?a=1",
                "/latest/user-data",
                Some(HttpVersion::Http11),
            )
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn versions() {
        assert_eq!(
            parse(b"GET /a HTTP/1.0\n", facts::HTTP_1_0, None).version,
            Some(HttpVersion::Http10)
        );
        assert_eq!(
            parse(b"GET /a\n", facts::HTTP_0_9, None),
            request("GET", "/a", "/a", Some(HttpVersion::Http09))
        );
        assert_eq!(parse(b"GET /a HTTP/2.0\n", 0, Some(Reason::NotHttp)).version, None);
    }

    #[test]
    fn cut_request_line() {
        assert_eq!(
            head("GET /latest/met"),
            request("GET", "/latest/met", "/latest/met", None)
        );
        assert_eq!(head("GET /latest/met\nUser-Agent: x\n").version, None);
        assert_eq!(head("GET /latest HTT"), request("GET", "/latest", "/latest", None));
        assert_eq!(head("GE"), HttpRequest::default());
        assert_eq!(head("GET ").method.as_deref(), Some("GET"));
        assert_eq!(head(""), HttpRequest::default());
    }

    #[test]
    fn found_in_something_else() {
        let found = |line: &str| parse(line.as_bytes(), 0, Some(Reason::Framing));
        let expected = request("GET", "/latest/x", "/latest/x", Some(HttpVersion::Http11));
        assert_eq!(found("password=1 GET /latest/x HTTP/1.1\n"), expected);
        assert_eq!(found("GET /latest/x HTTP/1.1"), expected);
        assert_eq!(found("some body GET /latest/x"), HttpRequest::default());
    }

    #[test]
    fn not_http() {
        let parsed = parse(b"\x16\x03\x01\x02 \x00\x01", 0, Some(Reason::NotHttp));
        assert_eq!(parsed, HttpRequest::default());
    }

    #[test]
    fn paths() {
        for (target, path) in [
            ("/a/b?c#d", "/a/b"),
            ("/a#b?c", "/a"),
            ("http://169.254.169.254/a?b", "/a"),
            ("HTTP://user@host:80", "/"),
            ("http://host?x=/y", "/"),
            ("/a?u=http://host/b", "/a"),
            ("//host/a", "//host/a"),
            ("/://a", "/://a"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }

    #[test]
    fn user_agents() {
        let agent = |lines: &str| head(&format!("GET / HTTP/1.1\n{lines}")).user_agent;
        assert_eq!(agent("USER-AGENT: a\n b\n\tc\nHost: d\n e\n").as_deref(), Some("a b c"));
        assert_eq!(agent("User-Agent: a\nUser-Agent: b\n").as_deref(), Some("a"));
        assert_eq!(agent("User-Agent: Boto3/1.").as_deref(), Some("Boto3/1."));
        assert_eq!(agent("User-Agent:\n"), None);
        assert_eq!(agent("User-Agent"), None);
        assert_eq!(agent("Host: User-Agent: a\n"), None);
    }

    #[test]
    fn bounds() {
        let parsed = head(&format!(
            "GET /{} HTTP/1.1\nUser-Agent: {}\n",
            "é".repeat(100),
            "ü".repeat(380)
        ));
        assert_eq!(parsed.target.map(|target| target.len()), Some(201));
        assert!(parsed.user_agent.is_some_and(|agent| agent.len() <= USER_AGENT_MAX));
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_bounded(
            capture in prop::collection::vec(any::<u8>(), 0..1500),
            facts in any::<u16>(),
            reason in 0u8..12,
        ) {
            let parsed = parse(&capture, facts, Reason::from_raw(reason));
            prop_assert!(parsed.method.is_none_or(|method| method.len() <= METHOD_MAX));
            prop_assert!(parsed.target.is_none_or(|target| target.len() <= TARGET_MAX));
            prop_assert!(parsed.user_agent.is_none_or(|agent| agent.len() <= USER_AGENT_MAX));
        }

        #[test]
        fn agrees_with_httparse(
            method in "[A-Z]{1,7}",
            target in "/([a-z0-9.-]{0,9}/){0,5}(\\?a=[a-z0-9]{0,5})?",
            minor in 0u8..2,
            agent in "([!-~]{1,9} ){0,4}[!-~]{1,9}",
        ) {
            let text = format!("{method} {target} HTTP/1.{minor}\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n");
            let mut headers = [httparse::EMPTY_HEADER; 4];
            let mut expected = httparse::Request::new(&mut headers);
            prop_assert!(expected.parse(text.as_bytes()).is_ok_and(|status| status.is_complete()));

            let parsed = head(&text.replace('\r', ""));
            prop_assert_eq!(parsed.method.as_deref(), expected.method);
            prop_assert_eq!(parsed.target.as_deref(), expected.path);
            prop_assert_eq!(parsed.version, Some(if expected.version == Some(0) { HttpVersion::Http10 } else { HttpVersion::Http11 }));
            // Masking may change an agent that looks like a secret, and nothing else may.
            prop_assert_eq!(parsed.user_agent, Some(secrets::mask_text(&agent)));
        }
    }
}
