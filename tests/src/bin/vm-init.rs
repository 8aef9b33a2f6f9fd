//! `/init` of a guest of `cargo xtask vm`: mounts the usual file systems, runs the commands in `/etc/vm/run`, reports
//! on the serial console how each ended, and switches the machine off.
//!
//! ```text
//! /etc/vm/run:   name <tab> seconds <tab> command for sh
//! console:       @vm begin name
//!                whatever the command prints
//!                @vm end name code seconds
//!                @vm done
//! ```

#![expect(clippy::print_stdout, reason = "its messages go to the console")]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::symlink, process::CommandExt as _},
    },
    process::Command,
    ptr,
    thread::sleep,
    time::{Duration, Instant},
};

/// Type and place. A file system that the kernel lacks is left out: the command that needs it will report that.
const MOUNTS: [(&str, &str); 11] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
];
/// Lists kernel modules, each after those it needs.
const MODULES: &str = "/etc/vm/modules";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const RUN: &str = "/etc/vm/run";
/// The exit code for a command that was killed because it ran too long, as of timeout(1).
const LATE: i32 = 124;

fn main() {
    for (kind, place) in MOUNTS {
        if let Err(error) = mount(kind, place) {
            println!("{kind} on {place}: {error}");
        }
    }
    // udev makes these links on other systems; shells use the first.
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
    ] {
        if let Err(error) = symlink(target, format!("/dev/{name}")) {
            println!("/dev/{name}: {error}");
        }
    }
    if let Err(error) = seed() {
        println!("/dev/random: {error}");
    }
    // SAFETY: the length is the string's.
    unsafe { libc::sethostname(c"guest".as_ptr(), 5) };
    for module in fs::read_to_string(MODULES).unwrap_or_default().lines() {
        if let Err(error) = load_module(module) {
            println!("{module}: {error}");
        }
    }
    match Command::new("/bin/sh")
        .args(["-c", "exec ip link set lo up"])
        .env("PATH", PATH)
        .status()
    {
        Ok(status) if status.success() => {}
        other => println!("lo is down: {other:?}"),
    }
    match fs::read_to_string(RUN) {
        Ok(list) => list.lines().for_each(run_line),
        Err(error) => println!("{RUN}: {error}"),
    }
    println!("@vm done");
    // SAFETY: no preconditions.
    unsafe { libc::sync() };
    // SAFETY: no preconditions.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    // This machine cannot be switched off: restart it, which ends the emulator.
    // SAFETY: no preconditions.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}

fn run_line(line: &str) {
    let mut fields = line.splitn(3, '\t');
    let (Some(name), Some(limit), Some(command)) = (fields.next(), fields.next(), fields.next()) else {
        println!("not understood: {line}");
        return;
    };
    let limit = Duration::from_secs(limit.parse().unwrap_or(60));
    println!("@vm begin {name}");
    let started = Instant::now();
    let code = run(command, limit).unwrap_or_else(|error| {
        println!("{command}: {error}");
        -1
    });
    println!("@vm end {name} {code} {:.2}", started.elapsed().as_secs_f64());
}

/// Runs `command` to its end, and reaps all orphans, as pid 1 must.
fn run(command: &str, limit: Duration) -> io::Result<i32> {
    let child = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir("/tmp")
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("IMDS_ANALYZER", "/usr/bin/imds-analyzer"),
            ("RUST_BACKTRACE", "1"),
            ("GUEST", "1"),
        ])
        .process_group(0)
        .spawn()?;
    let pid = child.id() as i32;
    let deadline = Instant::now() + limit;
    let mut late = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            return Ok(match status {
                _ if late => LATE,
                _ if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
                _ => 128 + libc::WTERMSIG(status),
            });
        }
        if ended > 0 {
            continue;
        }
        if ended < 0 {
            return Err(io::Error::last_os_error());
        }
        if !late && Instant::now() > deadline {
            late = true;
            // SAFETY: our own child's process group.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
        sleep(Duration::from_millis(5));
    }
}

fn mount(kind: &str, place: &str) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: terminated strings that outlive the call, and no data.
    let result = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    checked(result.into())
}

/// Before 5.6 getrandom(2) waits for minutes in a guest with so few devices, so this fills the pool. Nothing secret is
/// made here.
fn seed() -> io::Result<()> {
    /// `_IOW('R', 0x03, int [2])`: `struct rand_pool_info` of include/uapi/linux/random.h.
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const WORDS: usize = 16;
    #[repr(C)]
    struct Pool {
        bits: i32,
        bytes: i32,
        words: [u32; WORDS],
    }
    let random = fs::File::options().write(true).open("/dev/random")?;
    let pool = Pool {
        bits: (WORDS * 32) as i32,
        bytes: (WORDS * 4) as i32,
        words: [0x5eed; WORDS],
    };
    for _ in 0..WORDS {
        // SAFETY: the kernel reads the header and as many bytes of `words` as `bytes` says.
        if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn load_module(path: &str) -> io::Result<()> {
    let file = fs::File::open(path)?;
    // SAFETY: an open file, a terminated string, no flags.
    checked(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) })
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
