//! Answer streams: which status lines are answers, and where each answer ends.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed assertion is the point of a test"
)]

use imds_analyzer_ebpf::answer::{Answers, Step, status_of};
use proptest::{
    collection::vec,
    prelude::{BoxedStrategy, Just, ProptestConfig, Strategy as _, any, prop_assert_eq, prop_oneof, proptest},
    sample::select,
};

/// The result of following a stream: its statuses, and whether it was lost.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    statuses: Vec<u16>,
    lost: bool,
}

/// Follows a stream like the kernel side does: bytes that need no parsing are skipped. `heads` says which requests were
/// HEAD.
fn follow(pieces: &[&[u8]], heads: &[bool]) -> Seen {
    let mut answers = Answers::default();
    let mut seen = Seen {
        statuses: Vec::new(),
        lost: false,
    };
    let mut is_head = false;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let skip = answers.to_skip().min(rest.len() as u64);
            if skip > 0 {
                answers.skip(skip);
                rest = &rest[usize::try_from(skip).unwrap()..];
                continue;
            }
            if answers.is_between_answers() {
                is_head = heads.get(seen.statuses.len()).copied().unwrap_or_default();
            }
            match answers.push(rest[0], is_head) {
                Step::More => {}
                Step::Answer => seen.statuses.push(answers.status()),
                Step::Lost => {
                    assert!(!seen.lost, "said once");
                    seen.lost = true;
                }
            }
            rest = &rest[1..];
        }
    }
    seen
}

fn statuses(stream: &str, heads: &[bool], expected: &[u16], lost: bool) {
    let expected = Seen {
        statuses: expected.to_vec(),
        lost,
    };
    assert_eq!(follow(&[stream.as_bytes()], heads), expected, "{stream:?}");
    for cut in 0..stream.len() {
        let (a, b) = stream.as_bytes().split_at(cut);
        assert_eq!(follow(&[a, b], heads), expected, "{stream:?} cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    assert_eq!(follow(&bytes, heads), expected, "{stream:?} in bytes");
}

#[test]
fn answers_one_after_the_other() {
    for (stream, heads, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            &[][..],
            &[200, 404][..],
        ),
        ("HTTP/1.0 200 OK\n\nto the end HTTP/1.1 500 no\r\n\r\n", &[], &[200]),
        (
            "HTTP/1.1 200\r\ncontent-LENGTH:\t 5 \r\n\r\nHTTP/HTTP/1.1 401 \r\n\r\n",
            &[],
            &[200, 401],
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            &[],
            &[200],
        ),
        (
            "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            &[],
            &[204, 304, 200],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nHTTP/1.1 403 F\r\nContent-Length: 1\r\n\r\n.HTTP/1.1 200 K\r\n\r\n",
            &[true, false, false],
            &[200, 403, 200],
        ),
        (
            "\r\n\n\r\nHTTP/1.1   200   OK\r\nContent-Length: 00\r\n\r\n\r\nHTTP/1.1 503 S\n\n",
            &[],
            &[200, 503],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHTTP/\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200, 201],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\tChunked \r\n\r\n000\n\nHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200, 201],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\nHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200],
        ),
        (
            "HTTP/1.1 200 OK\r\nX-Content-Length: 3\r\nContent-Lengthy: 4\r\nContent-Len: 2\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200, 201],
        ),
        (
            "HTTP/1.1 200 OK\r\nno colon\r\n: no name\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200, 201],
        ),
        (
            "HTTP/1.1 200 OK\r\nServer: x\r\n  folded: y\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 201 C\r\n\r\n",
            &[],
            &[200, 201],
        ),
        ("HTTP/1.9 999 x\r\n\r\n", &[], &[999]),
        ("HTTP/1.1 200 O", &[], &[200]),
        ("HTTP/1.1 200", &[], &[]),
        ("", &[], &[]),
    ] {
        statuses(stream, heads, expected, false);
    }
}

#[test]
fn what_is_not_certain_is_lost() {
    for (stream, expected) in [
        ("no HTTP at all", &[][..]),
        ("HTTP/2 200 OK\r\n\r\n", &[]),
        ("http/1.1 200 OK\r\n\r\n", &[]),
        ("HTTP/1.1 20 OK\r\n\r\n", &[]),
        ("HTTP/1.1 099 x\r\n\r\n", &[]),
        ("HTTP/1.1 20000000000000000000 OK\r\n\r\n", &[]),
        ("HTTP/1.1 2x0 OK\r\n\r\n", &[]),
        ("HTTP/1.1\t200 OK\r\n\r\n", &[]),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            &[101],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            &[200],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", &[200]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1 2\r\n\r\nx", &[200]),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nx", &[200]),
        ("HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", &[200]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\nx", &[200]),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
            &[200],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
            &[200],
        ),
        ("HTTP/1.1 200 OK\r\n\rX", &[200]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", &[200]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", &[200]),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
            &[200],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            &[200],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", &[200]),
    ] {
        statuses(stream, &[], expected, true);
    }
}

#[test]
fn lines_without_end_are_lost() {
    let mut stream = "HTTP/1.1 200 OK\r\nX: ".to_owned();
    stream.extend(std::iter::repeat_n('x', 70_000));
    assert_eq!(
        follow(&[stream.as_bytes()], &[]),
        Seen {
            statuses: vec![200],
            lost: true
        }
    );
}

#[test]
fn the_first_bytes_of_a_status_line_have_the_status() {
    for (line, expected) in [
        (b"HTTP/1.1 200", 200),
        (b"HTTP/1.0 401", 401),
        (b"HTTP/1.1 100", 100),
        (b"HTTP/1.1 999", 999),
        (b"HTTP/2.0 200", 0),
        (b"HTTP/1.x 200", 0),
        (b"HTTP/1.1  20", 0),
        (b"HTTP/1.1 2 0", 0),
        (b"http/1.1 200", 0),
        (b"\r\nHTTP/1.1 2", 0),
        (b"SSH-2.0-Open", 0),
        (&[0; 12], 0),
    ] {
        assert_eq!(status_of(line), expected, "{}", line.escape_ascii());
    }
}

#[test]
fn a_gap_in_a_counted_body_is_no_loss() {
    let mut answers = Answers::default();
    for byte in *b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" {
        assert_ne!(answers.push(byte, false), Step::Lost);
    }
    assert_eq!(answers.gap(4), Step::More);
    assert_eq!(answers.to_skip(), 6);
    assert_eq!(answers.gap(6), Step::More);
    assert!(answers.is_between_answers());
    assert_eq!(answers.gap(1), Step::Lost);
    assert_eq!(answers.gap(1), Step::More, "said once");
    assert!(answers.is_lost());
}

/// An answer as a server may write it, its status, and whether it is to HEAD.
#[derive(Clone, Debug)]
struct Answer {
    bytes: Vec<u8>,
    status: u16,
    head: bool,
}

fn body() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        Just(b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
    ]
    .boxed()
}

fn noise() -> BoxedStrategy<&'static str> {
    select(vec![
        "",
        "Server: EC2ws\r\n",
        "Content-Type: text/plain\n",
        "X-Long: content-length: 5\r\n",
        "Date: x\r\n y\r\n",
        "C: d\r\n",
        "transfer-encodin: chunked\r\n",
    ])
    .boxed()
}

fn answer() -> BoxedStrategy<Answer> {
    let status = select(vec![200_u16, 204, 304, 400, 401, 403, 404, 503]);
    (
        (status, any::<bool>(), any::<bool>(), 0..5_u8),
        (noise(), noise(), body(), body()),
    )
        .prop_map(|((status, head, interim, framing), (before, behind, first, second))| {
            let mut bytes = Vec::new();
            if interim {
                bytes.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            bytes.extend(format!("HTTP/1.1 {status} Reason\r\n{before}").bytes());
            let bodiless = head || status == 204 || status == 304;
            if framing < 3 {
                let length = first.len() + second.len();
                bytes.extend(format!("Content-Length: {length}\r\n{behind}\r\n").bytes());
                if !bodiless {
                    bytes.extend([first, second].concat());
                }
            } else {
                bytes.extend(format!("Transfer-Encoding: chunked\r\n{behind}\r\n").bytes());
                if !bodiless {
                    for part in [first, second] {
                        if !part.is_empty() {
                            bytes.extend(format!("{:x}\r\n", part.len()).bytes());
                            bytes.extend(part);
                            bytes.extend(b"\r\n");
                        }
                    }
                    bytes.extend(b"0\r\nTrailer: x\r\n\r\n");
                }
            }
            Answer { bytes, status, head }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_answer_is_counted_once(answers in vec(answer(), 0..8), cuts in vec(any::<proptest::sample::Index>(), 0..6)) {
        let stream: Vec<u8> = answers.iter().flat_map(|answer| answer.bytes.clone()).collect();
        let heads: Vec<bool> = answers.iter().map(|answer| answer.head).collect();
        let expected: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        ends.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for end in ends {
            pieces.push(&stream[from..end]);
            from = end;
        }
        pieces.push(&stream[from..]);
        prop_assert_eq!(follow(&pieces, &heads), Seen { statuses: expected, lost: false });
    }

    /// httparse finds the end of a head, and this test finds the end of the body after it.
    #[test]
    fn statuses_are_those_of_another_parser(answers in vec(answer(), 1..6)) {
        let stream: Vec<u8> = answers.iter().flat_map(|answer| answer.bytes.clone()).collect();
        let heads: Vec<bool> = answers.iter().map(|answer| answer.head).collect();
        let config = {
            let mut config = httparse::ParserConfig::default();
            config.allow_obsolete_multiline_headers_in_responses(true);
            config
        };
        let mut rest = &stream[..];
        let mut statuses = Vec::new();
        while !rest.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut headers);
            let len = config.parse_response(&mut response, rest).unwrap().unwrap();
            let status = response.code.unwrap();
            let header = |name: &str| {
                let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.map(|header| std::str::from_utf8(header.value).unwrap())
            };
            let length: Option<usize> = header("content-length").map(|value| value.parse().unwrap());
            let chunked = header("transfer-encoding").is_some();
            rest = &rest[len..];
            if status == 100 {
                continue;
            }
            let head = heads[statuses.len()];
            statuses.push(status);
            if head || status == 204 || status == 304 {
                continue;
            }
            if chunked {
                while let httparse::Status::Complete((start, size)) = httparse::parse_chunk_size(rest).unwrap() {
                    rest = &rest[start..];
                    if size == 0 {
                        rest = rest.strip_prefix(b"Trailer: x\r\n\r\n").unwrap();
                        break;
                    }
                    rest = &rest[usize::try_from(size).unwrap() + 2..];
                }
            } else {
                rest = &rest[length.unwrap()..];
            }
        }
        prop_assert_eq!(follow(&[&stream], &heads), Seen { statuses, lost: false });
    }

    #[test]
    fn any_bytes_end_in_a_valid_state(stream in vec(any::<u8>(), 0..200), head in any::<bool>()) {
        let mut answers = Answers::default();
        for byte in b"HTTP/1.1 200 OK\r\nContent-".iter().chain(&stream) {
            let skip = answers.to_skip();
            let step = answers.push(*byte, head);
            assert!(skip == 0 || step == Step::More);
        }
    }
}
