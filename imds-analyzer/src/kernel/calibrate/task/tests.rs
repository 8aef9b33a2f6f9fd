#![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

use super::{super::Dump, *};

const LEADER: u64 = 0xffff_8880_0010_0000;
const PARENT: u64 = 0xffff_8880_0020_0000;
const CRED: u64 = 0xffff_8880_0030_0000;
const MM: u64 = 0xffff_8880_0040_0000;

fn facts() -> TaskFacts {
    TaskFacts {
        tid: 4242,
        tgid: 4200,
        parent: 41,
        comm: *b"imds-12345678\0\0\0",
        start: 12_345,
        tick: 10_000_000,
        arguments: (0x7ffc_0000_1000, 0x7ffc_0000_1020),
        ids: [0; 8],
    }
}

/// A task as kernels lay it out, with or without a stack canary, and with or without a field behind the credentials.
fn task(canary: bool, requested_key: bool) -> Vec<u8> {
    let mut task = vec![0; 12 * 1024];
    let mut put = |at: u32, bytes: &[u8]| task[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    let pointers = |at: u32, values: &[u64]| -> Vec<(u32, [u8; 8])> {
        (0..)
            .zip(values)
            .map(|(index, value)| (at + index * 8, value.to_ne_bytes()))
            .collect()
    };
    put(2236, &4242_u32.to_ne_bytes());
    put(2240, &4200_u32.to_ne_bytes());
    let parent = if canary { 2256 } else { 2248 };
    let cred = if requested_key { 2720 } else { 2728 } - 8;
    for (at, value) in [
        pointers(1000, &[MM, MM]),
        pointers(parent, &[PARENT, PARENT]),
        pointers(parent + 48, &[LEADER]),
        pointers(2400, &[123_455_000_000, 123_456_000_000]),
        pointers(cred, &[CRED, CRED]),
    ]
    .concat()
    {
        put(at, &value);
    }
    // The remains of a longer, earlier name.
    put(2736, b"imds-12345678\0o\0");
    task
}

#[test]
fn fields_are_found_by_their_values() {
    for (canary, requested_key) in [(false, false), (true, false), (false, true), (true, true)] {
        let dump = task(canary, requested_key);
        let found = Task::find(Dump(&dump), &facts()).unwrap();
        assert_eq!((found.pid, found.comm, found.start), (2236, 2736, 2408));
        assert_eq!((found.leader, found.parent, found.cred), (LEADER, PARENT, CRED));
        assert!(found.doubles.contains(&(1000, MM)));
        let mut settings = Offsets::default();
        found.write_into(&mut settings, Some(4), Some((1000, 304)));
        assert_eq!(
            (settings.task_tgid, settings.cred_gid, settings.mm_arg_end),
            (2240, 8, 312)
        );
    }
}

#[test]
fn what_is_doubtful_is_not_found() {
    let whole = task(false, false);
    let missing = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut dump = whole.clone();
        change(&mut dump);
        Task::find(Dump(&dump), &facts()).unwrap_err().to_string()
    };
    assert_eq!(missing(&|dump| dump.fill(0)), "cannot find the thread id");
    let twice: &dyn Fn(&mut Vec<u8>) = &|dump| dump.copy_within(2236..2244, 4000);
    assert_eq!(missing(twice), "cannot find the thread id");
    assert_eq!(missing(&|dump| dump[2736] = b'x'), "cannot find the thread name");
    assert_eq!(missing(&|dump| dump[2256] ^= 1), "cannot find the parent");
    // Another field with the same time.
    let time: &dyn Fn(&mut Vec<u8>) = &|dump| dump.copy_within(2408..2416, 2504);
    assert_eq!(missing(time), "cannot find the start time");
}

/// Another thread of this process may be next to it.
#[test]
fn what_is_behind_the_task_changes_nothing() {
    let mut dump = task(true, true);
    dump.copy_within(2320..2752, 7000);
    dump.copy_within(1000..1016, 6000);
    let found = Task::find(Dump(&dump), &facts()).unwrap();
    assert_eq!((found.pid, found.comm, found.start), (2236, 2736, 2408));
}

#[test]
fn leader_and_parent_are_held_against_what_they_are() {
    let dump = task(false, false);
    let found = Task::find(Dump(&dump), &facts()).unwrap();
    let numbers = |pid: u32, tgid: u32| [pid.to_ne_bytes(), tgid.to_ne_bytes()].concat();
    let (leader, parent) = (numbers(4200, 4200), numbers(41, 41));
    assert!(found.check(&facts(), Dump(&leader), Dump(&parent)).is_ok());
    assert!(found.check(&facts(), Dump(&parent), Dump(&parent)).is_err());
    assert!(found.check(&facts(), Dump(&leader), Dump(&leader)).is_err());
}

#[test]
fn places_in_what_is_pointed_to() {
    let mut cred = [0; 64];
    cred[0] = 3;
    assert_eq!(find_ids(Dump(&cred), &facts()), Some(4));
    cred[8] = 1;
    assert_eq!(find_ids(Dump(&cred), &facts()), None);
    let mut mm = [0; 1024];
    mm[304..312].copy_from_slice(&facts().arguments.0.to_ne_bytes());
    mm[312..320].copy_from_slice(&facts().arguments.1.to_ne_bytes());
    assert_eq!(find_arguments(Dump(&mm), &facts()), Some(304));
    assert_eq!(find_arguments(Dump(&cred), &facts()), None);
}

#[test]
fn facts_of_this_thread() {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let facts = TaskFacts::of_this_thread(&name).unwrap();
    assert_eq!(facts.tgid, std::process::id());
    assert_ne!(facts.start, 0);
    assert!(facts.arguments.0 < facts.arguments.1);
}
