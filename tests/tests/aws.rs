//! The report against what CloudWatch counts, and its script against EC2: moto stands in for both, on 127.0.0.1.
//!
//! guests: none

use std::{fs, process::Command};

use imds_analyzer_tests::{Venv, binary, needs};
use serde_json::Value;
use xtask::fleet::{Plan, generate};

/// The commands are those of docs/runbook.md.
#[test]
#[ignore = "takes half a minute: the AWS CLI needs a second for each command"]
fn from_report_to_required_tokens() {
    let venv = Venv::new("aws", &["moto[server,ec2,cloudwatch]==5.2.5", "awscli==1.46.3"]);
    needs!(venv.lack());
    let directory = tempfile::tempdir().expect("a directory");
    let plan = Plan {
        hosts: 12,
        days: 8,
        per_day: 20,
        seed: 1,
        gzip: false,
    };
    let written = generate(plan, directory.path()).expect("a fleet");
    let truth: Value = serde_json::from_slice(&fs::read(written.truth).expect("the truth")).expect("JSON");
    let hosts = truth["hosts"].as_array().expect("a list");
    let ready = hosts.iter().find(|host| host["kind"] == "ready").expect("a ready host");
    let name = ready["host"].as_str().expect("a name");
    let mut files: Vec<_> = fs::read_dir(written.logs.join(name))
        .expect("the host")
        .map(|file| file.expect("a file").path())
        .collect();
    // `events.jsonl` is the newest one, and is the first of these.
    files.sort();
    files.rotate_left(1);
    let log = directory.path().join("log.jsonl");
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    fs::write(&log, text).expect("a file");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/aws/check.py");
    let mut command = Command::new(&venv.python);
    let output = command.arg(script).arg(binary()).arg(log).output().expect("Python");
    assert!(output.status.success(), "{output:#?}");
}
