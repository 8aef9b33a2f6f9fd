//! The reader of records, on any input, alone and in place of a part of a real line: nothing panics, and a record that was
//! read is written as a line that is read as the same record.
//!
//! `cargo +nightly fuzz run records -- -dict=fuzz/records.dict -max_len=512 -max_total_time=180`
#![no_main]

use imds_analyzer::{
    logfile::Lines,
    record::{LINE_MAX, read},
};
use libfuzzer_sys::fuzz_target;

const LINES: &[u8] = include_bytes!("../../imds-analyzer/src/record/fixtures/2026-11-29.jsonl");

fuzz_target!(|input: &[u8]| {
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next_line().expect("memory can be read") {
        assert!(line.len() <= LINE_MAX + 1);
        check(line);
    }

    let Some((&[line, at, more, length], part)) = input.split_first_chunk() else {
        return;
    };
    let lines: Vec<&[u8]> = LINES.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let line = lines[usize::from(line) % lines.len()];
    let begin = usize::from(u16::from_le_bytes([at, more])) % line.len();
    let end = line.len().min(begin + usize::from(length));
    check(&[&line[..begin], part, &line[end..]].concat());
});

fn check(line: &[u8]) {
    if let Ok(record) = read(line) {
        let written = serde_json::to_vec(&record).expect("a record can be written");
        assert_eq!(read(&written).expect("a record"), record);
    }
}
