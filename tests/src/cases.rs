//! Tables of connections and what is made of them.

use crate::{Scene, briefs, exchange, of_port, port};

/// What one connection carries, and the records in short ([`brief`](crate::brief)) that have to come of it.
pub struct Case {
    pub name: &'static str,
    /// Written one by one, each in a packet of its own. Then the connection ends.
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

/// Sends all cases and compares; all that fail are shown.
pub fn check(cases: &[Case]) {
    let mut scene = Scene::shared();
    let ports: Vec<_> = cases
        .iter()
        .map(|case| {
            let stream = scene.connect();
            let port = port(&stream);
            exchange(stream, case.pieces.iter().map(Vec::as_slice));
            port
        })
        .collect();
    let count = cases.iter().map(|case| case.expect.len()).sum();
    // What is missing shows below, with its name.
    scene.analyzer.wait_or_go_on(|records| records.len() >= count);
    let records = scene.analyzer.records();
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
