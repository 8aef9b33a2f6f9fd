//! Decodes bytes from the kernel into records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use imds_analyzer_ebpf::abi::{
    Header, Owner, RecordKind, Request,
    exchange::{Answer, Attempt},
    legacy::{ForkOrExec, Packet, Send},
    rehearsal::Refusal,
};
use zerocopy::FromBytes;

use crate::loss::Kind;

/// One record, with its variable part.
#[derive(Debug)]
pub enum Record<'a> {
    /// A process, reported before it can exit, with the names of its paths, and its argv.
    Owner(Box<Owner>, &'a [u8], &'a [u8]),
    /// A judged head, and the part of it that may be shown.
    Request(Request, &'a [u8]),
    /// An unfinished head.
    Pending(Request, &'a [u8]),
    /// Bytes of the stream were sent again with different content.
    Changed(Request),
    /// An answer, or the fact that there is none or that it cannot be seen.
    Answer(Answer),
    /// A connection that ended without a request.
    Attempt(Box<Attempt>),
    /// News of a rehearsal.
    Refusal(Refusal),
    /// A piece of a send, as it is in the sender's memory: not masked yet.
    Send(Box<Send>, &'a [u8]),
    /// A fork or an exec.
    ForkOrExec(ForkOrExec),
    /// A packet, from its IP header on: not masked yet.
    Packet(Packet, &'a [u8]),
}

/// Why bytes cannot be decoded. This is a defect, because the kernel side and this program are built from one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a record is too short")]
    Short,
    #[error("a record of an unknown kind")]
    Kind,
    #[error("a record's data is longer than the record")]
    Data,
}

impl From<DecodeError> for Kind {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Short => Self::DecodeShort,
            DecodeError::Kind => Self::DecodeKind,
            DecodeError::Data => Self::DecodeData,
        }
    }
}

/// An address in the form that records have it in: `family` is 4 or 6, and an IPv4 address has the first four bytes.
pub fn address(family: u8, bytes: [u8; 16], port: u16) -> SocketAddr {
    let [a, b, c, d, ..] = bytes;
    let ip = if family == 6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    SocketAddr::new(ip, port)
}

/// Decodes one record in the layout of [`imds_analyzer_ebpf::abi`].
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
    let kind = RecordKind::from_raw(header.kind).ok_or(DecodeError::Kind)?;
    let data_len = usize::from(header.data_len);
    match kind {
        RecordKind::Owner => {
            let (owner, rest) = Owner::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            let paths_room = usize::try_from(owner.paths_room).map_err(|_| DecodeError::Data)?;
            let (names, rest) = rest.split_at_checked(paths_room).ok_or(DecodeError::Data)?;
            let argv = rest.get(..data_len).ok_or(DecodeError::Data)?;
            Ok(Record::Owner(Box::new(owner), names, argv))
        }
        RecordKind::Request | RecordKind::Pending | RecordKind::Changed => {
            let (request, rest) = Request::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            let capture = rest.get(..data_len).ok_or(DecodeError::Data)?;
            Ok(match kind {
                RecordKind::Pending => Record::Pending(request, capture),
                RecordKind::Changed => Record::Changed(request),
                _ => Record::Request(request, capture),
            })
        }
        RecordKind::Answer => {
            let (answer, _) = Answer::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::Answer(answer))
        }
        RecordKind::Attempt => {
            let (attempt, _) = Attempt::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::Attempt(Box::new(attempt)))
        }
        RecordKind::Refusal => {
            let (refusal, _) = Refusal::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::Refusal(refusal))
        }
        RecordKind::ForkOrExec => {
            let (lineage, _) = ForkOrExec::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::ForkOrExec(lineage))
        }
        RecordKind::Packet => {
            let (packet, rest) = Packet::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::Packet(packet, rest.get(..data_len).ok_or(DecodeError::Data)?))
        }
        RecordKind::Send => {
            let (send, rest) = Send::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
            Ok(Record::Send(
                Box::new(send),
                rest.get(..data_len).ok_or(DecodeError::Data)?,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a failed assertion is the point of a test"
    )]

    use imds_analyzer_ebpf::abi::Task;
    use proptest::prelude::{any, proptest};
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn request(kind: u16, data_len: u16) -> Request {
        let mut request = Request::new_zeroed();
        request.header = Header {
            time: 7,
            kind,
            data_len,
            reserved: 0,
        };
        request.task = Task {
            tgid: 42,
            ..Task::default()
        };
        request
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut bytes = request(2, 5).as_bytes().to_vec();
        bytes.extend_from_slice(b"GET /and what was there before");
        let Record::Request(request, capture) = decode(&bytes).unwrap() else {
            panic!("not a request")
        };
        assert_eq!(
            (request.task.tgid, request.header.time, capture),
            (42, 7, &b"GET /"[..])
        );
    }

    #[test]
    fn an_owner_s_names_stand_before_its_argv() {
        let mut owner = Owner::new_zeroed();
        owner.header = Header {
            time: 7,
            kind: 1,
            data_len: 3,
            reserved: 0,
        };
        let mut bytes = owner.as_bytes().to_vec();
        bytes.extend_from_slice(b"ls\0and what was there before");
        let Record::Owner(_, b"", b"ls\0") = decode(&bytes).unwrap() else {
            panic!("an owner without paths")
        };
        owner.paths_room = 4;
        bytes = owner.as_bytes().to_vec();
        bytes.extend_from_slice(b"bin\0ls\0");
        let Record::Owner(_, b"bin\0", b"ls\0") = decode(&bytes).unwrap() else {
            panic!("an owner with paths")
        };
        owner.paths_room = u32::MAX;
        assert_eq!(decode(owner.as_bytes()).unwrap_err(), DecodeError::Data);
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_kind() {
        assert_eq!(decode(&[]).unwrap_err(), DecodeError::Short);
        assert_eq!(
            decode(request(2, 0).as_bytes().get(..40).unwrap()).unwrap_err(),
            DecodeError::Short
        );
        assert_eq!(decode(request(11, 0).as_bytes()).unwrap_err(), DecodeError::Kind);
        assert_eq!(decode(request(2, 1).as_bytes()).unwrap_err(), DecodeError::Data);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = decode(&bytes);
        }
    }
}
