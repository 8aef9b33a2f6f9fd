//! BPF programs in the kernel.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use crate::run_to_end;

/// Ids of the BPF programs whose names begin with `prefix`.
pub fn programs_in_the_kernel(prefix: &str) -> BTreeSet<u64> {
    let output = run_to_end(Command::new("bpftool").args(["--json", "prog", "list"]));
    assert_eq!(output.code, Some(0), "{output:#?}");
    let programs: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let programs = programs.as_array().expect("programs").iter();
    programs
        .filter(|it| it["name"].as_str().is_some_and(|name| name.starts_with(prefix)))
        .filter_map(|it| it["id"].as_u64())
        .collect()
}
