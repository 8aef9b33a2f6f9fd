//! Parses one request from bytes.

use super::body::{BAD_REQUEST, Framing, Rejected, framing};

/// More than servers usually accept, so that tests can send heads that exceed the analyzer's limit (16 KiB).
pub(super) const MAX_HEAD: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// A request line without a version. The answer is only the body.
    Http09,
    Http10,
    Http11,
}

#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    /// Percent-decoded, without query, scheme and authority.
    pub path: String,
    pub version: Version,
    pub keep_alive: bool,
    pub token: Option<String>,
    pub ttl: Option<String>,
    pub forwarded: bool,
    pub framing: Framing,
    pub expects_continue: bool,
}

/// Finds the end of a head that arrives in pieces, looking at each byte once.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes looked at.
    at: usize,
    /// Start of the line that contains `at`.
    line: usize,
}

impl HeadScan {
    pub(super) fn is_at_start(&self) -> bool {
        self.at == 0
    }

    /// The request and the length of its head, once `buffer` contains all of it. Earlier bytes of `buffer` must not
    /// change between calls.
    pub(super) fn next(&mut self, buffer: &[u8]) -> Result<Option<(Request, usize)>, Rejected> {
        while let Some(length) = buffer[self.at..].iter().position(|byte| *byte == b'\n') {
            let line = buffer[self.line..self.at + length].trim_ascii_end();
            let first = self.line == 0;
            self.at += length + 1;
            self.line = self.at;
            if first && let Some(request) = simple_request(line)? {
                return Ok(Some((request, self.at)));
            }
            if line.is_empty() {
                return parse(&buffer[..self.at]).map(|request| Some((request, self.at)));
            }
        }
        self.at = buffer.len();
        if self.at > MAX_HEAD {
            Err(Rejected(431))
        } else {
            Ok(None)
        }
    }
}

/// Parses `GET /path` alone. `None` if `line` begins a request with a version; an error if it is not a request line.
fn simple_request(line: &[u8]) -> Result<Option<Request>, Rejected> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(b"GET"), Some(target), None) => Ok(Some(Request {
            method: "GET".to_owned(),
            path: path(target),
            version: Version::Http09,
            keep_alive: false,
            token: None,
            ttl: None,
            forwarded: false,
            framing: Framing::Length(0),
            expects_continue: false,
        })),
        (_, _, Some(version)) if version.starts_with(b"HTTP/") => Ok(None),
        _ => Err(BAD_REQUEST),
    }
}

fn parse(head: &[u8]) -> Result<Request, Rejected> {
    let mut headers = vec![httparse::EMPTY_HEADER; head.iter().filter(|byte| **byte == b'\n').count()];
    let mut parsed = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = parsed.parse(head) else {
        return Err(BAD_REQUEST);
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(BAD_REQUEST);
    };
    let values = |name| {
        parsed
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    let value = |name| {
        values(name)
            .next()
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let has_word = |name, word: &str| {
        let words = values(name).flat_map(|header| header.value.split(|byte| *byte == b','));
        words
            .map(<[u8]>::trim_ascii)
            .any(|it| it.eq_ignore_ascii_case(word.as_bytes()))
    };
    let version = if parsed.version == Some(1) {
        Version::Http11
    } else {
        Version::Http10
    };
    let keep_alive = match version {
        Version::Http11 => !has_word("connection", "close"),
        _ => has_word("connection", "keep-alive"),
    };
    Ok(Request {
        method: method.to_owned(),
        path: path(target.as_bytes()),
        version,
        keep_alive,
        token: value("x-aws-ec2-metadata-token"),
        ttl: value("x-aws-ec2-metadata-token-ttl-seconds"),
        forwarded: values("x-forwarded-for").next().is_some(),
        framing: framing(
            values("content-length").map(|it| it.value),
            values("transfer-encoding").map(|it| it.value),
        )?,
        expects_continue: version == Version::Http11 && has_word("expect", "100-continue"),
    })
}

fn path(target: &[u8]) -> String {
    let target = match target.split(|byte| *byte == b'?').next().unwrap_or_default() {
        path @ [b'/', ..] => path,
        // Absolute form: the part after the authority.
        absolute => absolute.splitn(4, |byte| *byte == b'/').nth(3).unwrap_or_default(),
    };
    let mut decoded = Vec::with_capacity(target.len() + 1);
    if !target.starts_with(b"/") {
        decoded.push(b'/');
    }
    let mut rest = target;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = tail
            .get(..2)
            .filter(|_| *byte == b'%')
            .and_then(|hex| str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => decoded.push(*byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Rejected> {
        HeadScan::default().next(bytes)
    }

    fn status(bytes: &[u8]) -> Option<u16> {
        read(bytes).err().map(|rejected| rejected.0)
    }

    #[test]
    fn paths_are_decoded_and_stripped() {
        for (target, expected) in [
            ("/latest/meta-data?x=/y", "/latest/meta-data"),
            ("http://169.254.169.254/latest", "/latest"),
            ("http://169.254.169.254", "/"),
            ("/a%2Db%2fc%zz%4", "/a-b/c%zz%4"),
            ("/%ff", "/\u{fffd}"),
            ("*", "/"),
        ] {
            assert_eq!(path(target.as_bytes()), expected, "{target}");
        }
    }

    #[test]
    fn every_split_gives_the_same_request() {
        let bytes =
            b"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nx-AWS-ec2-metadata-token-ttl-seconds:  60 \r\n\r\nGET";
        let end = bytes.len() - 3;
        for split in 0..bytes.len() {
            let mut scan = HeadScan::default();
            let early = scan.next(&bytes[..split]);
            assert_eq!(early.as_ref().is_ok_and(Option::is_some), split >= end, "{split}");
            if split < end {
                let request = scan.next(bytes);
                assert!(
                    matches!(&request, Ok(Some((request, at))) if *at == end && request.ttl.as_deref() == Some("60")),
                    "{split}: {request:?}"
                );
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [
            &b"\x16\x03\x01\x02\n"[..],
            b"hello\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        ] {
            assert_eq!(status(garbage), Some(400), "{garbage:?}");
        }
        assert_eq!(status(&vec![b'a'; MAX_HEAD + 1]), Some(431));
    }

    #[test]
    fn framing_is_strict() {
        let with = |headers: &str| read(format!("PUT / HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes());
        for (headers, expected) in [
            ("Content-Length: 5", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\ncontent-length: 5", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6", Err(400)),
            ("Content-Length: +5", Err(400)),
            ("Content-Length: 99999999999999999999", Err(413)),
            ("Transfer-Encoding: Chunked", Ok(Framing::Chunked)),
            ("Transfer-Encoding: gzip, chunked", Err(400)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", Err(400)),
        ] {
            let framing = with(headers)
                .map(|it| it.map(|(request, _)| request.framing))
                .map_err(|rejected| rejected.0);
            assert_eq!(framing, expected.map(Some), "{headers}");
        }
    }
}
