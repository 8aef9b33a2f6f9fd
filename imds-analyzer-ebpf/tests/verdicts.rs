//! Whole heads and their verdicts, as in the contract's table; each is also cut at every byte.
#![allow(clippy::panic, reason = "a failed assertion is the point of a test")]

use imds_analyzer_ebpf::classify::{Classifier, Head, PathClass, Reason, Step, Verdict, facts};

/// What is compared of a head: verdict, reason, class, and the text that may be shown.
type Seen = (Verdict, Option<Reason>, PathClass, String);

/// Feeds `pieces`.
fn classify(pieces: &[&[u8]]) -> Vec<Seen> {
    let mut classifier = Classifier::new();
    let mut seen = Vec::new();
    for &byte in pieces.iter().copied().flatten() {
        if classifier.push(byte) == Step::Head {
            seen.push(head(&classifier));
        }
    }
    if classifier.close() == Step::Head {
        seen.push(head(&classifier));
    }
    seen
}

fn head(classifier: &Classifier) -> Seen {
    let head = classifier.head();
    let (bytes, len) = classifier.capture();
    (
        head.verdict,
        head.reason,
        head.path_class,
        String::from_utf8_lossy(&bytes[..len]).into_owned(),
    )
}

/// The verdicts of `stream`, which must be the same wherever it is cut.
fn verdicts(stream: &str) -> Vec<(Verdict, Option<Reason>, PathClass)> {
    let whole = classify(&[stream.as_bytes()]);
    for cut in 0..=stream.len() {
        let (front, back) = stream.as_bytes().split_at(cut);
        assert_eq!(classify(&[front, back]), whole, "cut at {cut}: {stream:?}");
    }
    whole
        .into_iter()
        .map(|(verdict, reason, class, _)| (verdict, reason, class))
        .collect()
}

fn one(stream: &str) -> (Verdict, Option<Reason>, PathClass) {
    let seen = verdicts(stream);
    assert_eq!(seen.len(), 1, "{seen:?} of {stream:?}");
    seen[0]
}

#[test]
fn every_row_of_the_verdict_table() {
    use PathClass::{Credential, Identity, NotImds, Plain, Root, Token, UserData};
    use Verdict::{InvalidTokenRequest, OtherCloud, V1, V2, V2EmptyToken, V2TokenRequest};
    const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
    const TOKEN: &str = "X-aws-ec2-metadata-token: AQAEAtoken==\r\n";
    let cases = [
        ("PUT /latest/api/token", TTL.to_owned(), V2TokenRequest, Token),
        (
            "PUT /latest/api/token",
            format!("{TTL}X-Forwarded-For: 1.2.3.4\r\n"),
            InvalidTokenRequest,
            Token,
        ),
        ("PUT /latest/api/token", String::new(), InvalidTokenRequest, Token),
        ("PUT /latest/api/token", TOKEN.to_owned(), InvalidTokenRequest, Token),
        ("GET /latest/meta-data/", TOKEN.to_owned(), V2, Plain),
        ("GET /latest/meta-data/", TOKEN.to_lowercase(), V2, Plain),
        (
            "GET /latest/meta-data/",
            "x-AWS-EC2-Metadata-TOKEN:t\n".to_owned(),
            V2,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-token:\r\n".to_owned(),
            V2EmptyToken,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-token: \t\r\n".to_owned(),
            V2EmptyToken,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-token:\r\n  t\r\n".to_owned(),
            V2,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-token:\r\nX-Aws-Ec2-Metadata-Token: t\r\n".to_owned(),
            V2,
            Plain,
        ),
        ("GET /latest/meta-data/", TTL.to_owned(), InvalidTokenRequest, Plain),
        ("GET /latest/api/token", TTL.to_owned(), InvalidTokenRequest, Token),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-tokens: t\r\n".to_owned(),
            V1,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "X-aws-ec2-metadata-toke: t\r\n".to_owned(),
            V1,
            Plain,
        ),
        (
            "GET /latest/meta-data/",
            "A: b\r\n X-aws-ec2-metadata-token: t\r\n".to_owned(),
            V1,
            Plain,
        ),
        ("GET /x-aws-ec2-metadata-token:x", String::new(), V1, NotImds),
        (
            "GET /",
            "User-Agent: x-aws-ec2-metadata-token: t\r\n".to_owned(),
            V1,
            Root,
        ),
        (
            "GET /computeMetadata/v1/",
            "Metadata-Flavor: Google\r\n".to_owned(),
            OtherCloud,
            NotImds,
        ),
        ("GET /computeMetadata/v1/", TOKEN.to_owned(), V2, NotImds),
        (
            "GET /metadata/instance?api-version=2021-02-01",
            "Metadata: true\r\n".to_owned(),
            OtherCloud,
            NotImds,
        ),
        ("GET /opc/v2/", String::new(), OtherCloud, NotImds),
        ("GET /elsewhere", "Metadata: True\r\n".to_owned(), V1, NotImds),
        (
            "GET latest/meta-data/",
            "Metadata-Flavor: Google\r\n".to_owned(),
            V1,
            NotImds,
        ),
        ("GET \\latest", "Metadata: true\r\n".to_owned(), V1, NotImds),
        ("GET /latest;x=1/", "Metadata: true\r\n".to_owned(), V1, NotImds),
        ("GET /x/../computeMetadata/", String::new(), OtherCloud, NotImds),
        ("GET /elsewhere", String::new(), V1, NotImds),
        (
            "GET /latest/meta-data/iam/security-credentials/r",
            "Metadata: true\r\n".to_owned(),
            V1,
            Credential,
        ),
        (
            "GET /latest/meta-data/iam/security-credentials/r",
            "Metadata-Flavor: Google\r\n".to_owned(),
            V1,
            Credential,
        ),
        ("GET /2021-01-03/user-data", String::new(), V1, UserData),
        (
            "GET http://169.254.169.254/latest/dynamic/instance-identity/document",
            String::new(),
            V1,
            Identity,
        ),
        ("HEAD /", String::new(), V1, Root),
        ("POST /", String::new(), V1, Root),
        ("get /latest/", String::new(), V1, Plain),
    ];
    for (line, headers, verdict, class) in cases {
        for eol in ["\r\n", "\n"] {
            let head = format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}Accept: */*\r\n\r\n").replace("\r\n", eol);
            assert_eq!(one(&head), (verdict, None, class), "{head:?}");
        }
    }
}

#[test]
fn what_is_not_a_whole_head_is_unknown_with_its_reason() {
    let many = "a".repeat(17 * 1024);
    for (stream, reason) in [
        ("GET / HTTP/1.1\r\nX-aws-ec2-meta".to_owned(), Reason::Closed),
        ("GET / HTTP/1.1\r\n".to_owned(), Reason::Closed),
        ("G".to_owned(), Reason::Closed),
        (format!("GET / HTTP/1.1\r\nCookie: {many}\r\n\r\n"), Reason::TooLong),
        (format!("GET / HTTP/1.1\r\nCookie: {many}"), Reason::TooLong),
        ("\u{16}\u{3}\u{1}\0".to_owned(), Reason::NotHttp),
        ("GET /\u{fffd}\r\n".to_owned(), Reason::NotHttp),
        ("GET /\rHost HTTP/1.1\r\n\r\n".to_owned(), Reason::NotHttp),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), Reason::NotHttp),
        ("PUT /latest/api/token\r\n".to_owned(), Reason::NotHttp),
    ] {
        let seen = if stream.len() > 4096 {
            let seen = classify(&[stream.as_bytes()]);
            assert_eq!(seen.len(), 1, "{seen:?}");
            (seen[0].0, seen[0].1)
        } else {
            let (verdict, found, _) = one(&stream);
            (verdict, found)
        };
        assert_eq!(
            seen,
            (Verdict::Unknown, Some(reason)),
            "{:?}",
            &stream[..stream.len().min(60)]
        );
    }
}

/// Readers take a malformed head in different ways: it is judged if none of them can see a token in it.
#[test]
fn a_malformed_head_is_judged_if_there_is_no_token_in_any_reading() {
    let seen = |line: &str, headers: &str| {
        let stream = format!("{line}\r\n{headers}\r\n");
        let whole = classify(&[stream.as_bytes()]);
        for cut in 0..stream.len() {
            let (front, back) = stream.as_bytes().split_at(cut);
            assert_eq!(classify(&[front, back]), whole, "cut at {cut}: {stream:?}");
        }
        let mut classifier = Classifier::new();
        let mut heads: Vec<Head> = Vec::new();
        for byte in stream.bytes() {
            if classifier.push(byte) == Step::Head {
                heads.push(classifier.head());
            }
        }
        assert_eq!(heads.len(), 1, "{stream:?}: {heads:?}");
        (
            heads[0].verdict,
            heads[0].reason,
            heads[0].facts & facts::MALFORMED != 0,
        )
    };
    let get = "GET /latest/ HTTP/1.1";
    for (line, headers) in [
        (get, "no colon\r\n"),
        (get, ": x\r\n"),
        (get, "Host : x\r\n"),
        (get, "Host\t: x\r\n"),
        (get, " \r\n"),
        (get, "Host: x\r\n \t\r\n"),
        (get, " Host: x\r\n"),
        (get, "Host: a\rb\r\n"),
        (get, "Host: x\r\r\n"),
        (get, "Host: x\r\n\r"),
        (get, "Host: a\u{1}b\r\n"),
        (get, "H\u{f6}st: x\r\n"),
        (get, "A: b\rx-aws-region: t\r\n"),
        (get, "A: x-aws-ec2-metadata-token: t\rb\r\n"),
        ("GET /latest/ HTTP/1.1\r", "Host: x\r\n"),
        ("GET /latest/\r HTTP/1.1", "Host: x\r\n"),
        ("GET /latest/\u{e9} HTTP/1.1", "Host: x\r\n"),
        ("GET /latest/\u{7f}\u{1} HTTP/1.0", "Host: x\r\n"),
    ] {
        assert_eq!(seen(line, headers), (Verdict::V1, None, true), "{line:?} {headers:?}");
    }
    let malformed = (Verdict::Unknown, Some(Reason::Malformed), true);
    for (line, headers) in [
        (get, "no colon\r\nX-aws-ec2-metadata-token: t\r\n"),
        (get, "X-aws-ec2-metadata-token-ttl-seconds: 6\r\nno colon\r\n"),
        (get, "X-aws-ec2-metadata-token : t\r\n"),
        (get, "X-aws-ec2-metadata-token\t:\r\n"),
        (get, "X-aws-ec2-metadata-token t\r\n"),
        (get, "X-aws-ec2-metadata-token\r\n"),
        (get, "X-aws-ec2-metadata-token\r\r\n"),
        (get, "X-aws-ec2-metadata-token\u{b}: t\r\n"),
        (get, "X-aws-ec2-metadata-token-ttl-seconds\r\n"),
        (get, " X-aws-ec2-metadata-token: t\r\n"),
        (get, "\u{b}X-aws-ec2-metadata-token: t\r\n"),
        (get, "\u{a0}X-aws-ec2-metadata-token: t\r\n"),
        (get, "no colon\r\nA: b\r\n X-aws-ec2-metadata-token: t\r\n"),
        (get, "no colon\r\nA: b\r\n \t X-AWS-EC2-METADATA-TOKEN: t\r\n"),
        (get, "no colon\r\nUser-Agent: b\r\n X-aws-ec2-metadata-token: t\r\n"),
        (get, "no colon\r\nContent-Length:\r\n X-aws-ec2-metadata-token: t\r\n"),
        (get, "A: b\rX-aws-ec2-metadata-token: t\r\n"),
        (get, "A: b\r X-aws-ec2-metadata-token: t\r\n"),
        (get, "A: b\r\rX-aws-ec2-metadata-token-ttl-seconds: t\r\n"),
        (get, "Host: x\r\n \r\nX-aws-ec2-metadata-token: t\r\n"),
        ("GET /latest/\r HTTP/1.1", "X-aws-ec2-metadata-token: t\r\n"),
        ("GET /latest/\u{e9} HTTP/1.1", "X-aws-ec2-metadata-token: t\r\n"),
        ("GET /latest/ HTTP/1.1\r", "X-aws-ec2-metadata-token: t\r\n"),
    ] {
        assert_eq!(seen(line, headers), malformed, "{line:?} {headers:?}");
    }
    let (verdict, reason, malformed) = seen("PUT /latest/api/token HTTP/1.1", "no colon\r\n");
    assert_eq!((verdict, reason, malformed), (Verdict::InvalidTokenRequest, None, true));
}

/// A request line where a chunk's size is expected is not part of a body: clients leave the body out after `Expect:
/// 100-continue`.
#[test]
fn a_request_in_the_place_of_a_chunk_is_judged() {
    use Verdict::{V1, V2, V2TokenRequest};
    let put =
        "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 6\r\nTransfer-Encoding: chunked\r\n";
    let get = "GET /latest/user-data HTTP/1.1\r\n\r\n";
    let delete = "DELETE /latest/user-data HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n";
    for (stream, expected) in [
        (
            format!("{put}Expect: 100-continue\r\n\r\n{get}"),
            vec![V2TokenRequest, V1],
        ),
        (
            format!("{put}Expect: 100-continue\r\n\r\n{delete}{get}"),
            vec![V2TokenRequest, V2, V1],
        ),
        (
            format!("{put}\r\n3\r\nabc\r\n{delete}{get}"),
            vec![V2TokenRequest, V2, V1],
        ),
        (
            format!("{put}Expect: 100-continue\r\n\r\n{put}\r\n0\r\n\r\n{get}"),
            vec![V2TokenRequest, V2TokenRequest, V1],
        ),
        (format!("{put}\r\n0\r\n\r\n{get}"), vec![V2TokenRequest, V1]),
    ] {
        let seen: Vec<_> = verdicts(&stream).into_iter().map(|(verdict, ..)| verdict).collect();
        assert_eq!(seen, expected, "{stream:?}");
    }
    let seen = classify(&[format!("{put}\r\n{delete}").as_bytes()]);
    assert_eq!(seen[1].3, "DELETE /latest/user-data HTTP/1.1\n");
}

/// A head that was found in a body is one record, wherever the body ends.
#[test]
fn a_head_in_a_body_is_reported_once() {
    let inner = "GET /latest/user-data HTTP/1.1\r\nHost: imds\r\nX-Other: a\r\n\r\n";
    let next = "GET /latest/ HTTP/1.1\r\n\r\n";
    for length in 32..=inner.len() {
        let stream = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{inner}{next}");
        let seen: Vec<_> = verdicts(&stream).into_iter().map(|seen| (seen.0, seen.1)).collect();
        let framing = (Verdict::Unknown, Some(Reason::Framing));
        assert_eq!(
            seen,
            [(Verdict::V1, None), framing, (Verdict::V1, None)],
            "{length} bytes of body"
        );
    }
}

#[test]
fn a_folded_value_may_begin_with_bytes_over_0x7f() {
    for (line, named) in [("\u{e9}t\u{e9}", false), ("\u{a0} X-aws-ec2-metadata-token: t", true)] {
        let stream = format!("GET /latest/ HTTP/1.1\r\nA: b\r\n {line}\r\n\r\n");
        let mut classifier = Classifier::new();
        let steps: Vec<_> = stream.bytes().map(|byte| classifier.push(byte)).collect();
        assert_eq!(steps.last(), Some(&Step::Head), "{stream:?}");
        let head = classifier.head();
        assert_eq!(
            (head.verdict, head.facts & facts::MALFORMED),
            (Verdict::V1, 0),
            "{stream:?}"
        );
        assert_eq!(head.facts & facts::TOKEN_NAME != 0, named, "{stream:?}");
    }
}

#[test]
fn http_0_9_is_v1_and_has_no_headers() {
    assert_eq!(one("GET /latest/meta-data/\r\n"), (Verdict::V1, None, PathClass::Plain));
    assert_eq!(one("GET /latest/meta-data/\n").0, Verdict::V1);
}

#[test]
fn pipelined_requests_are_judged_one_by_one() {
    let stream = "GET /latest/ HTTP/1.1\r\n\r\n\
                  \r\nGET /latest/ HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n\
                  PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 6\r\nContent-Length: 0\r\n\r\n\
                  POST /x HTTP/1.1\r\nContent-Length: 29\r\n\r\nGET /latest/ HTTP/1.1\r\nbody\r\n\
                  GET / HTTP/1.0\r\n\r\n";
    let seen: Vec<_> = verdicts(stream).into_iter().map(|(verdict, ..)| verdict).collect();
    use Verdict::{Unknown, V1, V2, V2TokenRequest};
    assert_eq!(seen, [V1, V2, V2TokenRequest, V1, Unknown, V1]);
}

#[test]
fn a_head_in_an_ambiguous_body_is_reported_and_the_stream_is_found_again() {
    let smuggled = "GET /latest/user-data HTTP/1.1\r\n\r\n";
    let length = smuggled.len();
    let next = "GET /latest/ HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n";
    let framing = (Verdict::Unknown, Some(Reason::Framing), PathClass::NotImds);
    let v2 = (Verdict::V2, None, PathClass::Plain);
    for (head, body) in [
        (
            format!("GET / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"),
            smuggled.to_owned(),
        ),
        (
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            format!("{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n".to_owned(),
            smuggled.to_owned(),
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(),
            format!("prefix {smuggled}"),
        ),
    ] {
        let seen = verdicts(&format!("{head}{body}{next}"));
        assert_eq!(seen[1..], [framing, v2], "{head:?}");
    }
    // Without a body that holds a head, nothing is reported for it.
    let seen = verdicts(&format!("GET / HTTP/1.1\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}{next}"));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1], v2);
}

#[test]
fn joined_midstream_and_after_a_gap_the_next_head_is_judged() {
    let next = b"GET /latest/ HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n";
    let mut classifier = Classifier::new();
    classifier.join_midstream(Reason::Midstream);
    let mut seen = Vec::new();
    for &byte in b"QAEAsecretsecret==\r\nHost: x\r\n\r\n".iter().chain(next) {
        if classifier.push(byte) == Step::Head {
            seen.push(head(&classifier));
        }
    }
    assert_eq!(
        seen[0],
        (
            Verdict::Unknown,
            Some(Reason::Midstream),
            PathClass::NotImds,
            String::new()
        )
    );
    assert_eq!((seen[1].0, seen.len()), (Verdict::V2, 2));

    let mut classifier = Classifier::new();
    for &byte in b"GET / HTTP/1.1\r\nHo" {
        assert_eq!(classifier.push(byte), Step::More);
    }
    assert_eq!(classifier.gap(10), Step::Head);
    assert_eq!(classifier.head().reason, Some(Reason::Gap));
    let mut seen = Vec::new();
    for &byte in b"st: x\r\n\r\n".iter().chain(next) {
        if classifier.push(byte) == Step::Head {
            seen.push(head(&classifier).0);
        }
    }
    assert_eq!(seen, [Verdict::V2]);
}

#[test]
fn only_the_request_line_and_the_user_agent_are_kept() {
    let stream = b"GET /latest/ HTTP/1.1\r\nHost: h\r\nX-aws-ec2-metadata-token: SECRET\r\nUser-Agent: curl/8\r\n \
                   more\r\nAuthorization: SECRET\r\n SECRET\r\nX-Other: SECRET\r\n\r\n";
    let seen = classify(&[stream]);
    assert_eq!(seen[0].3, "GET /latest/ HTTP/1.1\nUser-Agent: curl/8\n");
}

#[test]
fn paths_are_normalised_for_their_class() {
    for (path, class) in [
        ("/", PathClass::Root),
        ("//", PathClass::Root),
        ("/?x", PathClass::Root),
        ("http://169.254.169.254", PathClass::Root),
        ("*", PathClass::NotImds),
        ("/latest", PathClass::Plain),
        ("/latest/", PathClass::Plain),
        ("/lates", PathClass::NotImds),
        ("/latestx", PathClass::NotImds),
        ("/1.0/meta-data/ami-id", PathClass::Plain),
        ("/2099-12-31/meta-data/", PathClass::Plain),
        ("/2099-12-3/meta-data/", PathClass::NotImds),
        ("/latest/meta-data/iam/security-credentials", PathClass::Credential),
        ("/latest/meta-data/iam/security-credentials/", PathClass::Credential),
        (
            "/latest/meta-data/iam/security-credentials/role/x",
            PathClass::Credential,
        ),
        ("/latest/meta-data/iam/security-credential", PathClass::Plain),
        ("/latest/meta-data/iam/", PathClass::Plain),
        (
            "/latest//meta-data/./iam//security-credentials/role?x=/y",
            PathClass::Credential,
        ),
        (
            "/latest/%6Deta-data/iam/security%2Dcredentials/role",
            PathClass::Credential,
        ),
        (
            "/latest/x/../meta-data/iam/y/z/../../security-credentials/role",
            PathClass::Credential,
        ),
        (
            "/a/b/c/d/e/f/g/h/i/../../../../../../../../../latest/user-data",
            PathClass::UserData,
        ),
        ("/../../latest/user-data", PathClass::UserData),
        ("/latest/user-data/..", PathClass::Plain),
        ("/latest/%zz", PathClass::Plain),
        (
            "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
            PathClass::Credential,
        ),
        ("/latest/meta-data/iam/info", PathClass::Account),
        ("/latest/meta-data/identity-credentials/ec2/info", PathClass::Account),
        ("/latest/dynamic/instance-identity/pkcs7", PathClass::Identity),
        ("/latest/meta-data/public-keys/0/openssh-key", PathClass::Keys),
        ("/latest/meta-data/tags/instance/Name", PathClass::Tags),
        ("/latest/meta-data/spot/instance-action", PathClass::Lifecycle),
        ("/latest/meta-data/events/maintenance/scheduled", PathClass::Lifecycle),
        ("/latest/meta-data/network/interfaces/macs/", PathClass::Network),
        ("/latest/meta-data/mac", PathClass::Network),
        ("/latest/meta-data/macs", PathClass::Plain),
        ("/latest/api/token", PathClass::Token),
        ("/latest/api/token/", PathClass::Token),
        ("/latest/api/token/x", PathClass::Plain),
        ("/latest/api/tokens", PathClass::Plain),
    ] {
        let (_, reason, seen) = one(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert_eq!((reason, seen), (None, class), "{path}");
    }
}

// Regressions: found by properties.rs.

#[test]
fn a_simple_request_that_is_too_long_is_reported_once_and_not_judged() {
    for length in [16_384, 20_000] {
        let stream = format!("GET /{}\r\n", "a".repeat(length));
        let seen = classify(&[stream.as_bytes()]);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].0, seen[0].1), (Verdict::Unknown, Some(Reason::TooLong)));
    }
}

#[test]
fn a_percent_sign_that_encodes_nothing_hides_nothing_behind_it() {
    let credentials = "/latest/meta-data/iam/security-credentials";
    for (path, class) in [
        (format!("{credentials}/%?/../../x"), PathClass::Credential),
        (format!("{credentials}/%4?/../../x"), PathClass::Credential),
        (format!("{credentials}/%%2f../x"), PathClass::Credential),
        (format!("/latest/x%%2f../{}", "user-data"), PathClass::UserData),
        ("/latest/user-data%".to_owned(), PathClass::Plain),
        ("/latest/user-data%4".to_owned(), PathClass::Plain),
        ("/latest/user-data%?x".to_owned(), PathClass::Plain),
    ] {
        assert_eq!(one(&format!("GET {path} HTTP/1.1\r\n\r\n")).2, class, "{path}");
    }
}

#[test]
fn a_request_line_that_the_end_of_a_body_cuts_is_found() {
    for body in [
        "GET /latest/user-data HTTP/1.1",
        "x\r\nGET /latest/user-data HTTP/1.1 ",
        "GET /latest/",
    ] {
        // A server that does not read bodies of GET finds a whole request here, followed by empty lines only.
        let stream = format!("GET / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}\r\n\r\n", body.len());
        let seen = verdicts(&stream);
        assert_eq!((seen.len(), seen[1].1), (2, Some(Reason::Framing)), "{stream:?}");
    }
}

#[test]
fn the_body_of_a_malformed_head_is_scanned() {
    let body = "GET /latest/user-data HTTP/1.1\r\n\r\n";
    for header in [
        format!("Content-Length: {}\u{b}", body.len()),
        format!("Content-Length: {}\r\nno colon", body.len()),
    ] {
        let seen = verdicts(&format!("POST / HTTP/1.1\r\n{header}\r\n\r\n{body}"));
        let reasons: Vec<_> = seen.iter().map(|seen| seen.1).collect();
        assert_eq!(reasons, [None, Some(Reason::Framing)], "{header:?}");
    }
}

#[test]
fn what_may_be_a_header_or_a_body_is_not_shown() {
    for stream in [
        // In a scanned body: lines that end like a request line.
        "GET / HTTP/1.1\r\nContent-Length: 99\r\n\r\nAuthorization: Bearer SECRET HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 99\r\n\r\nCookie:SECRET x HTTP/1.1\r\n SECRET x HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 99\r\n\r\nCookie :SECRET HTTP/1.1\r\nx : SECRET HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 99\r\n\r\nA: x HTTP/1.1\ra SECRET HTTP/1.1\r\n",
        // Lines where a request should begin.
        "GET /\r\nAuthorization :SECRET\r\n\r\n",
        "GET /\r\nAuthorization : SECRET\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nPassword=SECRET\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nPassword=SECRET",
        "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nPassword=SECRET SECRET",
    ] {
        let seen = classify(&[stream.as_bytes()]);
        assert!(seen.len() > 1, "{stream:?}");
        assert!(seen.iter().all(|seen| !seen.3.contains("SECRET")), "{seen:?}");
    }
    // A line that is only a request line is shown.
    let seen = classify(&[b"GET / HTTP/1.1\r\nContent-Length: 99\r\n\r\nx\nGET /latest/ HTTP/1.1\r\n"]);
    assert_eq!(seen[1].3, "GET /latest/ HTTP/1.1");
}

/// The heads seen, with `missing` bytes left out between `before` and `after`.
fn after_a_gap(before: &str, missing: u32, after: &str) -> Vec<Seen> {
    let mut classifier = Classifier::new();
    let mut seen = Vec::new();
    for &byte in before.as_bytes() {
        classifier.push(byte);
    }
    if classifier.gap(missing) == Step::Head {
        seen.push(head(&classifier));
    }
    for &byte in after.as_bytes() {
        if classifier.push(byte) == Step::Head {
            seen.push(head(&classifier));
        }
    }
    seen
}

#[test]
fn the_end_of_a_header_is_no_simple_request() {
    let seen = after_a_gap("", 20, "GET /SECRET\r\nHost: h\r\n\r\n");
    let hidden = (Verdict::Unknown, Some(Reason::Gap), PathClass::NotImds, String::new());
    assert_eq!(seen, [hidden]);
}

#[test]
fn a_gap_in_a_scanned_body_or_in_a_head_reported_already_ends_neither() {
    let next = "GET /latest/ HTTP/1.1\r\n\r\n";
    // Bytes 4 to 7 of the body are missing; the request line in it is no request.
    let head = "GET / HTTP/1.1\r\nContent-Length: 34\r\n\r\nbody";
    let seen = after_a_gap(head, 4, &format!("\nGET /latest/ HTTP/1.1\r\n\r\n{next}"));
    let reasons: Vec<_> = seen.iter().map(|seen| seen.1).collect();
    assert_eq!(reasons, [Some(Reason::Gap), None]);
    // The head is too long, and reported as such before the gap.
    let head = format!("GET / HTTP/1.1\r\nCookie: {}", "a".repeat(17_000));
    let seen = after_a_gap(&head, 4, &format!("aaa\r\nHost: h\r\n\r\n{next}"));
    assert_eq!(seen.iter().map(|seen| seen.0).collect::<Vec<_>>(), [Verdict::V1]);
}
