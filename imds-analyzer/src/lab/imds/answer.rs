//! IMDS's answer to a request: the rules of versions 1 and 2.

use std::{fmt::Write as _, io, sync::atomic::Ordering};

use super::{
    State, Tokens,
    body::Rejected,
    request::{Request, Version},
    tokens::parse_ttl,
    tree,
};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
    /// Lifetime of the token in the body.
    pub ttl: Option<u32>,
    pub close: bool,
}

/// Counts the request and decides the answer. Checks form first, then version 2's headers, then the path.
pub(super) fn answer(request: &Request, state: &State) -> io::Result<Answer> {
    let counters = &state.counters;
    let counter = match (request.method.as_str(), &request.token) {
        ("PUT", _) => &counters.token_requests,
        (_, Some(_)) => &counters.with_token,
        (_, None) => &counters.without_token,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    match request.method.as_str() {
        "PUT" => answer_put(request, state),
        "GET" | "HEAD" => Ok(answer_get(request, state)),
        _ => Ok(error(405)),
    }
}

/// The answer to bytes that are not a request.
pub(super) fn refuse(rejected: Rejected, state: &State) -> Answer {
    state.counters.malformed.fetch_add(1, Ordering::Relaxed);
    Answer {
        close: true,
        ..error(rejected.0)
    }
}

fn answer_put(request: &Request, state: &State) -> io::Result<Answer> {
    if request.path != "/latest/api/token" {
        // A PUT with a version or a trailing slash is forbidden; other paths do not allow PUT.
        let is_token_path = request.path.trim_end_matches('/').ends_with("/api/token");
        return Ok(error(if is_token_path { 403 } else { 405 }));
    }
    if request.forwarded {
        return Ok(error(403));
    }
    match request.ttl.as_deref().and_then(parse_ttl) {
        Some(ttl) => Ok(Answer {
            status: 200,
            body: state.tokens.issue(ttl)?,
            ttl: Some(ttl),
            close: false,
        }),
        None => Ok(error(400)),
    }
}

fn answer_get(request: &Request, state: &State) -> Answer {
    match &request.token {
        Some(_) if request.forwarded => return error(403),
        // An empty header is not a valid token. EC2 does not document this case.
        Some(token) if !state.tokens.is_valid(token) => return unauthorized(),
        None if state.options.tokens == Tokens::Required => return unauthorized(),
        _ => {}
    }
    if request.path == "/latest/api/token" {
        return error(405);
    }
    match tree::look_up(&request.path) {
        Some(body) => Answer {
            status: 200,
            body,
            ..Answer::default()
        },
        None => error(404),
    }
}

/// As observed on EC2: no body, and the connection closes.
fn unauthorized() -> Answer {
    Answer {
        status: 401,
        close: true,
        ..Answer::default()
    }
}

fn error(status: u16) -> Answer {
    Answer {
        status,
        body: format!("{status} - {}\n", reason(status)),
        ..Answer::default()
    }
}

impl Answer {
    /// The complete answer, for a single write.
    pub(super) fn render(&self, version: Version, head_only: bool, keep_alive: bool) -> String {
        let Self { status, body, ttl, .. } = self;
        let mut text = String::with_capacity(256 + body.len());
        if version != Version::Http09 {
            let minor = if version == Version::Http11 { 1 } else { 0 };
            // Writing to a String cannot fail.
            let _ = write!(text, "HTTP/1.{minor} {status} {}\r\n", reason(*status));
            if let Some(ttl) = ttl {
                let _ = write!(text, "X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
            }
            if !body.is_empty() {
                text.push_str("Content-Type: text/plain\r\n");
            }
            let _ = write!(text, "Content-Length: {}\r\nServer: EC2ws\r\n", body.len());
            match (version, keep_alive) {
                (_, false) => text.push_str("Connection: close\r\n"),
                (Version::Http10, true) => text.push_str("Connection: keep-alive\r\n"),
                _ => {}
            }
            text.push_str("\r\n");
        }
        if !head_only {
            text.push_str(body);
        }
        text
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Error",
    }
}
