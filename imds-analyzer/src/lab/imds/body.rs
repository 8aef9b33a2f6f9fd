//! Framing of a request's body, which determines where the next request begins.

/// The lab has no use for bodies; this is for tests that send them.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// A rejected request, with the status of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rejected(pub u16);

pub(super) const BAD_REQUEST: Rejected = Rejected(400);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// Strict, so that the next bytes are a request and nothing smuggled.
pub(super) fn framing<'a>(
    mut lengths: impl Iterator<Item = &'a [u8]>,
    mut encodings: impl Iterator<Item = &'a [u8]>,
) -> Result<Framing, Rejected> {
    match (lengths.next(), encodings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case(b"chunked") && encodings.next().is_none() => {
            Ok(Framing::Chunked)
        }
        (Some(length), None) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            if lengths.any(|other| other != length) {
                return Err(BAD_REQUEST);
            }
            let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            length
                .filter(|length| *length <= MAX_BODY)
                .map(Framing::Length)
                .ok_or(Rejected(413))
        }
        _ => Err(BAD_REQUEST),
    }
}

/// Length of the chunked body at the start of `buffer`, with its trailers, once it is complete.
pub(super) fn chunked_length(buffer: &[u8]) -> Result<Option<usize>, Rejected> {
    let mut at = 0;
    loop {
        let (line, size) = match httparse::parse_chunk_size(&buffer[at..]) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => break,
            Err(_) => return Err(BAD_REQUEST),
        };
        at += line;
        if size == 0 {
            return Ok(trailers_length(&buffer[at..]).map(|length| at + length));
        }
        let end = usize::try_from(size)
            .ok()
            .filter(|size| *size <= MAX_BODY)
            .map(|size| at + size);
        let end = end.ok_or(Rejected(413))?;
        match buffer.get(end..end + 2) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err(BAD_REQUEST),
            None => break,
        }
    }
    if buffer.len() > MAX_BODY {
        Err(Rejected(413))
    } else {
        Ok(None)
    }
}

/// Trailers end with an empty line, like a head. Usually there is only that line.
fn trailers_length(buffer: &[u8]) -> Option<usize> {
    let mut at = 0;
    for line in buffer
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"))
    {
        at += line.len();
        if line.trim_ascii().is_empty() {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_followed_to_their_end() {
        let body = b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nTrailer: x\r\n\r\n";
        for split in 0..body.len() {
            assert_eq!(chunked_length(&body[..split]), Ok(None), "{split}");
        }
        assert_eq!(chunked_length(body), Ok(Some(body.len())));
        assert_eq!(chunked_length(b"0\r\n\r\nGET"), Ok(Some(5)));
        assert_eq!(chunked_length(b"ffffffffffffffff\r\n"), Err(Rejected(413)));
        assert_eq!(chunked_length(b"1\r\nabc"), Err(BAD_REQUEST));
        assert_eq!(chunked_length(b"x\r\n"), Err(BAD_REQUEST));
    }
}
