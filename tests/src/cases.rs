//! Tables of connections and the records that they must produce.

use crate::{Stage, briefs, exchange, of_port, port};

/// The bytes of one connection, and the records they must produce, in short ([`brief`](crate::brief)).
pub struct Case {
    pub name: &'static str,
    /// Sent one by one, each in its own packet. Then the connection ends.
    pub pieces: Vec<Vec<u8>>,
    pub expect: Vec<String>,
}

/// A case of one piece.
pub fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: &[&str]) -> Case {
    Case {
        name,
        pieces: vec![bytes.into()],
        expect: expect.iter().map(|&text| text.to_owned()).collect(),
    }
}

/// Sends all cases, and fails with every case whose records differ.
pub fn check(cases: &[Case]) {
    let mut stage = Stage::local().by_process().shared();
    let ports: Vec<_> = cases
        .iter()
        .map(|case| {
            let stream = stage.connect();
            let port = port(&stream);
            exchange(stream, case.pieces.iter().map(Vec::as_slice));
            port
        })
        .collect();
    let count = cases.iter().map(|case| case.expect.len()).sum();
    // The comparison below names each case that lacks a record.
    stage.analyzer.wait_or_go_on(|records| records.len() >= count);
    let records = stage.analyzer.records();
    let mut failures = String::new();
    for (case, port) in cases.iter().zip(ports) {
        let seen = briefs(&of_port(&records, port));
        if seen != case.expect {
            failures += &format!("\n{}:\n  expected {:#?}\n  seen {seen:#?}", case.name, case.expect);
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(records.len(), count, "of other connections: {records:#?}");
}
