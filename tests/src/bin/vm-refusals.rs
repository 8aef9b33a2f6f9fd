//! Hosts that refuse. Only for guests of `cargo xtask vm`, because this changes the whole machine: it attaches a
//! foreign program that allows no others at the root of cgroup2, and locks the kernel down to confidentiality (unless
//! it gets `--skip lockdown`, for kernels that cannot be locked down).

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{env, fs, io, os::fd::AsRawFd as _, path::Path};

use imds_analyzer_tests::{Output, imds_analyzer};

fn main() {
    // Before 5.11 programs count against this limit.
    let all = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a limit of the right type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) }, 0);
    foreign_program();
    if !env::args().any(|argument| argument == "lockdown") {
        lockdown();
    }
}

/// A program that is attached without a flag, as some tools did before links (5.7).
fn foreign_program() {
    let root = fs::File::open("/sys/fs/cgroup").expect("cgroup2");
    let before = imds_analyzer(&["check"]);
    let program = ForeignProgram::load();
    program.attach(&root);
    let beside = imds_analyzer(&["check"]);
    if before.stdout.contains("cgroup_skb egress") {
        expect(&beside, "does not allow others");
    } else {
        // The foreign program does not concern the send tap.
        assert_eq!(beside.code, Some(0), "{beside:#?}");
    }
    // The foreign program is still attached.
    program.detach(&root);
    let output = imds_analyzer(&["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
}

/// A lockdown cannot be undone.
fn lockdown() {
    let file = Path::new("/sys/kernel/security/lockdown");
    if let Err(error) = fs::write(file, "confidentiality") {
        panic!("{}: {error}", file.display());
    }
    for args in [&["check"][..], &["watch", "--duration", "1s"]] {
        let refused = imds_analyzer(args);
        assert_eq!(refused.code, Some(4), "{refused:#?}");
        expect(&refused, "lockdown=integrity");
    }
}

/// Fails unless the output names the `reason`, whatever the exit code.
fn expect(output: &Output, reason: &str) {
    let said = output.stdout.contains(reason) || output.stderr.contains(reason);
    assert!(said, "{reason}: {output:#?}");
}

/// A `cgroup_skb` program that lets everything pass.
struct ForeignProgram(i32);

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_ATTACH: i64 = 8;
const BPF_PROG_DETACH: i64 = 9;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;

impl ForeignProgram {
    fn load() -> Self {
        // r0 = 1; exit
        let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
        let mut attr = [0; 16];
        attr[0] = u64::from(BPF_PROG_TYPE_CGROUP_SKB) | (code.len() as u64) << 32;
        attr[1] = code.as_ptr() as u64;
        attr[2] = c"GPL".as_ptr() as u64;
        Self(bpf(BPF_PROG_LOAD, &attr))
    }

    fn attach(&self, root: &fs::File) {
        bpf(BPF_PROG_ATTACH, &self.at(root));
    }

    fn detach(&self, root: &fs::File) {
        bpf(BPF_PROG_DETACH, &self.at(root));
    }

    /// Target, program, type, and no flags.
    fn at(&self, root: &fs::File) -> [u64; 16] {
        let mut attr = [0; 16];
        attr[0] = root.as_raw_fd() as u64 | (self.0 as u64) << 32;
        attr[1] = u64::from(BPF_CGROUP_INET_EGRESS);
        attr
    }
}

fn bpf(command: i64, attr: &[u64; 16]) -> i32 {
    // SAFETY: an attribute of that size, all of whose pointers outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    assert!(result >= 0, "bpf {command}: {}", io::Error::last_os_error());
    result as i32
}
