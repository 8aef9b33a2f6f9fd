//! Lines with holes. A fleet has some hundred different lines for each host, and millions of records.

use super::clock;

/// Stand for a value in the text of a template; no JSON has these characters.
pub(super) const TIME: char = '\x01';
pub(super) const PID: char = '\x02';
pub(super) const PORT: char = '\x03';
pub(super) const DURATION: char = '\x04';

/// A line in pieces: each piece is text, and the hole after it.
#[derive(Debug)]
pub(super) struct Template(Vec<(Box<[u8]>, Hole)>);

#[derive(Clone, Copy, Debug)]
enum Hole {
    Time,
    Pid,
    Port,
    Duration,
    End,
}

/// What fills the holes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    pub(super) time: u64,
    pub(super) pid: u64,
    /// Of this the port and the duration are made.
    pub(super) noise: u64,
}

impl Template {
    pub(super) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        for piece in text.split_inclusive([TIME, PID, PORT, DURATION]) {
            let hole = match piece.chars().next_back() {
                Some(TIME) => Hole::Time,
                Some(PID) => Hole::Pid,
                Some(PORT) => Hole::Port,
                Some(DURATION) => Hole::Duration,
                _ => Hole::End,
            };
            let text = piece.trim_end_matches([TIME, PID, PORT, DURATION]);
            pieces.push((text.as_bytes().into(), hole));
        }
        Self(pieces)
    }

    /// Appends a line.
    pub(super) fn write(&self, to: &mut Vec<u8>, values: Values) {
        for (text, hole) in &self.0 {
            to.extend_from_slice(text);
            match hole {
                Hole::Time => clock::write(to, values.time),
                Hole::Pid => clock::number(to, values.pid, 1),
                Hole::Port => clock::number(to, 32_768 + values.noise % 28_000, 1),
                Hole::Duration => clock::number(to, 180_000 + values.noise / 28_000 % 2_000_000, 1),
                Hole::End => {}
            }
        }
        to.push(b'\n');
    }
}
