//! The answer automaton on any input of the fuzzer: it gives the same answers wherever the stream is cut, and whether
//! bytes that need no look are skipped or walked.
//!
//! `cargo +nightly fuzz run answers -- -dict=fuzz/answers.dict -max_len=2048 -max_total_time=180`
#![no_main]

use imds_analyzer_ebpf::answer::{Answers, Step};
use libfuzzer_sys::fuzz_target;

/// The statuses in a stream, and whether the automaton lost track.
fn walk(stream: &[u8], is_head: bool, skips: bool) -> (Vec<u16>, bool) {
    let mut answers = Answers::default();
    let (mut statuses, mut rest, mut lost) = (Vec::new(), stream, false);
    while let Some((byte, after)) = rest.split_first() {
        let skip = usize::try_from(answers.to_skip()).unwrap_or(usize::MAX).min(rest.len());
        if skips && skip > 0 {
            answers.skip(skip as u64);
            rest = &rest[skip..];
            continue;
        }
        match answers.push(*byte, is_head) {
            Step::More => {}
            Step::Answer => statuses.push(answers.status()),
            Step::Lost => {
                assert!(!lost, "said once");
                lost = true;
            }
        }
        rest = after;
    }
    assert_eq!(lost, answers.is_lost());
    (statuses, lost)
}

fuzz_target!(|input: &[u8]| {
    let Some((first, stream)) = input.split_first() else { return };
    let is_head = first & 1 != 0;
    let seen = walk(stream, is_head, true);
    assert_eq!(seen, walk(stream, is_head, false));
    assert!(seen.0.iter().all(|status| *status == 101 || (200..1000).contains(status)));

    // With parts missing nothing may panic, and what is lost stays lost.
    let mut answers = Answers::default();
    for piece in stream.chunks(1 + usize::from(*first)) {
        let was_lost = answers.is_lost();
        answers.push(piece[0], is_head);
        answers.gap(piece.len() as u64 - 1);
        assert!(!was_lost || answers.is_lost());
    }
});
