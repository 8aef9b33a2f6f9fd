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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::vm::{
    arch::Arch,
    build::Built,
    kernels::{Kernel, Tap},
    packages::{Packages, Unpacked},
    programs::{Place, Program},
    result::GuestResult,
};

pub(crate) mod arch;
mod build;
pub(crate) mod cpio;
pub(crate) mod cross;
pub(crate) mod initramfs;
pub(crate) mod kernels;
pub(crate) mod packages;
mod programs;
pub(crate) mod qemu;
pub(crate) mod result;

/// Names of the commands that every guest runs beside tests.
const LAB: &str = "lab";
/// Before the name of an owner hook that must be available.
const CHECK: &str = "check/";
/// Before the name of an owner hook that must be refused.
const ABSENT: &str = "absent/";

/// The tests that change the whole machine; last, because some changes cannot be undone.
const REFUSALS: &str = "refusals";

/// Before the name of a test whose feature the kernel lacks.
const LACKED: &str = "lacked/";

/// How long one command may take in a guest.
const SHORT: Duration = Duration::from_secs(180);
const TESTS: Duration = Duration::from_secs(900);

/// Guests at a time: tests wait for each other and for the network more than they compute.
const AT_A_TIME: usize = 2;

/// The oldest and the newest kernel with the wire tap: a kernel between them behaves like one of these.
const ENDS: [&str; 2] = ["5.10", "7"];
/// The guest whose kernel verifies the programs in the shortest time: verification takes most of a test's time.
const QUICKEST: &str = "6.12";
/// The feature of `check` that some runs hide.
const BTF: &str = "BTF";

/// How much of the matrix is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Kernels of this machine's architecture that have the wire tap; tests as often as their outcome can differ.
    Usual,
    /// All kernels, and all tests in each of them, with the send tap too.
    Full,
}

/// `cargo xtask vm`: boots the named guests, or those of `depth`. Runs `command`, if there is one, instead of the
/// checks.
pub(crate) fn run(names: &[String], depth: Depth, update: bool, command: &[String]) -> Result<ExitCode> {
    let chosen = choose(names, depth)?;
    if command.is_empty() {
        let (total, ok) = result::table(&matrix(&chosen, depth, update)?);
        println!("\n{} passed, {} failed", total.passed, total.failed);
        return Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let commands = [GuestCommand {
        name: "command".to_owned(),
        limit: TESTS,
        line: command.join(" "),
        tests: 0,
    }];
    for kernel in chosen {
        let mut guests = Guests::prepare(kernel.arch, update)?;
        let guest = guests.guest(kernel)?;
        println!("\n== kernel {} ({})", kernel.name, guest.unpacked.release);
        guest.run(0, &commands)?.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches the kernels of `depth` that are not in `target` yet.
pub(crate) fn fetch(depth: Depth) -> Result<()> {
    let root = root()?;
    for kernel in choose(&[], depth)? {
        Packages::new(&root, kernel.arch, false)?.kernel(kernel)?;
    }
    Ok(())
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
            // Kernels with the wire tap run tests of the send tap, too.
            [] => depth == Depth::Full || kernel.arch.is_ours() && kernel.tap == Tap::Wire,
            _ => names.iter().any(|name| kernel.name == name),
        })
        .collect())
}

/// Runs the checks in every guest, and returns the result of each.
fn matrix(chosen: &[&'static Kernel], depth: Depth, update: bool) -> Result<Vec<GuestResult>> {
    let programs = programs::all()?;
    let mut boots = Vec::new();
    for arch in [Arch::X86_64, Arch::Arm64] {
        let mut of_arch = chosen.iter().filter(|kernel| kernel.arch == arch).peekable();
        if of_arch.peek().is_none() {
            continue;
        }
        let mut guests = Guests::prepare(arch, update)?;
        let built: Vec<&str> = guests.built.tests.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(
            built == programs.iter().map(|program| &program.name).collect::<Vec<_>>(),
            "the programs of tests are not those that were built: {built:?}"
        );
        for kernel in of_arch {
            let guest = Arc::new(guests.guest(kernel));
            let parts = parts(commands(kernel, &programs, depth));
            let of = parts.len();
            boots.extend(parts.into_iter().enumerate().map(|(number, commands)| Boot {
                kernel,
                guest: Arc::clone(&guest),
                number,
                of,
                commands,
            }));
        }
    }
    // Those with most to do come first, so that the others end at about the same time.
    boots.sort_by_key(|boot| Reverse(cost(&boot.commands)));
    let queue = Mutex::new(VecDeque::from(boots));
    // A function, so that the lock is released before the guest runs.
    let next = || locked(&queue).pop_front();
    let ran = Mutex::new(Vec::new());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(boot) = next() {
                    let (kernel, of) = (boot.kernel, boot.of);
                    let boot = boot.run();
                    let mut ran = locked(&ran);
                    ran.push(boot);
                    let (mut own, others): (Vec<_>, Vec<_>) =
                        ran.drain(..).partition(|it| it.boot.kernel.name == kernel.name);
                    *ran = others;
                    if own.len() < of {
                        ran.append(&mut own);
                    } else {
                        drop(ran);
                        locked(&results).push(result_of(kernel, own));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|result| kernels::ALL.iter().position(|kernel| kernel.name == result.name()));
    ensure!(results.len() == chosen.len(), "a guest is missing");
    Ok(results)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One boot of a guest, with all or some of the commands for it.
struct Boot {
    kernel: &'static Kernel,
    guest: Arc<Result<Guest>>,
    number: usize,
    /// The number of boots of this guest.
    of: usize,
    commands: Vec<GuestCommand>,
}

/// A boot that is over.
struct Ran {
    boot: Boot,
    console: Result<qemu::Console>,
    elapsed: Duration,
}

impl Boot {
    fn run(self) -> Ran {
        let started = Instant::now();
        let console = match &*self.guest {
            Ok(guest) => guest.run(self.number, &self.commands),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        Ran {
            boot: self,
            console,
            elapsed: started.elapsed(),
        }
    }
}

/// The result of all boots of a guest.
fn result_of(kernel: &'static Kernel, mut boots: Vec<Ran>) -> GuestResult {
    boots.sort_by_key(|ran| ran.boot.number);
    let elapsed = boots.iter().map(|ran| ran.elapsed).sum();
    let guest = boots.first().map(|ran| Arc::clone(&ran.boot.guest));
    let consoles: Result<Vec<_>> = boots.into_iter().map(|ran| ran.console).collect();
    let (result, logs) = match (consoles, guest.as_deref()) {
        (Ok(consoles), Some(Ok(guest))) => {
            let logs = (0..consoles.len()).map(|number| guest.log(number)).collect();
            let console = qemu::Console::of_all(consoles);
            (
                GuestResult::new(kernel, guest.unpacked.release.clone(), &console, elapsed),
                logs,
            )
        }
        (Err(error), _) => (GuestResult::not_run(kernel, &format!("{error:#}"), elapsed), Vec::new()),
        (Ok(_), _) => (GuestResult::not_run(kernel, "it has no kernel", elapsed), Vec::new()),
    };
    result.print(&logs);
    result
}

/// Splits `commands`, if they are many, into two parts of about the same cost, so that the last guest does not run
/// alone for long.
fn parts(commands: Vec<GuestCommand>) -> Vec<Vec<GuestCommand>> {
    /// The number of tests that is worth another boot.
    const MANY: usize = 60;
    let all = cost(&commands);
    if all < MANY {
        return vec![commands];
    }
    let mut parts = [Vec::new(), Vec::new()];
    let mut before = 0;
    for command in commands {
        let part = usize::from(before >= all / 2);
        before += command.tests;
        parts[part].push(command);
    }
    parts.into()
}

fn cost(commands: &[GuestCommand]) -> usize {
    commands.iter().map(|command| command.tests).sum()
}

/// The parts that all guests of one architecture share.
struct Guests {
    root: PathBuf,
    base: PathBuf,
    built: Built,
    packages: Packages,
}

impl Guests {
    fn prepare(arch: Arch, update: bool) -> Result<Self> {
        let root = root()?;
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
        fs::create_dir_all(self.root.join("log"))?;
        Ok(Guest {
            kernel,
            unpacked: self.packages.kernel(kernel)?,
            root: self.root.clone(),
            base: self.base.clone(),
        })
    }
}

/// One guest, ready to start.
struct Guest {
    kernel: &'static Kernel,
    unpacked: Unpacked,
    /// The folder of all guests.
    root: PathBuf,
    base: PathBuf,
}

impl Guest {
    /// The file for the console output of one boot.
    fn log(&self, boot: usize) -> PathBuf {
        self.root.join(format!("log/{}-{boot}.log", self.kernel.name))
    }

    /// Boots the guest, runs the commands, and returns the console output.
    fn run(&self, boot: usize, commands: &[GuestCommand]) -> Result<qemu::Console> {
        let list: String = commands
            .iter()
            .map(|command| format!("{}\t{}\t{}\n", command.name, command.limit.as_secs(), command.line))
            .collect();
        let limit = commands.iter().map(|command| command.limit).sum();
        let initramfs = self.root.join(format!("{}-{boot}.cpio", self.kernel.name));
        initramfs::write_guest(&initramfs, &self.base, &self.unpacked, &list)?;
        let console = qemu::run(
            self.kernel.arch,
            self.kernel.cpu,
            &self.unpacked.image,
            &initramfs,
            &self.log(boot),
            limit,
        );
        fs::remove_file(&initramfs)?;
        console
    }
}

/// A command for the guest's shell.
struct GuestCommand {
    name: String,
    limit: Duration,
    line: String,
    /// The approximate number of tests that it runs.
    tests: usize,
}

impl GuestCommand {
    /// A command that runs no tests.
    fn short(name: String, line: String) -> Self {
        Self {
            name,
            limit: SHORT,
            line,
            tests: 0,
        }
    }
}

/// The checks of one guest.
fn commands(kernel: &Kernel, programs: &[Program], depth: Depth) -> Vec<GuestCommand> {
    let analyzer = "imds-analyzer";
    let mut commands = vec![GuestCommand::short(
        LAB.to_owned(),
        format!("{analyzer} lab --format json"),
    )];
    for owner in kernel.owners {
        let command = format!("{analyzer} check --format json --owner {owner}");
        commands.push(GuestCommand::short(format!("{CHECK}{owner}"), command));
    }
    for owner in kernel.absent {
        let command = format!("{analyzer} watch --owner {owner} --duration 1s");
        commands.push(GuestCommand::short(format!("{ABSENT}{owner}"), command));
    }
    for lacked in kernel.lacks {
        commands.push(GuestCommand::short(
            format!("{LACKED}{}", lacked.test),
            lacked.proof.to_owned(),
        ));
    }
    let lacked: Vec<&str> = kernel.lacks.iter().map(|lacked| lacked.test).collect();
    for program in programs {
        let test = Tests {
            kernel,
            program,
            lacked: &lacked,
        };
        if kernel.only_no_storage {
            let owners = kernel.owners.iter().filter(|_| program.no_storage);
            commands.extend(owners.map(|owner| test.command(owner, &format!("OWNER={owner}"), &[])));
        } else {
            commands.extend(test.with_wire_tap(depth));
            commands.extend(test.with_send_tap(depth));
            commands.extend(test.with_legacy_wire(depth));
        }
    }
    if depth == Depth::Full || ENDS.contains(&kernel.name) {
        let refusals = format!("exec /tests/{REFUSALS}{}", skipping(&lacked));
        commands.push(GuestCommand::short(REFUSALS.to_owned(), refusals));
    }
    commands
}

/// A test program in a guest.
struct Tests<'a> {
    kernel: &'a Kernel,
    program: &'a Program,
    /// Tests that are left out in this guest.
    lacked: &'a [&'a str],
}

impl Tests<'_> {
    /// The runs with the wire tap, one for each owner hook to be tested.
    fn with_wire_tap(&self, depth: Depth) -> Vec<GuestCommand> {
        let owners = self.kernel.owners.iter();
        let (Tap::Wire, Some(place)) = (self.kernel.tap, self.program.place) else {
            return Vec::new();
        };
        owners
            .filter_map(|owner| {
                let is_load = depth == Depth::Full && self.program.whole_load && self.kernel.load == Some(owner);
                let load = if is_load { " FULL_LOAD=1" } else { "" };
                let runs = is_load || self.runs(place, depth, owner);
                runs.then(|| self.command(owner, &format!("OWNER={owner}{load}"), &[]))
            })
            .collect()
    }

    fn runs(&self, place: Place, depth: Depth, owner: &str) -> bool {
        let (kernel, full) = (self.kernel, depth == Depth::Full);
        let is_first = kernel.owners.first() == Some(&owner);
        let is_quickest = full || kernel.name == QUICKEST;
        let is_end = full || ENDS.contains(&kernel.name);
        match place {
            Place::Host => false,
            Place::Full => full && is_first,
            Place::Quickest => is_quickest && is_first,
            Place::Oldest => is_first && (full || kernel.name == ENDS[0]),
            Place::EveryKernel => is_first,
            Place::Hooks => {
                let mut oldest = kernels::ALL.iter().filter(|kernel| kernel.name == ENDS[0]);
                let in_oldest = oldest.any(|oldest| oldest.owners.contains(&owner));
                is_first || is_end && (full || kernel.name == ENDS[0] || !in_oldest)
            }
            Place::EveryHook => true,
            Place::Load => full && kernel.load == Some(owner),
        }
    }

    /// The runs with the send tap: without BTF on the oldest kernel, and with BTF where there is no other tap. If
    /// everything is run, both wherever possible.
    fn with_send_tap(&self, depth: Depth) -> Vec<GuestCommand> {
        let (kernel, full) = (self.kernel, depth == Depth::Full);
        let is_its_own = self.program.send_tap;
        let is_for_it = match self.program.place {
            None => is_its_own,
            Some(place) => ![Place::Host, Place::Load].contains(&place),
        };
        if !is_for_it || self.program.modern {
            return Vec::new();
        }
        let skip = [&self.program.not_legacy[..], &self.program.not_send_tap].concat();
        let has_btf = !kernel.without.contains(&BTF);
        let shown = match kernel.tap {
            Tap::Send => Some("kprobe"),
            Tap::Wire => (is_its_own && full).then_some("send"),
        };
        let hidden = has_btf && (is_its_own && kernel.name == ENDS[0] || full && kernel.tap == Tap::Wire);
        let environment = "OBJECT=legacy OWNER=kprobe";
        let shown = shown.map(|kind| self.command(kind, environment, &skip));
        let hidden = hidden.then(|| self.command("no-btf", &format!("{environment} NO_BTF=1"), &skip));
        shown.into_iter().chain(hidden).collect()
    }

    /// The run with the wire tap of the legacy object, on kernels that have it. If everything is run, this includes
    /// every program that is for this tap; otherwise only the programs that are for nothing else, in the oldest guest.
    /// BTF is hidden where the kernel has it.
    fn with_legacy_wire(&self, depth: Depth) -> Option<GuestCommand> {
        let is_its_own = self.program.place.is_none() && !self.program.send_tap;
        let runs = self.program.packets
            && !self.lacked.contains(&kernels::LEGACY_WIRE)
            && (depth == Depth::Full || is_its_own && self.kernel.name == ENDS[0]);
        let hidden = if self.kernel.without.contains(&BTF) {
            ""
        } else {
            " NO_BTF=1"
        };
        let environment = format!("OBJECT={} OWNER=kprobe{hidden}", kernels::LEGACY_WIRE_OBJECT);
        runs.then(|| self.command("packets", &environment, &self.program.not_legacy))
    }

    /// One run of the program.
    fn command(&self, kind: &str, environment: &str, left_out: &[String]) -> GuestCommand {
        let name = &self.program.name;
        let skip = skipping(self.lacked) + &skipping(left_out);
        let command = format!(
            "IMDS_ANALYZER={} LACKS='{}' {environment} exec /tests/{name} --test-threads=1{skip}",
            initramfs::WITH_OWNER,
            kernels::GUESTS_LACK.join(" "),
        );
        GuestCommand {
            name: format!("{name}/{kind}"),
            limit: TESTS,
            line: command,
            tests: self.program.tests,
        }
    }
}

fn skipping<T: std::fmt::Display>(tests: &[T]) -> String {
    tests.iter().map(|test| format!(" --skip {test}")).collect()
}

/// The directory of everything for guests.
pub(crate) fn root() -> Result<PathBuf> {
    let root = target().join("vm");
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    Ok(fs::canonicalize(root)?)
}

/// The directory in which cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}
