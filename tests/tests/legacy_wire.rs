//! The wire tap of the object for old kernels: packets are passed on, and judged outside of the kernel. It is there if it
//! is asked for; where the kernel does not let it, that is what is said.

use std::{
    io::{Seek as _, Write as _},
    os::fd::AsRawFd as _,
    process::{self, Command},
    ptr,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, Scene, binary, briefs, get, get_with_token, imds_analyzer, of_port, port, programs_in_the_kernel,
    put_token, read_response, until,
};

const PATH: &str = "/latest/user-data";
/// The program at the root of cgroup2.
const PROGRAM: &str = "imds_packet";
const ARGS: [&str; 2] = ["--object", "legacy-wire"];

/// Whether this kernel can do it: it has kprobes, and lets a program on packets write to a perf buffer (5.4).
fn can_run() -> bool {
    let check = imds_analyzer(&[&["check"][..], &ARGS].concat());
    if check.code == Some(0) {
        assert!(check.stdout.contains(PROGRAM), "{check:#?}");
        return true;
    }
    assert_eq!(check.code, Some(4), "{check:#?}");
    let why = ["In the way: kprobe events", "does not let packets be passed on"];
    assert!(why.iter().any(|why| check.stdout.contains(why)), "{check:#?}");
    let send_tap = imds_analyzer(&["check", "--object", "legacy"]);
    assert!(send_tap.code == Some(0) || check.stdout.contains(why[0]), "{check:#?}");
    gone();
    false
}

/// That none is left; the kernel frees them when it has time.
fn gone() {
    until("our programs to go", || programs_in_the_kernel(PROGRAM).is_empty());
}

fn watch() -> Command {
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]).args(ARGS);
    command
}

fn start() -> Analyzer {
    Analyzer::start(watch())
}

/// What is in no memory of the sender is in the packet.
#[test]
fn a_file_that_is_sent_is_judged() {
    if !can_run() {
        return;
    }
    let scene = Scene::with(start(), Lab::local().expect("lab"));
    let mut stream = scene.connect();
    let token = put_token(&mut stream);
    let mut file = tempfile::tempfile().expect("a file");
    let head = get_with_token(PATH, &token);
    file.write_all(head.as_bytes()).expect("write");
    file.rewind().expect("seek");
    // SAFETY: both descriptors are open; there is no offset to write to.
    let sent = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), ptr::null_mut(), head.len()) };
    assert_eq!(sent, head.len() as isize);
    assert_eq!(read_response(&mut stream), 200);
    let (records, ended) = scene.expect(port(&stream), 2);
    assert_eq!(briefs(&records)[1], "v2 GET /latest/user-data user-data");
    for record in &records {
        assert_eq!(record["imds"]["tap"], "wire", "{record:#}");
        assert_eq!(record["imds"]["owner"], "kprobe", "{record:#}");
        assert_eq!(record["process"]["pid"], process::id(), "{record:#}");
    }
    assert_eq!(ended.lost(), [""; 0]);
    assert!(!ended.everything().contains(&token));
    gone();
}

/// Each is there beside the other, and goes without it.
#[test]
fn nobody_s_program_is_replaced() {
    if !can_run() {
        return;
    }
    let scene = Scene::with(start(), Lab::local().expect("lab"));
    let mut other = Analyzer::start_another(watch());
    assert_eq!(programs_in_the_kernel(PROGRAM).len(), 2);
    let mut stream = scene.connect();
    let port = port(&stream);
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    other.wait_for(|records| of_port(records, port).len() == 1);
    assert_eq!(of_port(&other.stop().requests(), port).len(), 1);
    until("one of them to go", || programs_in_the_kernel(PROGRAM).len() == 1);
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let (records, _) = scene.expect(port, 2);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"; 2]);
}

/// Before 5.7 the program of one that is killed stays, until the next one comes.
#[test]
fn a_killed_predecessor_leaves_nothing_behind_for_long() {
    if !can_run() {
        return;
    }
    let first = start();
    let ended = first.stop_by(libc::SIGKILL);
    assert_eq!(ended.code, None);
    let left = programs_in_the_kernel(PROGRAM);
    eprintln!("{} programs left", left.len());
    let scene = Scene::with(start(), Lab::local().expect("lab"));
    until("the old one to go", || {
        let now = programs_in_the_kernel(PROGRAM);
        now.len() == 1 && now.is_disjoint(&left)
    });
    let mut stream = scene.connect();
    stream.write_all(get(PATH).as_bytes()).expect("write");
    assert_eq!(read_response(&mut stream), 200);
    let (records, _) = scene.expect(port(&stream), 1);
    assert_eq!(briefs(&records), ["v1 GET /latest/user-data user-data"]);
    gone();
}
