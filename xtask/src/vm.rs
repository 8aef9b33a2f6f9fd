//! `cargo xtask vm`: other kernels, in QEMU. Each boots into an initramfs with the analyzer, real clients and the same
//! end-to-end tests as on the host, which run once per owner hook that the kernel has.
//!
//! ```text
//! kernels    the table: packages, hooks        packages   fetched by apt, unpacked below target/vm
//! initramfs  what is in a guest (cpio)         qemu       one run, its console read
//! ```

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::vm::{
    arch::Arch,
    build::Built,
    kernels::{Kernel, Tap},
    packages::{Packages, Unpacked},
    result::GuestResult,
};

pub(crate) mod arch;
mod build;
pub(crate) mod cpio;
pub(crate) mod cross;
pub(crate) mod initramfs;
pub(crate) mod kernels;
pub(crate) mod packages;
pub(crate) mod qemu;
pub(crate) mod result;

/// Names of the commands that every guest runs beside tests.
const LAB: &str = "lab";
/// Before the name of an owner hook that is to be had.
const CHECK: &str = "check/";
/// Before the name of an owner hook that is to be refused.
const ABSENT: &str = "absent/";

/// What concerns the whole machine; last, because some of it cannot be taken back.
const REFUSALS: &str = "refusals";

/// Before the name of a test whose feature the kernel lacks.
const LACKED: &str = "lacked/";

/// How long one command may take in a guest.
const SHORT: Duration = Duration::from_secs(60);
const TESTS: Duration = Duration::from_secs(900);

/// Guests at a time: tests wait for each other and for the network more than they compute.
const AT_A_TIME: usize = 2;

/// The program that shows what an owner hook is for: it runs once for each in each guest.
const OWNERS: &str = "owners";
/// The others in which a hook has a part: they run with the first hook of each kernel, and with each other hook on the
/// oldest of [`ENDS`] that has it.
const OF_HOOKS: [&str; 3] = ["records", "syscalls", "verdicts"];
/// Those in which the kernel has one: they run once in [`ENDS`]. All others run in [`QUICKEST`], but for [`OF_WORDS`].
const OF_KERNELS: [&str; 10] = [
    "attribution",
    "commands",
    "framing",
    "hosts",
    "lab",
    "resources",
    "routed",
    "streams",
    TRUST,
    "views",
];
/// Those about what is typed and shown: the host has them, and guests only if everything is run.
const OF_WORDS: [&str; 4] = ["command", "filters", "secrets", "terminal"];
/// What every kernel shows: that nobody hides from it.
const TRUST: &str = "trust";
/// The oldest and the newest kernel with the wire tap: what one between them does, one of these does.
const ENDS: [&str; 2] = ["5.10", "7"];
/// The guest whose kernel verifies the programs in the shortest time: that is what most of a test's time goes into.
const QUICKEST: &str = "6.12";
/// Those that run with the send tap, too, and without BTF.
const OF_SEND_TAP: [&str; 5] = ["framing", OWNERS, "send_tap", "syscalls", "verdicts"];
/// Those that run with nothing but the legacy object.
const ONLY_OF_LEGACY: [&str; 2] = ["send_tap", kernels::LEGACY_WIRE];
/// What in them, and in the others if all are run, is not for it: pages that are in no sender's memory, and packets.
/// `send_tap` has what is said of those.
const NOT_OF_SEND_TAP: [&str; 3] = ["sendfile", "splice", "a_rewritten_destination_is_recorded"];
/// Those that run with the legacy object's wire tap, where there is one: `kernels::PACKETS`.
const OF_LEGACY_WIRE: [&str; 8] = [
    "framing",
    kernels::LEGACY_WIRE,
    OWNERS,
    "records",
    "secrets",
    "streams",
    "syscalls",
    "verdicts",
];
/// What in any program is not for the legacy object.
const NOT_OF_LEGACY: [&str; 11] = [
    // What passes none of its hooks.
    "multipath_tcp",
    // Who connected, and which packets there were, is not asked.
    "by_their_connects",
    "with_the_connecting_process_as_owner",
    "the_owner_that_was_asked_for",
    "without_sender_hooks",
    "what_is_left_out_of_a_packet",
    // BTF that is there and wrong.
    "renamed_field",
    // kprobe events take root; to hide BTF does, too.
    "check_as_nobody_explains",
    "nobody_may_not_watch",
    "without_the_capabilities_root_is_not_enough",
    "with_the_capabilities_that_it_names",
];
/// Those for which an initramfs is too little of a system: a container runtime cannot leave it, and neither journald nor
/// Prometheus is in it, nor are the sources.
const OF_SYSTEMS: [&str; 4] = ["containers", "metrics", "prototypes", "sinks"];
/// The program of the load tests.
const LOAD: &str = "load";
/// The feature of `check` that is hidden.
const BTF: &str = "BTF";
/// The program that starts as many processes in a guest as on the host, with each hook once, if all is run.
const WHOLE_LOAD: &str = "attribution";

/// How much of the matrix is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Kernels of this machine's architecture that have the wire tap; tests as often as they can have another outcome.
    Usual,
    /// All kernels, and all tests in each of them, with the send tap too.
    Full,
}

/// `cargo xtask vm`: the named guests, or those of `depth`. `command`, if there is one, is run instead of the checks.
pub(crate) fn run(names: &[String], depth: Depth, update: bool, command: &[String]) -> Result<ExitCode> {
    let chosen = choose(names, depth)?;
    if command.is_empty() {
        let (total, ok) = result::table(&matrix(&chosen, depth, update)?);
        println!("\n{} passed, {} failed", total.passed, total.failed);
        return Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let commands = [("command".to_owned(), TESTS, command.join(" "))];
    for kernel in chosen {
        let mut guests = Guests::prepare(kernel.arch, update)?;
        let guest = guests.guest(kernel)?;
        println!("\n== kernel {} ({})", kernel.name, guest.unpacked.release);
        guest.run(&commands)?.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// The guests of `cargo xtask test`.
pub(crate) fn check(depth: Depth) -> Result<Vec<GuestResult>> {
    matrix(&choose(&[], depth)?, depth, false)
}

fn choose(names: &[String], depth: Depth) -> Result<Vec<&'static Kernel>> {
    for name in names {
        kernels::named(name)?;
    }
    Ok(kernels::ALL
        .iter()
        .filter(|kernel| match names {
            // The send tap is tried on those of the wire tap, too.
            [] => depth == Depth::Full || kernel.arch.is_ours() && kernel.tap == Tap::Wire,
            _ => names.iter().any(|name| kernel.name == name),
        })
        .collect())
}

/// Runs the checks in every guest; what came of each.
fn matrix(chosen: &[&'static Kernel], depth: Depth, update: bool) -> Result<Vec<GuestResult>> {
    let mut queue = Vec::new();
    for arch in [Arch::X86_64, Arch::Arm64] {
        let mut of_arch = chosen.iter().filter(|kernel| kernel.arch == arch).peekable();
        if of_arch.peek().is_none() {
            continue;
        }
        let mut guests = Guests::prepare(arch, update)?;
        for kernel in of_arch {
            let commands = commands(kernel, &guests.built, depth)?;
            queue.push((*kernel, commands, guests.guest(kernel)));
        }
    }
    // Those with most to do first: the others then end at about the same time.
    queue.sort_by_key(|(_, commands, _)| Reverse(commands.len()));
    let queue = Mutex::new(VecDeque::from(queue));
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((kernel, commands, guest)) = next else { break };
                    let result = run_one(kernel, &commands, guest);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|result| kernels::ALL.iter().position(|kernel| kernel.name == result.name()));
    ensure!(results.len() == chosen.len(), "a guest is missing");
    Ok(results)
}

fn run_one(kernel: &'static Kernel, commands: &[GuestCommand], guest: Result<Guest>) -> GuestResult {
    let started = Instant::now();
    let ran = guest.and_then(|guest| Ok((guest.run(commands)?, guest)));
    let (result, log) = match ran {
        Ok((console, guest)) => {
            let release = guest.unpacked.release.clone();
            (
                GuestResult::new(kernel, release, &console, started.elapsed()),
                Some(guest.log),
            )
        }
        Err(error) => (
            GuestResult::not_run(kernel, &format!("{error:#}"), started.elapsed()),
            None,
        ),
    };
    result.print(log.as_deref());
    result
}

/// What the guests of one architecture have in common.
struct Guests {
    root: PathBuf,
    base: PathBuf,
    built: Built,
    packages: Packages,
}

impl Guests {
    fn prepare(arch: Arch, update: bool) -> Result<Self> {
        let root = fs::canonicalize(target())?.join("vm");
        let folder = root.join(arch.name());
        fs::create_dir_all(&folder)?;
        let mut packages = Packages::new(&root, arch, update)?;
        let built = build::build(arch, &mut packages)?;
        let system = if arch.is_ours() {
            None
        } else {
            Some(packages.system(kernels::SYSTEM_SUITE, &kernels::SYSTEM)?)
        };
        let base = folder.join("base.cpio");
        initramfs::write_base(&base, &folder, &built, system.as_deref()).context("the initramfs cannot be written")?;
        Ok(Self {
            root,
            base,
            built,
            packages,
        })
    }

    fn guest(&mut self, kernel: &'static Kernel) -> Result<Guest> {
        let logs = self.root.join("log");
        fs::create_dir_all(&logs)?;
        Ok(Guest {
            arch: kernel.arch,
            cpu: kernel.cpu,
            unpacked: self.packages.kernel(kernel)?,
            base: self.base.clone(),
            initramfs: self.root.join(format!("{}.cpio", kernel.name)),
            log: logs.join(format!("{}.log", kernel.name)),
        })
    }
}

/// One guest, ready to start.
struct Guest {
    arch: Arch,
    cpu: Option<&'static str>,
    unpacked: Unpacked,
    base: PathBuf,
    initramfs: PathBuf,
    log: PathBuf,
}

impl Guest {
    /// Boots it, runs the commands, and returns what the console said.
    fn run(&self, commands: &[GuestCommand]) -> Result<qemu::Console> {
        let list: String = commands
            .iter()
            .map(|(name, limit, command)| format!("{name}\t{}\t{command}\n", limit.as_secs()))
            .collect();
        let limit = commands.iter().map(|(_, limit, _)| *limit).sum();
        initramfs::write_guest(&self.initramfs, &self.base, &self.unpacked, &list)?;
        let console = qemu::run(
            self.arch,
            self.cpu,
            &self.unpacked.image,
            &self.initramfs,
            &self.log,
            limit,
        );
        fs::remove_file(&self.initramfs)?;
        console
    }
}

/// Name, time limit, and the command for the guest's shell.
type GuestCommand = (String, Duration, String);

/// The checks of one guest.
fn commands(kernel: &Kernel, built: &Built, depth: Depth) -> Result<Vec<GuestCommand>> {
    let analyzer = "imds-analyzer";
    let mut commands = vec![(LAB.to_owned(), SHORT, format!("{analyzer} lab --format json"))];
    for owner in kernel.owners {
        let command = format!("{analyzer} check --format json --owner {owner}");
        commands.push((format!("{CHECK}{owner}"), SHORT, command));
    }
    for owner in kernel.absent {
        let command = format!("{analyzer} watch --owner {owner} --duration 1s");
        commands.push((format!("{ABSENT}{owner}"), SHORT, command));
    }
    for lacked in kernel.lacks {
        commands.push((format!("{LACKED}{}", lacked.test), SHORT, lacked.proof.to_owned()));
    }
    let lacked: String = kernel
        .lacks
        .iter()
        .map(|lacked| format!(" --skip {}", lacked.test))
        .collect();
    let named = OF_HOOKS.iter().chain(&OF_KERNELS).chain(&OF_SYSTEMS).chain(&OF_WORDS);
    for name in named.chain(&OF_SEND_TAP).chain(&OF_LEGACY_WIRE).chain([&LOAD, &OWNERS]) {
        ensure!(
            built.tests.iter().any(|(built, _)| built == name),
            "there is no end-to-end test {name}"
        );
    }
    let names: Vec<&str> = built
        .tests
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !OF_SYSTEMS.contains(name))
        .collect();
    let refusals = (REFUSALS.to_owned(), SHORT, format!("exec /tests/{REFUSALS}{lacked}"));
    if !kernel.only.is_empty() {
        for name in names.iter().filter(|name| kernel.only.contains(name)) {
            commands.extend(
                kernel
                    .owners
                    .iter()
                    .map(|owner| test(name, owner, &format!("OWNER={owner}"), &lacked)),
            );
        }
        commands.push(refusals);
        return Ok(commands);
    }
    if kernel.tap == Tap::Wire {
        for name in names.iter().filter(|name| !ONLY_OF_LEGACY.contains(name)) {
            for owner in kernel.owners {
                commands.extend(with_wire_tap(kernel, depth, name, owner, &lacked));
            }
        }
    }
    for name in names.iter().filter(|name| ![LOAD, kernels::LEGACY_WIRE].contains(name)) {
        commands.extend(with_send_tap(kernel, depth, name, &lacked));
    }
    let has_packets = !kernel.lacks.iter().any(|lacked| lacked.test == kernels::LEGACY_WIRE);
    for name in OF_LEGACY_WIRE.iter().filter(|_| has_packets) {
        commands.extend(with_legacy_wire(kernel, depth, name, &lacked));
    }
    commands.push(refusals);
    Ok(commands)
}

/// The program `name` with a sender hook, if it is to be run with that.
fn with_wire_tap(kernel: &Kernel, depth: Depth, name: &str, owner: &str, skip: &str) -> Option<GuestCommand> {
    let (is_first, has_load) = (kernel.owners.first() == Some(&owner), kernel.load == Some(owner));
    let whole = depth == Depth::Full && name == WHOLE_LOAD && has_load;
    let is_end = ENDS.contains(&kernel.name) || depth == Depth::Full;
    let oldest = kernels::ALL.iter().find(|kernel| kernel.name == ENDS[0]);
    let in_oldest = oldest.is_some_and(|oldest| oldest.owners.contains(&owner));
    let is_first_place = is_end && (kernel.name == ENDS[0] || !in_oldest || depth == Depth::Full);
    let runs = match name {
        LOAD => has_load && (kernel.name == QUICKEST || depth == Depth::Full),
        OWNERS => true,
        _ if OF_HOOKS.contains(&name) => is_first || is_first_place,
        _ if OF_KERNELS.contains(&name) => is_first && (is_end || name == TRUST) || whole,
        _ if kernel.name == QUICKEST && !OF_WORDS.contains(&name) => is_first,
        _ => is_first && depth == Depth::Full,
    };
    let load = if whole { " FULL_LOAD=1" } else { "" };
    runs.then(|| test(name, owner, &format!("OWNER={owner}{load}"), skip))
}

/// The program `name` with the send tap: without BTF on the oldest kernel, and with it where there is no other tap; both
/// wherever they can be if everything is run.
fn with_send_tap(kernel: &Kernel, depth: Depth, name: &str, lacked: &str) -> Vec<GuestCommand> {
    let skip = skipping(lacked, NOT_OF_LEGACY.iter().chain(&NOT_OF_SEND_TAP));
    let is_its_own = OF_SEND_TAP.contains(&name);
    let has_btf = !kernel.without.contains(&BTF);
    let shown = match kernel.tap {
        Tap::Send => Some("kprobe"),
        Tap::Wire => (is_its_own && depth == Depth::Full).then_some("send"),
    };
    let hidden = has_btf && (is_its_own && kernel.name == ENDS[0] || depth == Depth::Full && kernel.tap == Tap::Wire);
    let environment = "OBJECT=legacy OWNER=kprobe";
    let shown = shown.map(|kind| test(name, kind, environment, &skip));
    let hidden = hidden.then(|| test(name, "no-btf", &format!("{environment} NO_BTF=1"), &skip));
    shown.into_iter().chain(hidden).collect()
}

/// The program `name` with the legacy object's wire tap: all that is for it if everything is run, else what is for nothing
/// else, in the oldest guest. BTF is hidden where there is any.
fn with_legacy_wire(kernel: &Kernel, depth: Depth, name: &str, lacked: &str) -> Option<GuestCommand> {
    let in_oldest = name == kernels::LEGACY_WIRE && kernel.name == kernels::ALL[0].name;
    let skip = skipping(lacked, &NOT_OF_LEGACY);
    let hidden = if kernel.without.contains(&BTF) { "" } else { " NO_BTF=1" };
    let environment = format!("OBJECT={} OWNER=kprobe{hidden}", kernels::LEGACY_WIRE_OBJECT);
    (in_oldest || depth == Depth::Full).then(|| test(name, "packets", &environment, &skip))
}

fn skipping<'a>(skip: &str, tests: impl IntoIterator<Item = &'a &'a str>) -> String {
    tests
        .into_iter()
        .fold(skip.to_owned(), |skip, test| format!("{skip} --skip {test}"))
}

/// One program of tests.
fn test(name: &str, kind: &str, environment: &str, skip: &str) -> GuestCommand {
    let analyzer = initramfs::WITH_OWNER;
    let command = format!("IMDS_ANALYZER={analyzer} {environment} exec /tests/{name} --test-threads=1{skip}");
    (format!("{name}/{kind}"), TESTS, command)
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}
