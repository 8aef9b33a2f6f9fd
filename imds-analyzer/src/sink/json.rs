//! JSON Lines: one object per line.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde::Serialize as _;
use serde_json::{Serializer, ser::Formatter};

use super::{Output, Sink};
use crate::{event::Event, identity::Identity, notice::Notice, record::Record, sanitize::Marks};

/// Writes every record as one line of JSON.
pub struct JsonSink<W: Write> {
    output: Output<W>,
    host: Identity,
    /// Buffer for a line, reused.
    line: Vec<u8>,
}

impl<W: Write> JsonSink<W> {
    pub fn new(output: Output<W>, host: Identity) -> Self {
        Self {
            output,
            host,
            line: Vec::new(),
        }
    }
}

impl<W: Write> Sink for JsonSink<W> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.line.clear();
        append(&Record::of_request(event, &self.host), &mut self.line)?;
        self.output.write_line(&self.line)
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        self.line.clear();
        append(&Record::of_notice(time, notice, &self.host), &mut self.line)?;
        self.output.write_line(&self.line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Appends `record` as one line.
fn append(record: &Record<'_>, line: &mut Vec<u8>) -> io::Result<()> {
    record.serialize(&mut Serializer::with_formatter(&mut *line, Escaping::default()))?;
    line.push(b'\n');
    Ok(())
}

/// Compact JSON that is safe on a terminal: characters that [`sanitize::escape`](crate::sanitize::escape) escapes become
/// `\uXXXX`, which is the same JSON.
#[derive(Clone, Copy, Debug, Default)]
struct Escaping(Marks);

impl Formatter for Escaping {
    fn begin_string<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0 = Marks::default();
        writer.write_all(b"\"")
    }

    /// `fragment` has no quotes, backslashes or control characters below 0x20.
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // No byte is 0x7f or above (UTF-8 has no 0xff). No early exit, so that this compiles to vector instructions.
        if fragment.bytes().fold(0, |seen, byte| seen | byte.wrapping_add(1)) < 0x80 {
            self.0.printable(fragment);
            return writer.write_all(fragment.as_bytes());
        }
        for (plain, escaped) in self.0.parts(fragment) {
            writer.write_all(plain.as_bytes())?;
            for unit in escaped.iter().flat_map(|character| {
                let mut units = [0; 2];
                let count = character.encode_utf16(&mut units).len();
                units.into_iter().take(count)
            }) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// The line of `record`, with its end.
pub(crate) fn line(record: &Record<'_>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    append(record, &mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::sink::tests::{full_event, full_host, golden, minimal_event, notices, unknown_event};
    use crate::{event::Process, sanitize};

    fn line(event: &Event, host: &str) -> Vec<u8> {
        super::line(&Record::of_request(event, &Identity::named(host))).expect("no I/O")
    }

    /// One field per line, sorted, for readable diffs.
    fn pretty(line: &[u8]) -> String {
        let text = std::str::from_utf8(line).expect("UTF-8");
        assert_eq!(text.find('\n'), Some(text.len() - 1), "not one line: {text}");
        assert!(!text.contains("null"), "{text}");
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        format!("{value:#}\n")
    }

    #[test]
    fn requests() {
        let full = super::line(&Record::of_request(&full_event(), &full_host())).expect("no I/O");
        golden("full.json", &pretty(&full));
        golden("minimal.json", &pretty(&line(&minimal_event(), "ip-10-0-0-1")));
        golden("unknown.json", &pretty(&line(&unknown_event(), "ip-10-0-0-1")));
    }

    #[test]
    fn other_records() {
        let mut text = String::new();
        notices(|time, notice| {
            text.push_str(&pretty(
                &super::line(&Record::of_notice(time, notice, &Identity::named("ip-10-0-0-1"))).expect("no I/O"),
            ))
        });
        golden("notices.json", &text);
    }

    #[test]
    fn text_of_others_cannot_end_a_line() {
        let mut event = full_event();
        event.http.user_agent = Some("a\"}\n{\"event\":1}\u{1b}[0m\u{2028}".to_owned());
        pretty(&line(&event, "host"));
    }

    #[test]
    fn text_of_others_does_nothing_to_a_terminal() {
        let odd = "a\u{1b}[2J\u{7f}\u{85}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{ad}\u{feff}\u{34f}\u{fe0f}\u{17b4}\u{e0100}\u{1d173}\u{e0041}\
                   \u{ffff}b\u{301}\u{301}\u{301}\u{301}\u{301}\u{2028}\"\\/é日🦀";
        let combining = "\u{301}x";
        let mut event = full_event();
        event.http.user_agent = Some(odd.to_owned());
        let mut process = Process::clone(event.process.as_deref().expect("it has one"));
        process.args = vec![odd.to_owned(), combining.to_owned()];
        process.name = odd.to_owned();
        process.user_unit = Some(odd.to_owned());
        process.caller = odd.to_owned();
        event.process = Some(Arc::new(process));
        let line = line(&event, odd);
        let text = std::str::from_utf8(&line).expect("UTF-8").trim_end();
        assert_eq!(sanitize::escape(&text.replace('\\', "/")), text.replace('\\', "/"));
        assert!(text.contains("é日🦀") && text.contains("\\u009b31m\\u202e") && text.contains("\\udb40\\udd00"));
        assert!(text.contains("\"\\u0301x"));
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        for at in [
            "/user_agent/original",
            "/process/name",
            "/process/args/0",
            "/systemd/user_unit",
            "/imds/caller",
            "/host/name",
        ] {
            assert_eq!(value.pointer(at).and_then(|value| value.as_str()), Some(odd), "{at}");
        }
    }

    /// The arguments are written one after another, and the command line is read as one text.
    #[test]
    fn a_command_line_is_written_like_the_same_text() {
        let mut event = minimal_event();
        let process = Process {
            args: ["a", "\u{301}", "b\"\u{301}", ""].map(str::to_owned).into(),
            ..Process::default()
        };
        event.process = Some(Arc::new(process));
        let line = line(&event, "host");
        let read = crate::record::read(&line).expect("a record");
        assert_eq!(super::line(&read).expect("no I/O"), line);
    }

    #[test]
    fn a_wrong_clock_is_written() {
        let mut event = minimal_event();
        event.time = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(pretty(&line(&event, "host")).contains("1970-01-01T00:00:00.000000Z"));
        event.time = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(pretty(&line(&event, "host")).contains("1970-01-01T00:00:00.000000Z"));
    }

    /// `cargo test --release -- --ignored --nocapture throughput`
    #[test]
    #[ignore = "a measurement"]
    fn throughput() {
        let event = full_event();
        let mut sink = JsonSink::new(Output::new(io::sink(), false), Identity::named("ip-10-0-0-1"));
        let begin = Instant::now();
        let count = 500_000;
        for _ in 0..count {
            sink.write(&event).expect("a sink takes all");
        }
        let rate = f64::from(count) / begin.elapsed().as_secs_f64();
        writeln!(io::stderr(), "{rate:.0} records a second").expect("stderr");
    }
}
