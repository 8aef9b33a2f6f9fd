//! Heads of every shape, each on a connection of its own, and the verdicts on them.
//!
//! guests: hooks send-tap packets no-storage

use imds_analyzer_tests::{Case, Stage, briefs, case, check, exchange, get, get_with_token, port};

const CREDENTIAL: &str = "/latest/meta-data/iam/security-credentials/app";
const TOKEN: &str = "X-aws-ec2-metadata-token";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

fn with_headers(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: imds\r\n{headers}\r\n")
}

#[test]
fn a_head_is_judged_whole_however_it_is_cut() {
    let v2 = get_with_token("/latest/user-data", "t");
    let v2_brief = "v2 GET /latest/user-data user-data";
    let in_name = v2.find("metadata-token").expect("the header") + 5;
    let mut cases = vec![
        Case {
            name: "one byte at a time",
            pieces: v2.bytes().map(|byte| vec![byte]).collect(),
            ..case("", "", &[v2_brief])
        },
        Case {
            name: "cut inside the token header's name",
            pieces: [&v2[..in_name], &v2[in_name..]].map(Into::into).to_vec(),
            ..case("", "", &[v2_brief])
        },
        Case {
            name: "v1, one byte at a time",
            pieces: get("/").bytes().map(|byte| vec![byte]).collect(),
            ..case("", "", &["v1 GET / root"])
        },
        case(
            "token behind 8 KiB of cookies",
            with_headers(
                "/latest/user-data",
                &format!("Cookie: {}\r\n{TOKEN}: t\r\n", "c=1; ".repeat(1638)),
            ),
            &[v2_brief],
        ),
    ];
    for size in 2..=7 {
        cases.push(Case {
            name: "small pieces",
            pieces: v2.as_bytes().chunks(size).map(<[u8]>::to_vec).collect(),
            ..case("", "", &[v2_brief])
        });
    }
    check(&cases);
}

/// A head of `len` bytes, its token header last.
fn head_of(len: usize) -> String {
    let head = |padding| with_headers("/latest/user-data", &format!("A: {padding}\r\n{TOKEN}: t\r\n"));
    head("a".repeat(len - head(String::new()).len()))
}

#[test]
fn a_head_may_have_16_kib() {
    check(&[
        case(
            "exactly 16 KiB",
            head_of(16 * 1024),
            &["v2 GET /latest/user-data user-data"],
        ),
        case(
            "one byte over, and a request behind it",
            head_of(16 * 1024 + 1) + &get("/latest/meta-data/mac"),
            &[
                "unknown/too-long GET /latest/user-data user-data",
                "v1 GET /latest/meta-data/mac network",
            ],
        ),
        case(
            "far over, v1, and a request behind it",
            with_headers("/latest/user-data", &"B: b\r\n".repeat(8_000)) + &get("/latest/meta-data/mac"),
            &[
                "unknown/too-long GET /latest/user-data user-data",
                "v1 GET /latest/meta-data/mac network",
            ],
        ),
    ]);
}

#[test]
fn the_token_header_s_name_elsewhere_is_no_token() {
    let url = format!("/latest/user-data?{TOKEN}:%20t");
    let put =
        |length: usize, body: &str| format!("PUT /latest/user-data HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
    let body = format!("\r\n{TOKEN}: t\r\n\r\n");
    check(&[
        case(
            "in the URL",
            get(&url),
            // The value after the header's name is masked.
            &["v1 GET /latest/user-data?X-aws-ec2-metadata-token:%20*** user-data"],
        ),
        case(
            "in the User-Agent",
            with_headers("/latest/user-data", &format!("User-Agent: a {TOKEN}: t\r\n")),
            &["v1 GET /latest/user-data user-data"],
        ),
        case(
            "in a PUT's body",
            put(body.len(), &body) + &get("/"),
            &["v1 PUT /latest/user-data user-data", "v1 GET / root"],
        ),
        case(
            "in a POST's body",
            put(body.len(), &body).replace("PUT", "POST") + &get("/"),
            &["v1 POST /latest/user-data user-data", "v1 GET / root"],
        ),
        case(
            "names that only begin or end so",
            with_headers("/", &format!("{TOKEN}s: t\r\nA-{TOKEN}: t\r\n")),
            &["v1 GET / root"],
        ),
        case(
            "in another header's continued value",
            with_headers("/", &format!("A: b\r\n {TOKEN}: t\r\n")),
            &["v1 GET / root"],
        ),
    ]);
}

#[test]
fn what_the_headers_say() {
    let put = |headers: &str| format!("PUT /latest/api/token HTTP/1.1\r\nHost: imds\r\n{headers}\r\n");
    check(&[
        case(
            "token request",
            put(&format!("{TTL}: 60\r\n")),
            &["v2-token-request PUT /latest/api/token token"],
        ),
        case(
            "token request, lower case",
            put(&format!("{TTL}: 60\r\n"))
                .to_lowercase()
                .replace("put", "PUT")
                .replace("http/1.1", "HTTP/1.1"),
            &["v2-token-request PUT /latest/api/token token"],
        ),
        case(
            "token request that was forwarded",
            put(&format!("{TTL}: 60\r\nX-Forwarded-For: 10.0.0.1\r\n")),
            &["invalid-token-request PUT /latest/api/token token"],
        ),
        case(
            "token request without TTL",
            put(""),
            &["invalid-token-request PUT /latest/api/token token"],
        ),
        case(
            "TTL on GET",
            with_headers("/latest/user-data", &format!("{TTL}: 60\r\n")),
            &["invalid-token-request GET /latest/user-data user-data"],
        ),
        case(
            "GET of the token path",
            get("/latest/api/token"),
            &["v1 GET /latest/api/token token"],
        ),
        case(
            "empty token",
            with_headers("/", &format!("{TOKEN}: \r\n")),
            &["v2-empty-token GET / root"],
        ),
        case(
            "upper case",
            with_headers("/", "X-AWS-EC2-METADATA-TOKEN: t\r\n"),
            &["v2 GET / root"],
        ),
        case(
            "no space",
            with_headers("/", "x-aws-ec2-metadata-token:t\r\n"),
            &["v2 GET / root"],
        ),
        case("HEAD", "HEAD / HTTP/1.1\r\n\r\n", &["v1 HEAD / root"]),
        case(
            "Azure's header on an IMDS path",
            with_headers(CREDENTIAL, "Metadata: true\r\n"),
            &[&format!("v1 GET {CREDENTIAL} credential")],
        ),
        case(
            "Google's header on an IMDS path",
            with_headers(CREDENTIAL, "Metadata-Flavor: Google\r\n"),
            &[&format!("v1 GET {CREDENTIAL} credential")],
        ),
        case(
            "Google's path",
            with_headers("/computeMetadata/v1/", "Metadata-Flavor: Google\r\n"),
            &["other-cloud GET /computeMetadata/v1/ not-imds"],
        ),
        case(
            "Azure's header on a path of nobody's",
            with_headers("/nobody", "Metadata: true\r\n"),
            &["v1 GET /nobody not-imds"],
        ),
        case("a path of nobody's", get("/nobody"), &["v1 GET /nobody not-imds"]),
    ]);
}

#[test]
fn x_forwarded_for_is_noted() {
    let stage = Stage::local().by_process().shared();
    let stream = stage.connect();
    let port = port(&stream);
    let plain = get("/latest/user-data");
    let forwarded = with_headers("/latest/user-data", "X-Forwarded-For: 10.0.0.1\r\n");
    exchange(stream, [forwarded.as_bytes(), plain.as_bytes()]);
    let records = stage.expect(port, 2);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"; 2]);
    let noted: Vec<_> = records.iter().map(|record| &record["imds"]["forwarded"]).collect();
    assert_eq!(noted, [true, false]);
}
