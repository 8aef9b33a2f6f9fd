//! The masking of secrets, on any input of the fuzzer: nothing panics, and neither a header's value nor a token is
//! shown, wherever in the arguments it is.
//!
//! `cargo +nightly fuzz run secrets -- -dict=fuzz/secrets.dict -max_len=512 -max_total_time=180`
#![no_main]

use imds_analyzer::{
    sanitize,
    secrets::{ArgsMode, mask_args, mask_path, mask_text, mask_truncated, mask_truncated_args},
};
use libfuzzer_sys::fuzz_target;

/// A made-up token of the shape that real ones have.
const TOKEN: &str = "AQAEAq7Xz9Kb2mVtR4sLw8YnHc6DfGj1PkQe3UoZxWiSaN5vBrMyTg==";
/// A header with its value, as all programs write it.
const HEADERS: [&str; 4] = [
    "X-aws-ec2-metadata-token: ",
    "x-aws-ec2-metadata-token:",
    "Authorization: Bearer ",
    "Proxy-Authorization: Splunk ",
];
const VALUE: &str = "q7Xz9Kb2mVtR4sLw8Y";

fuzz_target!(|input: &[u8]| {
    let Some((&[first, second], text)) = input.split_first_chunk() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let args: Vec<String> = text.split('\0').map(str::to_owned).collect();
    for mode in [ArgsMode::Full, ArgsMode::Redacted, ArgsMode::Executable] {
        let masked = mask_args(args.clone(), mode);
        let count = if mode == ArgsMode::Executable { 1 } else { args.len() };
        assert_eq!(masked.len(), count);
        let _ = mask_truncated_args(args.clone(), mode);
    }
    for text in [mask_text(&text), mask_path(&text), mask_truncated(&text)] {
        let escaped = sanitize::escape(&text);
        assert!(!escaped.chars().any(char::is_control));
    }

    // The fuzzer may have learned the secrets from comparisons: such input does not count.
    let secrets = [&TOKEN[8..40], VALUE];
    if secrets.iter().any(|secret| secret.as_bytes().windows(6).any(|part| input.windows(6).any(|found| found == part))) {
        return;
    }
    // A token inside other text, and a header with its value as an argument.
    let place = usize::from(first) % args.len();
    let mut with_token = args.clone();
    let arg = &mut with_token[place];
    let mut at = usize::from(second) % (arg.len() + 1);
    while !arg.is_char_boundary(at) {
        at -= 1;
    }
    arg.insert_str(at, TOKEN);
    assert_hidden(&with_token, &TOKEN[8..40]);
    let mut with_header = args;
    with_header.insert(place, format!("{}{VALUE}", HEADERS[usize::from(second) % HEADERS.len()]));
    assert_hidden(&with_header, VALUE);
});

fn assert_hidden(args: &[String], secret: &str) {
    for mode in [ArgsMode::Full, ArgsMode::Redacted] {
        let masked = mask_args(args.to_vec(), mode).join("\n");
        assert!(!masked.contains(secret), "{args:?} became {masked:?}");
    }
}
