//! The queries of packaging/sql on the logs of a generated fleet: they say what the report says.
//!
//! guests: none

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use imds_analyzer_tests::{Venv, imds_analyzer, needs};
use xtask::fleet::{Plan, generate};

/// Writes a fleet and the report on it below `directory`; returns the path of the report and that of the logs.
fn fleet(directory: &Path) -> (PathBuf, PathBuf) {
    let plan = Plan {
        hosts: 40,
        days: 8,
        per_day: 20,
        seed: 11,
        gzip: true,
    };
    let written = generate(plan, directory).expect("a fleet");
    let logs = written.logs.to_str().expect("UTF-8");
    let output = imds_analyzer(&["report", logs, "--format", "json"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let report = directory.join("report.json");
    fs::write(&report, output.stdout).expect("a file");
    (report, written.logs)
}

fn check(venv: &Venv, engines: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let (report, logs) = fleet(directory.path());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/check.py");
    let mut command = Command::new(&venv.python);
    // Some engines leave files where they are started.
    let command = command.arg(script).args([&report, &logs]).current_dir(&directory);
    let output = command.args(engines).output().expect("Python");
    assert!(output.status.success(), "{output:#?}");
}

#[test]
fn duckdb() {
    let venv = Venv::new("sql", &["duckdb==2.0.1", "sqlglot==30.30.0"]);
    needs!(venv.lack());
    check(&venv, &["duckdb", "parse"]);
}

#[test]
#[ignore = "installs several hundred megabytes"]
fn clickhouse() {
    let venv = Venv::new("clickhouse", &["chdb==4.4.0"]);
    needs!(venv.lack());
    check(&venv, &["clickhouse"]);
}

/// Needs Java 17 or later, too.
#[test]
#[ignore = "installs several hundred megabytes"]
fn spark() {
    let venv = Venv::new("spark", &["pyspark==4.3.0"]);
    let mut lack = venv.lack();
    if let Err(error) = Command::new("java").arg("-version").output() {
        lack = imds_analyzer_tests::lack("java", false, error.to_string());
    }
    needs!(lack);
    check(&venv, &["spark"]);
}
