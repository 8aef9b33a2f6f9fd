//! The analyzer tests itself before it says ready: an obstacle is an error, and never a silent tap.
//!
//! guests: oldest

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use imds_analyzer_tests::{binary, imds_analyzer, run_to_end};

/// A cgroup from which nothing is sent: a program at it drops every packet of its processes.
struct Silenced {
    path: PathBuf,
    _program: OwnedFd,
}

impl Silenced {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let root = mounts
            .lines()
            .find_map(|mount| {
                let mut fields = mount.split(' ');
                let path = fields.nth(1)?;
                (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
            })
            .expect("cgroup2");
        let path = root.join(format!("imds-e2e-silenced-{}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let program = dropping().expect("a program that drops");
        attach(&program, &path).expect("attached to a cgroup of the test");
        Self {
            path,
            _program: program,
        }
    }

    /// `imds-analyzer` with these arguments, in this cgroup.
    fn command(&self, args: &[&str]) -> Command {
        let procs = self.path.join("cgroup.procs");
        let mut command = Command::new(binary());
        command.args(args);
        let join = move || fs::OpenOptions::new().write(true).open(&procs)?.write_all(b"0");
        // SAFETY: the child opens and writes a file; the parent has no other thread that could hold the allocator's
        // lock.
        unsafe { command.pre_exec(join) };
        command
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// `BPF_PROG_LOAD` of `return 0`, as `BPF_PROG_TYPE_CGROUP_SKB` (uapi/linux/bpf.h).
fn dropping() -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log: [u64; 2],
        kern_version: u32,
        prog_flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
    // r0 = 0; exit.
    let instructions: [u64; 2] = [0xb7, 0x95];
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_SKB,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just made it, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `BPF_PROG_ATTACH` to the packets that leave `cgroup`.
fn attach(program: &OwnedFd, cgroup: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_INET_EGRESS: u32 = 1;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let cgroup = fs::File::open(cgroup)?;
    let attach = Attach {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_INET_EGRESS,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, and what these point to, which the caller holds.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    RawFd::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

#[test]
fn a_request_of_its_own_that_is_dropped() {
    let silenced = Silenced::new();
    for args in [
        &["watch", "--object", "modern", "--duration", "100ms"][..],
        &["check", "--object", "modern"],
    ] {
        let output = run_to_end(&mut silenced.command(args));
        assert_eq!(output.code, Some(4), "{output:#?}");
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("did not see its own request within 2 s"), "{said}");
        assert!(!said.contains("ready"), "{said}");
    }
    // The send tap, if there is one, is tested on a connection of its own, which also fails in a bounded time.
    let output = run_to_end(&mut silenced.command(&["watch", "--duration", "100ms"]));
    assert_eq!(output.code, Some(4), "{output:#?}");
    let outside = imds_analyzer(&["check"]);
    assert!(outside.stdout.contains("self-test passed"), "{outside:#?}");
}
