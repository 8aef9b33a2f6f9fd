//! The journal's native protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. A record is one datagram of fields;
//! larger records are passed as a sealed file. There is no connection, so a restarted journal needs no reconnect.

use std::{
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr},
};

mod field;

pub use self::field::Field;
use super::{
    Style, plain,
    queue::{Line, LineWriter},
    text,
};
use crate::{
    event::{Event, Process},
    notice::Notice,
    record::{Action, Level},
};

/// Maximum time for the journal to accept a record.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends entries to the journal.
pub(super) struct JournaldWriter {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl JournaldWriter {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                none.insert(socket)
            }
        };
        match socket.send_to(entry, &self.path) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let file = sealed(entry)?;
                let fds = [file.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let address = SocketAddrUnix::new(&self.path)?;
                sendmsg_addr(
                    &*socket,
                    &address,
                    &[IoSlice::new(&[])],
                    &mut control,
                    SendFlags::empty(),
                )?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Creates a sealed file in memory.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("imds-analyzer", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(entry)?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

impl LineWriter for JournaldWriter {
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        for (count, line) in lines.iter().enumerate() {
            if let Err(error) = self.send(&line.bytes) {
                self.socket = None;
                return (count, Err(error));
            }
        }
        (lines.len(), Ok(()))
    }
}

/// The entry of a request. `record` is its line in the log.
pub(super) fn event_entry(event: &Event, record: &[u8]) -> Vec<u8> {
    let style = Style {
        color: false,
        width: None,
        verbose: false,
    };
    let mut entry = Entry::new(
        Action::Request,
        Level::of_request(event),
        &text::line(event, style).to_string(),
    );
    entry.field(Field::Version, event.verdict.version().as_str());
    entry.field(Field::Verdict, event.verdict.as_str());
    entry.optional(Field::Reason, event.reason.map(|reason| reason.as_str()));
    entry.field(Field::Endpoint, event.endpoint().as_str());
    entry.field(Field::Local, if event.local { "1" } else { "0" });
    entry.field(Field::Answer, event.answer.word().as_str());
    entry.optional(
        Field::Status,
        event.answer.status().map(|status| status.to_string()).as_deref(),
    );
    let judgement = &event.judgement;
    entry.optional(Field::Cause, judgement.cause.map(|cause| cause.as_str()));
    if let Some(client) = &judgement.client {
        entry.field(Field::Client, client.name);
        entry.optional(Field::ClientVersion, client.version.as_deref());
    }
    entry.optional(
        Field::Remedy,
        judgement.remedy.as_ref().map(|remedy| remedy.id.as_ref()),
    );
    if event.relay {
        entry.field(Field::Relay, "1");
    }
    entry.optional(Field::Method, event.http.method.as_deref());
    entry.optional(Field::UserAgent, event.http.user_agent.as_deref());
    entry.call(event);
    if let Some(process) = &event.process {
        entry.field(Field::Comm, &process.name);
        if !process.args.is_empty() {
            entry.field(Field::Cmdline, &process.args.join(" "));
        }
    }
    entry.with(record)
}

/// The entry of a notice. `record` is its line in the log.
pub(super) fn notice_entry(notice: &Notice<'_>, record: &[u8]) -> Vec<u8> {
    let text = plain::describe(notice);
    let mut entry = Entry::new(Action::of_notice(notice), Level::of_notice(notice), &text);
    match notice {
        Notice::FirstSeen { event, .. } => entry.call(event),
        Notice::Attempt(attempt) => {
            entry.field(Field::Attempt, attempt.outcome.as_str());
            entry.field(Field::Endpoint, attempt.endpoint().as_str());
            entry.field(Field::Local, if attempt.local { "1" } else { "0" });
            entry.caller(attempt.caller(), attempt.process.as_deref());
        }
        Notice::RateLimited(folded) => {
            let counts = folded.counts;
            entry.optional(Field::Caller, folded.caller.as_deref());
            entry.optional(Field::Uid, folded.user.id.map(|id| id.to_string()).as_deref());
            entry.optional(Field::Unit, folded.unit.as_deref());
            entry.optional(Field::Container, folded.container.as_deref());
            for (field, count) in [
                (Field::CallsV1, counts.v1),
                (Field::CallsV2, counts.v2),
                (Field::CallsOther, counts.other),
                (Field::CallsUnknown, counts.unknown),
            ] {
                entry.field(field, &count.to_string());
            }
        }
        _ => {}
    }
    entry.with(record)
}

/// An entry in the journal's format.
struct Entry(Vec<u8>);

impl Entry {
    fn new(action: Action, level: Level, message: &str) -> Self {
        let mut entry = Self(Vec::with_capacity(1024));
        entry.pair("MESSAGE", message);
        entry.pair("PRIORITY", &level.syslog().to_string());
        entry.pair("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry.field(Field::Action, action.as_str());
        entry
    }

    fn call(&mut self, event: &Event) {
        self.field(Field::PathClass, event.path_class.as_str());
        self.optional(Field::Path, event.http.path.as_deref());
        self.caller(event.caller(), event.process.as_deref());
    }

    fn caller(&mut self, caller: &str, process: Option<&Process>) {
        self.field(Field::Caller, caller);
        let Some(process) = process else { return };
        self.field(Field::Pid, &process.pid.to_string());
        self.optional(Field::Uid, process.user.id.map(|id| id.to_string()).as_deref());
        self.optional(Field::User, process.user.name.as_deref());
        self.optional(Field::Exe, process.executable.as_deref());
        self.optional(Field::Unit, process.unit.as_deref());
        self.optional(Field::UserUnit, process.user_unit.as_deref());
        self.optional(Field::Container, process.container.as_ref().map(|it| it.id.as_str()));
        self.optional(
            Field::Orchestrator,
            process.orchestrator.as_ref().map(|it| it.id.as_str()),
        );
    }

    /// Adds the record, whose line has the only line end in it.
    fn with(mut self, record: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(Field::Record.as_str().as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(record);
        self.0
    }

    fn optional(&mut self, field: Field, value: Option<&str>) {
        if let Some(value) = value {
            self.field(field, value);
        }
    }

    fn field(&mut self, field: Field, value: &str) {
        self.pair(field.as_str(), value);
    }

    /// Adds `NAME=value`. A value that contains a line end is written with its length, so that it cannot forge a field.
    fn pair(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        sink::tests::{full_event, notices, unknown_event},
        vocabulary::Vocabulary as _,
    };

    const RECORD: &[u8] = b"{\"@timestamp\":\"\"}\n";

    /// Parses an entry like journald does.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        while !entry.is_empty() {
            let at = entry.iter().position(|byte| b"=\n".contains(byte)).expect("a name");
            let (name, rest) = entry.split_at(at);
            let length = if rest[0] == b'=' {
                rest.iter().position(|byte| *byte == b'\n').expect("an end") - 1
            } else {
                u64::from_le_bytes(rest[1..9].try_into().expect("eight bytes")) as usize
            };
            let value = &rest[if rest[0] == b'=' { 1 } else { 9 }..][..length];
            fields.push((text(name), text(value)));
            let end = if rest[0] == b'=' { 1 } else { 9 } + length;
            assert_eq!(rest[end], b'\n');
            entry = &rest[end + 1..];
        }
        fields
    }

    fn value(fields: &[(String, String)], name: &str) -> Option<String> {
        Some(fields.iter().find(|field| field.0 == name)?.1.clone())
    }

    #[test]
    fn fields_of_a_request() {
        let fields = fields(&event_entry(&full_event(), RECORD));
        for (name, expected) in [
            ("IMDS_VERSION", "v1"),
            ("IMDS_PATH_CLASS", "credential"),
            ("PRIORITY", "4"),
            ("IMDS_UNIT", "user@1001.service"),
            ("IMDS_USER_UNIT", "app.service"),
            ("IMDS_CALLER", "/opt/app/run.py (docker.io/library/app:1.2)"),
            ("IMDS_RECORD", r#"{"@timestamp":""}"#),
        ] {
            assert_eq!(value(&fields, name).as_deref(), Some(expected), "{name}");
        }
        let names_are_valid = fields.iter().all(|(name, _)| {
            name.bytes()
                .all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(&byte))
        });
        assert!(names_are_valid && fields.iter().all(|(_, value)| !value.is_empty()));
        assert_eq!(
            value(&self::fields(&event_entry(&unknown_event(), RECORD)), "PRIORITY").as_deref(),
            Some("3")
        );
    }

    #[test]
    fn text_of_others_forges_no_field() {
        let mut event = full_event();
        event.http.user_agent = Some("a\nIMDS_VERSION=v2\nPRIORITY=7".to_owned());
        let fields = fields(&event_entry(&event, RECORD));
        assert_eq!(fields.iter().filter(|(name, _)| name == "IMDS_VERSION").count(), 1);
        assert_eq!(value(&fields, "IMDS_USER_AGENT"), event.http.user_agent);
    }

    #[test]
    fn every_field_is_in_the_list_for_documents() {
        let mut entries = vec![
            event_entry(&full_event(), RECORD),
            event_entry(&unknown_event(), RECORD),
        ];
        notices(|_, notice| entries.push(notice_entry(notice, RECORD)));
        let written = entries.iter().flat_map(|entry| fields(entry)).map(|(name, _)| name);
        for name in written.filter(|name| name.starts_with("IMDS_")) {
            assert!(Field::ALL.iter().any(|field| field.as_str() == name), "{name}");
        }
    }

    #[test]
    fn notices_are_entries() {
        notices(|_, notice| {
            let fields = fields(&notice_entry(notice, RECORD));
            assert!(value(&fields, "IMDS_ACTION").is_some_and(|action| action.starts_with("imds-")));
            assert!(value(&fields, "MESSAGE").is_some_and(|text| !text.contains('\n')));
        });
    }

    #[test]
    fn a_journal_that_goes_and_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let mut writer = JournaldWriter::new(path.clone());
        let lines = ["A=1\n", "A=2\n"].map(|text| Line {
            bytes: text.as_bytes().to_vec(),
            requests: 1,
        });
        let (count, result) = writer.write(&lines);
        assert!(count == 0 && result.is_err());
        for _ in 0..2 {
            let journal = UnixDatagram::bind(&path).expect("a socket");
            let (count, result) = writer.write(&lines);
            result.expect("taken");
            assert_eq!(count, 2);
            let mut entry = [0; 16];
            for line in &lines {
                let length = journal.recv(&mut entry).expect("an entry");
                assert_eq!(&entry[..length], line.bytes);
            }
            drop(journal);
            assert!(writer.write(&lines).1.is_err());
            fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn a_large_entry_is_a_sealed_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let line = Line {
            bytes: [b"MESSAGE=".as_slice(), &[b'x'; 4 << 20], b"\n"].concat(),
            requests: 1,
        };
        let (count, result) = JournaldWriter::new(path).write(std::slice::from_ref(&line));
        result.expect("taken");
        assert_eq!(count, 1);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&journal, &mut [], &mut control, RecvFlags::empty()).expect("a message");
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
            unreachable!("no file came with it");
        };
        let file = fs::File::from(files.next().expect("a file"));
        let mut entry = vec![0; line.bytes.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut entry, 0).expect("read");
        assert!(entry == line.bytes);
        assert!(file.set_len(0).is_err(), "it is sealed");
    }
}
