//! The hook that tells who sent a request: kernels differ, and `cargo xtask vm` runs the tests with each hook in turn.

use std::{env, process::Command, sync::OnceLock, time::Duration};

use serde_json::Value;

use crate::binary;

/// The hook in use where a test asks for none: `OWNER`, with which guests start the analyzer, or the best hook here.
pub fn owner() -> String {
    env::var("OWNER").unwrap_or_else(|_| best_owner())
}

/// True if the hook in use runs in the sender's context.
pub fn sees_senders() -> bool {
    owner() != "connect"
}

/// True in a guest of `cargo xtask vm`, whose init sets this variable.
pub fn is_guest() -> bool {
    env::var_os("GUEST").is_some()
}

/// The number of requests or processes in a test. Guests use the smaller number, because their emulated CPU takes several
/// times as long. With `FULL_LOAD` they use the whole number, too.
pub fn at_load(number: usize, in_a_guest: usize) -> usize {
    let whole = !is_guest() || env::var_os("FULL_LOAD").is_some();
    if whole { number } else { in_a_guest }
}

/// How much longer than on the host a single step may take. In a guest the CPU is emulated, and other programs share the
/// one below.
pub fn slowness() -> u32 {
    if is_guest() { 4 } else { 1 }
}

/// How long anything may take before a test fails.
pub fn patience() -> Duration {
    Duration::from_secs(30) * slowness()
}

/// The tap in use where a test asks for no object: guests start the analyzer with `OBJECT`.
pub fn tap() -> &'static str {
    match env::var("OBJECT").as_deref() {
        Ok("legacy") => "send",
        _ => "wire",
    }
}

/// True if the object for old kernels is in use: it knows only senders, and only those of their paths that /proc shows.
pub fn is_legacy() -> bool {
    env::var("OBJECT").is_ok_and(|object| object.starts_with("legacy"))
}

/// The owner of a connection that is older than the analyzer.
pub fn owner_of_older() -> String {
    match owner().as_str() {
        "connect" => "sock_diag".to_owned(),
        sender => sender.to_owned(),
    }
}

/// A hook in the sender's context: the one in use, or the best here.
pub fn sender_hook() -> String {
    match owner().as_str() {
        "connect" => best_owner(),
        sender => sender.to_owned(),
    }
}

/// The best hook according to `check`.
fn best_owner() -> String {
    static BEST: OnceLock<String> = OnceLock::new();
    BEST.get_or_init(find_best_owner).clone()
}

fn find_best_owner() -> String {
    let output = Command::new(binary())
        .args(["check", "--format", "json"])
        .output()
        .expect("check");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let programs = report["programs"].as_array().expect("programs");
    let attached = |hook: &str| {
        programs
            .iter()
            .any(|program| program["name"] == format!("imds_{hook}") && program["attached"] == true)
    };
    let best = ["fentry", "tp_btf", "kprobe"].into_iter().find(|hook| attached(hook));
    best.unwrap_or("connect").to_owned()
}
