//! The classifier against the naive reference of the property tests, on any input of the fuzzer.
//!
//! `cargo +nightly fuzz run classifier -- -dict=fuzz/classifier.dict -max_len=2048 -max_total_time=180`
#![no_main]

#[path = "../../imds-analyzer-ebpf/tests/reference/mod.rs"]
mod reference;

use imds_analyzer_ebpf::classify::{Classifier, Reason, Step};
use libfuzzer_sys::fuzz_target;
use reference::{classify, feed, judge, see};

fuzz_target!(|input: &[u8]| {
    // The first bytes say where the stream is cut; the rest is the stream.
    let Some((&[first, second, third], stream)) = input.split_first_chunk() else {
        return;
    };
    let seen = classify([stream]);
    if let Err(wrong) = judge(stream).check(&seen, stream) {
        panic!("{wrong}");
    }
    assert_eq!(seen, classify([stream]));
    assert_eq!(seen, classify(stream.chunks(1 + usize::from(first))));

    // If parts are missing, there is no reference, but nothing may panic, and the shown text stays in bounds.
    let mut classifier = Classifier::new();
    if first & 1 != 0 {
        classifier.join_midstream(Reason::Midstream);
    }
    let mut seen = Vec::new();
    for pair in stream.chunks(1 + usize::from(second)) {
        let (pushed, missing) = pair.split_at(pair.len().min(usize::from(third)));
        feed(&mut classifier, pushed, first & 2 != 0, &mut seen);
        if classifier.gap(missing.len() as u32) == Step::Head {
            seen.push(see(&classifier));
        }
    }
    if classifier.close() == Step::Head {
        seen.push(see(&classifier));
    }
    assert_eq!(classifier.close(), Step::More);
});
