use std::{
    cell::Cell,
    io::{Error, ErrorKind},
    os::unix::fs::MetadataExt as _,
    process::{self, Command},
};

use imds_analyzer_ebpf::abi::Executable;

use super::{Directory, Proc, again, clock, exists, is_file, is_gone, pids};

#[test]
fn an_executable_is_its_file_and_not_its_name() {
    let known = |device, inode| Executable {
        device,
        inode,
        ..Executable::default()
    };
    for (kernel, inode, device, found, same) in [
        // 8:1 and 259:7; the minor number has 20 bits.
        (8 << 20 | 1, 42, (8, 1), 42, true),
        (8 << 20 | 1, 42, (8, 1), 43, false),
        (8 << 20 | 1, 42, (8, 2), 42, false),
        (259 << 20 | 7, 42, (259, 7), 42, true),
        (259 << 20 | 7, 42, (3, 7), 42, false),
        (8 << 20 | 0xf_ffff, 42, (8, 0xf_ffff), 42, true),
        (8 << 20 | 0xf_ffff, 42, (8, 0xf_fffe), 42, false),
        // overlayfs: one device number for the file system, others for its layers.
        (54, 42, (0, 55), 42, true),
        (54, 42, (0, 55), 43, false),
        (54, 42, (8, 54), 42, false),
        (8 << 20 | 1, 1 << 40, (8, 1), 0, false),
    ] {
        assert_eq!(
            is_file(&known(kernel, inode), device, found),
            same,
            "{kernel:x} {device:?}"
        );
    }
}

#[test]
fn a_process_executes_its_own_file_and_no_other() {
    let this = Proc::open(process::id()).expect("this process");
    let file = std::fs::metadata("/proc/self/exe").expect("its executable");
    let device = libc::major(file.dev()) << 20 | libc::minor(file.dev());
    let mut known = Executable {
        device,
        inode: file.ino(),
        ..Executable::default()
    };
    assert!(this.executes(&known));
    known.inode += 1;
    assert!(!this.executes(&known));
    assert!(this.executes(&Executable::default()), "nothing is known");
}

#[test]
fn a_link_of_a_process_that_exits_is_gone_and_not_refused() {
    let asked = Cell::new(0);
    let answers = |answers: [ErrorKind; 2]| {
        asked.set(0);
        again(|| {
            let kind = answers[asked.replace(asked.get() + 1)];
            Err::<(), _>(Error::from(kind))
        })
        .expect_err("no answer")
    };
    assert!(is_gone(&answers([ErrorKind::PermissionDenied, ErrorKind::NotFound])));
    // A real permission error stays one, after a single retry.
    assert!(!is_gone(&answers([ErrorKind::PermissionDenied; 2])));
    assert!(is_gone(&answers([ErrorKind::NotFound, ErrorKind::Other])));
    assert_eq!(asked.get(), 1);
}

#[test]
fn a_process_is_found_by_its_pid_and_start() {
    let own = Proc::open(process::id()).expect("this process");
    let start = clock::from_ticks(own.stat.start);
    let found = Proc::find(own.pid(), start + 1).expect("this process");
    assert_eq!(found.stat.start, own.stat.start);
    for other in [0, start - 1, start + clock::tick()] {
        let error = Proc::find(own.pid(), other).expect_err("another process");
        assert!(is_gone(&error), "{error}");
    }
}

#[test]
fn an_open_directory_outlives_its_process_and_says_so() {
    let mut child = Command::new("sleep").arg("100").spawn().expect("a program");
    let held = Proc::open(child.id()).expect("our own child");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let error = held.directory().cmdline().expect_err("it has exited");
    assert!(is_gone(&error), "{error}");
    assert_eq!(held.directory().exe().expect("gone is no failure"), None);
}

#[test]
fn this_process_as_proc_has_it() {
    let own = Proc::open(process::id()).expect("this process");
    let directory = Directory::own().expect("this process");
    assert_eq!(directory.stat().expect("its numbers").start, own.stat.start);
    assert_eq!(own.stat.parent, std::os::unix::process::parent_id());
    let status = directory.status().expect("its ids");
    assert_eq!(
        (status.tgid, status.uids[1]),
        (process::id(), directory.owner().expect("its user"))
    );
    assert_eq!(directory.read("cmdline", 3).expect("its arguments").len(), 3);
    let threads: Vec<_> = directory.numbers("task").expect("its threads").flatten().collect();
    let thread = Directory::own_thread()
        .expect("this thread")
        .stat()
        .expect("its numbers");
    assert!(threads.contains(&thread.pid));
    assert_ne!(thread.pid, process::id());
    assert!(pids().expect("/proc").flatten().any(|pid| pid == process::id()));
    assert!(exists(process::id()) && !exists(u32::MAX));
}
