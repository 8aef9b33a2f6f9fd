//! Views of records that tests compare.

use serde_json::Value;

use crate::tap;

/// A record in short: verdict (with its reason), method, target and path class, `-` for each that is absent.
/// `v1 GET /latest/user-data user-data`, `unknown/closed - - not-imds`.
pub fn brief(record: &Value) -> String {
    let imds = &record["imds"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut verdict = text(&imds["verdict"]);
    if let Some(reason) = imds["reason"].as_str() {
        verdict = format!("{verdict}/{reason}");
    }
    format!(
        "{verdict} {} {} {}",
        text(&record["http"]["request"]["method"]),
        text(&record["url"]["original"]),
        text(&imds["path_class"])
    )
}

/// [`brief`] of each record.
pub fn briefs(records: &[Value]) -> Vec<String> {
    records.iter().map(brief).collect()
}

pub fn verdicts(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record["imds"]["verdict"].as_str().expect("a verdict"))
        .collect()
}

/// The records of the connection from `port`, in the order of its requests. Fails unless the tap in use saw all of
/// them.
pub fn of_port(records: &[Value], port: u16) -> Vec<Value> {
    let mut records: Vec<_> = records
        .iter()
        .filter(|record| record["source"]["port"] == port)
        .cloned()
        .collect();
    records.sort_by_key(|record| record["@timestamp"].as_str().expect("a time").to_owned());
    for record in &records {
        assert_eq!(record["imds"]["tap"], tap(), "{record:#}");
    }
    records
}
