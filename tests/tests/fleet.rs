//! A generated fleet: the report on its logs is the truth, to the unit.
//!
//! guests: none

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use imds_analyzer_tests::{fits_schema, imds_analyzer};
use serde_json::{Value, json};
use xtask::fleet::{Plan, Written, generate};

const PLAN: Plan = Plan {
    hosts: 40,
    days: 8,
    per_day: 24,
    seed: 7,
    gzip: true,
};

/// The fleet in a directory, the report on it, and the truth about it.
fn fleet(plan: Plan, directory: &Path) -> (Value, Value) {
    let written = generate(plan, directory).expect("a fleet");
    let output = imds_analyzer(&["report", text(&written.logs), "--format", "json"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let report = serde_json::from_str(&output.stdout).expect("JSON");
    (report, truth(&written))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn truth(written: &Written) -> Value {
    serde_json::from_slice(&fs::read(&written.truth).expect("the truth")).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// The name of the user or, without one, the id: as the report shows it.
fn user(caller: &Value) -> Value {
    match (&caller["user"], &caller["user_id"]) {
        (Value::Null, Value::Null) => Value::Null,
        (Value::Null, id) => json!(id.to_string()),
        (name, _) => name.clone(),
    }
}

fn is_blocking(caller: &Value) -> bool {
    let is_some = |count: &Value| count.as_u64().expect("a count") > 0;
    let calls = &caller["calls"];
    caller["local"] == false
        && (is_some(&calls["v1"]) || is_some(&calls["unknown"]) || is_some(&caller["tokens_unanswered"]))
}

fn add(sum: &mut Value, more: &Value) {
    for (name, count) in more.as_object().expect("counts") {
        let before = sum[name].as_u64().unwrap_or(0);
        sum[name] = json!(before + count.as_u64().expect("a count"));
    }
}

#[test]
fn the_report_is_the_truth() {
    let directory = tempfile::tempdir().expect("a directory");
    let (report, truth) = fleet(PLAN, directory.path());
    assert_eq!(report["input"]["records"], truth["records"]);
    assert_eq!(report["input"]["problems"], json!([]));

    let reported: BTreeMap<&str, &Value> = list(&report["hosts"])
        .iter()
        .map(|host| (host["name"].as_str().expect("a name"), host))
        .collect();
    assert_eq!(reported.len(), PLAN.hosts);
    let mut kinds = BTreeSet::new();
    for host in list(&truth["hosts"]) {
        let name = host["host"].as_str().expect("a name");
        let found = reported[name];
        kinds.insert((host["kind"].to_string(), host["verdict"].to_string()));
        let reasons: Vec<&Value> = list(&found["reasons"]).iter().map(|it| &it["reason"]).collect();
        assert_eq!(json!(reasons), host["reasons"], "{name}, {}", host["kind"]);
        for field in [
            "instance",
            "verdict",
            "since",
            "until",
            "calls",
            "v1_answers",
            "local_calls",
        ] {
            assert_eq!(found[field], host[field], "{field} of {name}, {}", host["kind"]);
        }
        let key = |caller: &Value, user: Value| json!([caller["caller"], user]).to_string();
        let expected: BTreeMap<_, _> = list(&host["callers"])
            .iter()
            .filter(|caller| is_blocking(caller))
            .map(|caller| {
                (
                    key(caller, user(caller)),
                    json!([caller["calls"], caller["v1_answers"]]),
                )
            })
            .collect();
        let found: BTreeMap<_, _> = list(&found["callers"])
            .iter()
            .map(|caller| {
                (
                    key(caller, caller["user"].clone()),
                    json!([caller["calls"], caller["v1_answers"]]),
                )
            })
            .collect();
        assert_eq!(found, expected, "{name}, {}", host["kind"]);
    }
    // Each kind of host is there, and each has its verdict.
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}

#[test]
fn callers_of_the_fleet_are_the_sums_of_those_of_hosts() {
    let directory = tempfile::tempdir().expect("a directory");
    let (report, truth) = fleet(PLAN, directory.path());
    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    for host in list(&truth["hosts"]) {
        for caller in list(&host["callers"]) {
            let key = json!([caller["local"], caller["caller"], user(caller)]).to_string();
            let sum = expected.entry(key).or_insert_with(|| json!({"hosts": 0}));
            sum["hosts"] = json!(sum["hosts"].as_u64().expect("a count") + 1);
            add(&mut sum["calls"], &caller["calls"]);
            add(&mut sum["v1_answers"], &caller["v1_answers"]);
            for (field, is_first) in [("first_v1", true), ("last_v1", false)] {
                let (known, other) = (sum[field].as_str(), caller[field].as_str());
                // Times of one length and zone are in the order of their texts.
                let times = known.into_iter().chain(other);
                let time = if is_first { times.min() } else { times.max() };
                sum[field] = json!(time);
            }
        }
    }
    let found: BTreeMap<String, Value> = list(&report["callers"])
        .iter()
        .map(|caller| {
            let key = json!([caller["local"], caller["caller"], caller["user"]]).to_string();
            let facts = json!({
                "hosts": caller["hosts"],
                "calls": caller["calls"],
                "v1_answers": caller["v1_answers"],
                "first_v1": caller["first_v1"],
                "last_v1": caller["last_v1"],
            });
            (key, facts)
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn records_are_as_the_analyzer_writes_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = Plan {
        hosts: 12,
        days: 1,
        gzip: false,
        ..PLAN
    };
    let written = generate(plan, directory.path()).expect("a fleet");
    let mut kinds = BTreeSet::new();
    for host in fs::read_dir(&written.logs).expect("hosts").flatten() {
        for file in fs::read_dir(host.path()).expect("files").flatten() {
            for line in fs::read_to_string(file.path()).expect("text").lines() {
                let record = serde_json::from_str::<Value>(line).expect("JSON");
                // Records of one kind and caller differ in times and numbers only.
                let kind = json!([
                    record["event"]["action"],
                    record["imds"]["caller"],
                    record["imds"]["verdict"],
                    record["imds"]["path_class"],
                    record["cloud"].is_null(),
                ]);
                if kinds.insert(kind.to_string()) {
                    fits_schema(&record);
                }
            }
        }
    }
    assert!(kinds.len() > 50, "{kinds:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let plan = Plan {
        hosts: 3,
        days: 5,
        ..PLAN
    };
    let all = |plan| {
        let directory = tempfile::tempdir().expect("a directory");
        let written = generate(plan, directory.path()).expect("a fleet");
        let mut files = BTreeMap::new();
        for host in fs::read_dir(&written.logs).expect("hosts").flatten() {
            for file in fs::read_dir(host.path()).expect("files").flatten() {
                let name = (host.file_name(), file.file_name());
                files.insert(name, fs::read(file.path()).expect("bytes"));
            }
        }
        (files, truth(&written))
    };
    assert_eq!(all(plan), all(plan));
    assert_ne!(all(plan), all(Plan { seed: 8, ..plan }));
}
