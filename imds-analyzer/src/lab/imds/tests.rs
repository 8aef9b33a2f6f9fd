//! The server as clients see it: curl, and bytes on a socket. Needs root, for the namespace.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use super::*;
use crate::lab::Lab;

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "X-aws-ec2-metadata-token";
const ID: &str = "/latest/meta-data/instance-id";
const INSTANCE: &str = "i-00000000000001ab0";

struct Fixture {
    lab: Lab,
    server: Server,
}

impl Fixture {
    fn start(lab: Lab, tokens: Tokens) -> anyhow::Result<Self> {
        let server = Server::start(&lab.server, Options { tokens })?;
        Ok(Self { lab, server })
    }

    fn local() -> anyhow::Result<Self> {
        Self::start(Lab::local()?, Tokens::Optional)
    }

    /// Status and body that curl gets.
    fn curl(&self, path: &str, arguments: &[&str]) -> anyhow::Result<(u16, String)> {
        let mut curl = self.lab.client.command("curl");
        let url = if path.starts_with('/') {
            format!("http://169.254.169.254{path}")
        } else {
            path.to_owned()
        };
        curl.args([
            "-q",
            "-sSgm10",
            "--noproxy",
            "*",
            "--path-as-is",
            "-w",
            "\n%{http_code}",
        ])
        .args(arguments)
        .arg(url);
        let output = curl.output()?;
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        anyhow::ensure!(
            output.status.success(),
            "curl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((status.parse()?, body.to_owned()))
    }

    fn status(&self, path: &str, arguments: &[&str]) -> anyhow::Result<u16> {
        Ok(self.curl(path, arguments)?.0)
    }

    fn put(&self, path: &str, headers: &[&str]) -> anyhow::Result<u16> {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        self.status(path, &["-XPUT"].into_iter().chain(headers).collect::<Vec<_>>())
    }

    fn token(&self) -> anyhow::Result<String> {
        Ok(self
            .curl("/latest/api/token", &["-XPUT", "-H", &format!("{TTL}: 60")])?
            .1)
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = self.lab.client.run(|| TcpStream::connect((IPV4, 80)))??;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Everything the server answers to `bytes` until it closes the connection.
    fn raw(&self, bytes: &[u8]) -> anyhow::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(bytes)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

#[test]
fn a_token_is_issued_and_taken() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let (status, answer) = imds.curl("/latest/api/token", &["-i", "-XPUT", "-H", &format!("{TTL}: 21600")])?;
    assert_eq!(status, 200);
    assert!(
        answer.contains("\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n"),
        "{answer}"
    );
    let token = answer.lines().last().unwrap_or_default();
    assert!(token.len() == 56 && token.ends_with("=="), "{token}");
    assert_eq!(imds.server.tokens(), [token]);
    for (path, method) in [(ID, "-XGET"), ("/1.0/meta-data/instance-id", "-XGET"), (ID, "-I")] {
        let header = format!("{TOKEN}: {token}");
        assert_eq!(imds.status(path, &[method, "-H", &header])?, 200, "{method} {path}");
    }
    let expected = Answered {
        token_requests: 1,
        with_token: 3,
        ..Answered::default()
    };
    assert_eq!(imds.server.answered(), expected);
    Ok(())
}

#[test]
fn token_requests_are_checked() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let path = "/latest/api/token";
    let ttl = |value: &str| format!("{TTL}: {value}");
    for (value, status) in [
        ("1", 200),
        ("21600", 200),
        ("0", 400),
        ("21601", 400),
        ("-1", 400),
        ("ten", 400),
    ] {
        assert_eq!(imds.put(path, &[&ttl(value)])?, status, "{value}");
    }
    assert_eq!(imds.put(path, &[])?, 400);
    assert_eq!(imds.put(path, &[&ttl("60"), "X-Forwarded-For: 10.0.0.1"])?, 403);
    for path in ["/latest/api/token/", "/2021-01-03/api/token"] {
        assert_eq!(imds.put(path, &[&ttl("60")])?, 403, "{path}");
    }
    assert_eq!(imds.put(ID, &[&ttl("60")])?, 405);
    Ok(())
}

#[test]
fn reads_are_checked() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let valid = format!("{TOKEN}: {}", imds.token()?);
    assert_eq!(imds.curl(ID, &[])?, (200, INSTANCE.to_owned()));
    assert_eq!(imds.status(ID, &["-H", "X-Forwarded-For: 10.0.0.1"])?, 200);
    assert_eq!(
        imds.status(ID, &["-H", &valid, "-H", "X-Forwarded-For: 10.0.0.1"])?,
        403
    );
    assert_eq!(
        imds.curl(ID, &["-H", &format!("{TOKEN}: wrong")])?,
        (401, String::new())
    );
    // curl sends an empty header only when asked with a semicolon.
    assert_eq!(imds.status(ID, &["-H", &format!("{TOKEN};")])?, 401);
    assert_eq!(imds.status("/latest/api/token", &[])?, 405);
    assert_eq!(imds.status("/latest/meta-data/spot/instance-action", &[])?, 404);
    assert_eq!(
        imds.status("/computeMetadata/v1/", &["-H", "Metadata-Flavor: Google"])?,
        404
    );
    for method in ["POST", "DELETE", "OPTIONS"] {
        assert_eq!(imds.status(ID, &["-X", method])?, 405, "{method}");
    }
    Ok(())
}

#[test]
fn required_tokens_are_required() -> anyhow::Result<()> {
    let imds = Fixture::start(Lab::local()?, Tokens::Required)?;
    let (status, head) = imds.curl(ID, &["-i"])?;
    assert_eq!(status, 401);
    assert_eq!(
        head,
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nServer: EC2ws\r\nConnection: close\r\n\r\n"
    );
    let token = imds.token()?;
    assert_eq!(
        imds.curl(ID, &["-H", &format!("{TOKEN}: {token}")])?,
        (200, INSTANCE.to_owned())
    );
    assert_eq!(imds.raw(b"GET /latest/user-data\r\n")?, "");
    Ok(())
}

#[test]
fn both_addresses_are_served_locally_and_over_the_cable() -> anyhow::Result<()> {
    for lab in [Lab::local()?, Lab::routed()?] {
        let imds = Fixture::start(lab, Tokens::Optional)?;
        assert_eq!(imds.status(ID, &[])?, 200);
        assert_eq!(imds.server.addresses().len(), 1 + usize::from(imds.lab.has_ipv6()));
        if imds.lab.has_ipv6() {
            assert_eq!(imds.status(&format!("http://[fd00:ec2::254]{ID}"), &[])?, 200);
        }
    }
    Ok(())
}

#[test]
fn old_versions_of_http_are_spoken() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    assert_eq!(imds.raw(format!("GET {ID}\r\n").as_bytes())?, INSTANCE);
    let text = imds.raw(format!("GET {ID} HTTP/1.0\r\n\r\n").as_bytes())?;
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with(&format!("\r\n\r\n{INSTANCE}")),
        "{text}"
    );
    let twice = format!("GET {ID} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET {ID} HTTP/1.0\n\n");
    assert_eq!(imds.raw(twice.as_bytes())?.matches(INSTANCE).count(), 2);
    Ok(())
}

#[test]
fn pipelined_requests_are_answered_in_order() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let requests = concat!(
        "GET /latest HTTP/1.1\r\n\r\n",
        "\r\nHEAD /latest HTTP/1.1\r\n\r\n",
        "PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /",
        "PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
        "GET /none HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    let text = imds.raw(requests.as_bytes())?;
    let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "405", "405", "404"]);
    assert_eq!(text.matches("user-data").count(), 1);
    let expected = Answered {
        without_token: 3,
        token_requests: 2,
        ..Answered::default()
    };
    assert_eq!(imds.server.answered(), expected);
    Ok(())
}

#[test]
fn heads_may_be_slow_and_long() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let mut stream = imds.connect()?;
    for byte in format!("GET {ID} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").bytes() {
        stream.write_all(&[byte])?;
    }
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    assert!(text.ends_with(INSTANCE), "{text}");

    let many = "X-Padding: 0123456789\r\n".repeat(2500);
    let one = format!("X-Padding: {}\r\n", "x".repeat(16 * 1024));
    for padding in [many, one] {
        let text = imds.raw(format!("GET {ID} HTTP/1.1\r\n{padding}Connection: close\r\n\r\n").as_bytes())?;
        assert!(text.ends_with(INSTANCE), "{text}");
    }
    Ok(())
}

#[test]
fn a_client_that_expects_continue_gets_it() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let mut stream = BufReader::new(imds.connect()?);
    stream
        .get_mut()
        .write_all(b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    stream.get_mut().write_all(b"abc")?;
    stream.read_line(&mut line)?;
    stream.read_line(&mut line)?;
    assert!(line.ends_with("\r\n\r\nHTTP/1.1 405 Method Not Allowed\r\n"), "{line}");
    Ok(())
}

#[test]
fn garbage_is_told_so_and_the_server_lives_on() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let endless = vec![b'a'; request::MAX_HEAD + 1];
    for garbage in [
        &b"\x16\x03\x01\0\xff\n"[..],
        b"GET / HTTP/1.1\r\n\0: \xff\r\n\r\n",
        b"\r\n\r\nx\n",
        &endless,
    ] {
        let text = imds.raw(garbage)?;
        assert!(
            text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.1 431 "),
            "{text}"
        );
    }
    drop(imds.connect()?);
    imds.connect()?.write_all(b"GET /latest HT")?;
    assert_eq!(imds.status(ID, &[])?, 200);
    assert_eq!(imds.server.answered().malformed, 4);
    Ok(())
}

#[test]
fn many_requests_on_one_connection_are_all_counted() -> anyhow::Result<()> {
    const REQUESTS: u64 = 20_000;
    let imds = Fixture::local()?;
    let mut stream = BufReader::new(imds.connect()?);
    for _ in 0..REQUESTS {
        stream
            .get_mut()
            .write_all(format!("GET {ID} HTTP/1.1\r\n\r\n").as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head)? > 0, "closed after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.read_exact(&mut [0; INSTANCE.len()])?;
    }
    assert_eq!(imds.server.answered().without_token, REQUESTS);
    Ok(())
}

#[test]
fn dropping_the_server_closes_connections_and_frees_the_port() -> anyhow::Result<()> {
    let imds = Fixture::local()?;
    let mut stream = imds.connect()?;
    stream.write_all(b"GET /latest HTTP/1.1\r\n\r\n")?;
    stream.read_exact(&mut [0; 1])?;
    let Fixture { lab, server } = imds;
    drop(server);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    let again = Fixture::start(lab, Tokens::Optional)?;
    assert_eq!(again.status(ID, &[])?, 200);
    Ok(())
}
