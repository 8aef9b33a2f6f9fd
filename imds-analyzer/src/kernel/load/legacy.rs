//! The legacy object: the send tap, and the wire tap that forwards packets to user space. It reports nothing until its
//! reads have been checked on a connection of this process to itself.

mod packets;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerfEventArray, ProgramArray, perf::PerfEventArrayBuffer},
    programs::{KProbe, Program},
    util::online_cpus,
};
use imds_analyzer_ebpf::abi::{
    self, OwnerHook,
    legacy::{NO_TAG, SLOT, Settings, map, program, send_flags, stage},
};
use zerocopy::IntoBytes;

use super::{
    super::{
        calibrate::{self, Calibrator, verify},
        constants,
        plan::Object,
        stream::Buffers,
        tracefs::{self, Event, Side, Tracefs},
    },
    Hook, Loaded, chain,
};
use crate::event::Tap;

/// Aligned the way an ELF parser needs it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IMDS_LEGACY_OBJECT"));

/// Bytes of all perf buffers together, and the allowed pages of one: at least enough for the largest packet or two
/// hundred sends, and no more than is useful.
const BUFFERS: usize = 8 * 1024 * 1024;
const PAGES: std::ops::RangeInclusive<usize> = 32..=128;

/// Programs and the functions they are attached to, ends before begins. A hook that is not essential is left out if the
/// kernel does not have the function.
const HOOKS: [(&str, &str, Side, bool); 13] = [
    (program::CLOSE, "tcp_close", Side::Entry, true),
    (program::CLOSE, "tcp_disconnect", Side::Entry, true),
    (program::SHUTDOWN, "tcp_shutdown", Side::Entry, false),
    (program::WAIT, WAIT_MEMORY, Side::Entry, false),
    (program::SENT, abi::program::SENDER, Side::Return, true),
    (program::SEND, abi::program::SENDER, Side::Entry, true),
    // Until 6.4.
    (program::SENT, "do_tcp_sendpages", Side::Return, false),
    (program::PAGES, "do_tcp_sendpages", Side::Entry, false),
    (program::CONNECT, "tcp_v4_connect", Side::Entry, true),
    // Only on a kernel with IPv6.
    (program::CONNECT, "tcp_v6_connect", Side::Entry, false),
    (program::RECEIVED, "tcp_cleanup_rbuf", Side::Entry, false),
    (program::RECEIVE, "tcp_recvmsg", Side::Entry, false),
    (program::CALIBRATE, abi::program::SENDER, Side::Entry, true),
];

/// The programs that see answers.
const ANSWERS: [&str; 2] = [program::RECEIVE, program::RECEIVED];

/// The function in which a send waits for buffer space.
const WAIT_MEMORY: &str = "sk_stream_wait_memory";

/// The tracepoints that report which process starts which.
const FORK: &str = "sched/sched_process_fork";
const EXEC: &str = "sched/sched_process_exec";

/// A program attached to a tracepoint or a kprobe. The fields drop in order: the program detaches before the kprobe is
/// removed.
pub(super) struct Attached {
    program: &'static str,
    _perf: OwnedFd,
    _kprobe: Option<Event>,
}

type SettingsMap = Array<MapData, [u8; size_of::<Settings>()]>;

/// Loads the object, learns the offsets unless they are `known`, checks them, and attaches the programs; those for
/// `answers` too, if the kernel takes them and they work.
pub(super) fn load(known: Option<&Settings>, packets: bool, answers: bool) -> anyhow::Result<Loaded> {
    keep_memory_private()?;
    let tracefs = Tracefs::open().context("cannot open tracefs")?;
    let mut findings = Vec::new();
    match tracefs.sweep().context("cannot read kprobe_events")? {
        0 => {}
        count => findings.push(format!("removed {count} kprobes that a killed instance left behind")),
    }
    match packets::sweep() {
        Ok(0) => {}
        Ok(count) => findings.push(format!("detached {count} programs that a killed instance left behind")),
        Err(error) => findings.push(format!(
            "cannot look for programs that a killed instance left behind: {error:#}"
        )),
    }
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .load(OBJECT)
        .map_err(|error| anyhow!("the kernel rejected the legacy eBPF object: {}", chain(&error)))?;
    let mut buffers = open_buffers(&mut ebpf)?;
    let mut settings: SettingsMap = take(&mut ebpf, map::SETTINGS)?;
    let wanted = || {
        HOOKS
            .into_iter()
            .filter(|(name, ..)| answers || !ANSWERS.contains(name))
    };
    let (mut hooks, stages) = load_programs(&mut ebpf, wanted().map(|(name, ..)| name))?;

    let mut kprobes = Vec::new();
    for (name, function, side, essential) in wanted() {
        match attach(&ebpf, &tracefs, name, function, side) {
            Ok(attached) => kprobes.push(attached),
            Err(error) if essential => bail!("cannot attach {name} to {function}: {error:#}"),
            Err(error) => note_missing(&mut hooks, name, function, &error),
        }
    }
    let learnt = match known {
        Some(known) => *known,
        None => {
            let dumps: Array<MapData, [u8; SLOT]> = take(&mut ebpf, map::CALIBRATION)?;
            let mut calibrator = Calibrator::new(|asked: &Settings| write(&mut settings, asked), dumps);
            let learnt = calibrator
                .run(constants::common_to_all_kernels(), packets)
                .context("cannot find the kernel fields that the send tap reads")?;
            findings.extend(learnt.findings);
            learnt.settings
        }
    };
    kprobes.retain(|attached| attached.program != program::CALIBRATE);
    let learnt = Settings {
        // Without this hook any send may have waited.
        send_flags: if kprobes.iter().any(|attached| attached.program == program::WAIT) {
            0
        } else {
            send_flags::WAITED
        },
        ..learnt
    };
    let sees_answers = ANSWERS
        .iter()
        .all(|name| kprobes.iter().any(|attached| attached.program == *name));
    let mut verified = verify(learnt, sees_answers, |asked| write(&mut settings, asked), &mut buffers)
        .context("the send tap did not read what was sent")?;
    findings.extend(verified.findings);
    if answers && !verified.answers {
        findings.push("answers are not seen: every request has imds.answer unseen".to_owned());
        kprobes.retain(|attached| !ANSWERS.contains(&attached.program));
    }
    let follows_processes = if verified.settings.offsets.task_real_parent == 0 {
        match follow_processes(&mut ebpf, &tracefs, &mut verified.settings, &mut hooks) {
            Ok(attached) => {
                findings.push("ancestors come from fork and exec events, arguments from /proc".to_owned());
                kprobes.extend(attached);
                true
            }
            Err(error) => {
                findings.push(format!("ancestors and arguments come only from /proc: {error:#}"));
                false
            }
        }
    } else {
        false
    };
    let mut must_detach = false;
    if packets {
        joinable(&verified.settings)?;
        let (hook, has_link) = packets::attach(&mut ebpf)?;
        hooks.push(hook);
        must_detach = !has_link;
        // Sends only identify the sender here: their bytes are not read.
        verified.settings.tag_iovec = NO_TAG;
        verified.settings.tag_kvec = NO_TAG;
        verified.settings.tag_buffer = NO_TAG;
    } else {
        // Only the packet tap needs these two.
        verified.settings.offsets.sock_cookie = 0;
        verified.settings.offsets.tcp_sock_write_seq = 0;
    }
    write(&mut settings, &verified.settings)?;
    calibrate::drain(&mut buffers);

    let loss: PerCpuArray<MapData, u64> = take(&mut ebpf, abi::map::LOSS)?;
    Ok(Loaded {
        answers: verified.answers,
        _kprobes: kprobes,
        misses_before: tracefs.misses().context("kprobe_profile")?,
        tracefs: Some(tracefs),
        ebpf,
        _stages: Some(stages),
        loss,
        buffers: Some(Buffers::Perf(buffers)),
        object: Object::Legacy,
        tap: if packets { Tap::Wire } else { Tap::Send },
        must_detach,
        refused: Vec::new(),
        findings,
        follows_processes,
        hooks,
        owner: OwnerHook::Kprobe,
        choice: None,
        _cgroup: None,
    })
}

/// Fails if sends and packets cannot be joined.
fn joinable(settings: &Settings) -> anyhow::Result<()> {
    ensure!(
        settings.offsets.sock_cookie != 0 && settings.offsets.tcp_sock_write_seq != 0,
        "cannot find the cookie and the sequence number of a socket, so packets cannot be matched with their senders; \
         --object legacy does not need them"
    );
    Ok(())
}

/// This process's memory and its buffers will briefly hold tokens: keep them out of core dumps.
fn keep_memory_private() -> anyhow::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("PR_SET_DUMPABLE")
}

fn take<T: TryFrom<aya::maps::Map>>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<T>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    Ok(T::try_from(map)?)
}

/// Opens one perf buffer per CPU.
fn open_buffers(ebpf: &mut Ebpf) -> anyhow::Result<Vec<PerfEventArrayBuffer<MapData>>> {
    let mut records: PerfEventArray<MapData> = take(ebpf, map::RECORDS)?;
    let cpus = online_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
    let pages = pages(cpus.len(), rustix::param::page_size());
    cpus.into_iter()
        .map(|cpu| {
            records
                .open(cpu, Some(pages))
                .map_err(|error| anyhow!("cannot open the perf buffer of CPU {cpu}: {}", chain(&error)))
        })
        .collect()
}

/// Pages of each buffer with `cpus` buffers, a power of two.
fn pages(cpus: usize, page_size: usize) -> usize {
    let share = BUFFERS / page_size.max(1) / cpus.max(1);
    let power = usize::BITS - 1 - share.max(1).leading_zeros();
    (1 << power).clamp(*PAGES.start(), *PAGES.end())
}

/// Loads the programs, and puts the tail-called ones into their map slots. Those that see answers may be rejected.
fn load_programs(
    ebpf: &mut Ebpf,
    programs: impl Iterator<Item = &'static str>,
) -> anyhow::Result<(Vec<Hook>, ProgramArray<MapData>)> {
    let mut hooks: Vec<Hook> = Vec::new();
    let staged = [(program::OWNER, stage::OWNER), (program::COPY, stage::COPY)];
    let names = staged.iter().map(|(name, _)| *name).chain(programs);
    for name in names {
        if hooks.iter().any(|hook| hook.program == name) {
            continue;
        }
        let mut hook = Hook::new(name);
        let started = Instant::now();
        if let Err(error) = kprobe(ebpf, name)?.load() {
            let error = format!("the kernel rejected {name}: {}", chain(&error));
            ensure!(ANSWERS.contains(&name), error);
            hook.error = Some(error);
        }
        hook.load = started.elapsed();
        if let Some(program) = ebpf.program(name) {
            hook.set_info(program);
        }
        hooks.push(hook);
    }
    let mut stages: ProgramArray<MapData> = take(ebpf, map::STAGES)?;
    for (name, stage) in staged {
        let fd = kprobe(ebpf, name)?.fd()?.try_clone()?;
        stages.set(stage, &fd, 0)?;
    }
    Ok((hooks, stages))
}

fn kprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut KProbe> {
    match ebpf.program_mut(name) {
        Some(Program::KProbe(program)) => Ok(program),
        _ => bail!("the object has no program {name}"),
    }
}

fn attach(ebpf: &Ebpf, tracefs: &Tracefs, name: &'static str, function: &str, side: Side) -> anyhow::Result<Attached> {
    let Some(Program::KProbe(program)) = ebpf.program(name) else {
        bail!("the object has no such program");
    };
    let event = tracefs.add(function, side, name)?;
    let perf = tracefs::attach(program.fd()?.as_fd(), event.id)?;
    Ok(Attached {
        program: name,
        _perf: perf,
        _kprobe: Some(event),
    })
}

/// For a kernel whose tasks cannot be read: attaches to the tracepoints that report each fork and exec.
fn follow_processes(
    ebpf: &mut Ebpf,
    tracefs: &Tracefs,
    settings: &mut Settings,
    hooks: &mut Vec<Hook>,
) -> anyhow::Result<Vec<Attached>> {
    let fork = tracefs.tracepoint(FORK).context(FORK)?;
    let exec = tracefs.tracepoint(EXEC).context(EXEC)?;
    settings.fork_child = fork
        .offset("child_pid")
        .with_context(|| format!("tracepoint {FORK} has no child_pid"))?;
    let mut attached = Vec::new();
    for (name, tracepoint) in [(program::FORK, fork), (program::EXEC, exec)] {
        let mut hook = Hook::new(name);
        let started = Instant::now();
        let Some(Program::TracePoint(program)) = ebpf.program_mut(name) else {
            bail!("the object has no program {name}");
        };
        program
            .load()
            .map_err(|error| anyhow!("the kernel rejected {name}: {}", chain(&error)))?;
        hook.load = started.elapsed();
        let perf =
            tracefs::attach(program.fd()?.as_fd(), tracepoint.id).with_context(|| format!("cannot attach {name}"))?;
        attached.push(Attached {
            program: name,
            _perf: perf,
            _kprobe: None,
        });
        if let Some(program) = ebpf.program(name) {
            hook.set_info(program);
        }
        hooks.push(hook);
    }
    Ok(attached)
}

/// Records a failed attach. Only programs that attach to a single function get an error: others may be attached
/// elsewhere.
fn note_missing(hooks: &mut [Hook], name: &str, function: &str, error: &anyhow::Error) {
    tracing::debug!("cannot attach {name} to {function}: {error:#}");
    let single = [
        program::PAGES,
        program::SHUTDOWN,
        program::WAIT,
        program::RECEIVE,
        program::RECEIVED,
    ];
    if single.contains(&name) {
        for hook in hooks
            .iter_mut()
            .filter(|hook| hook.program == name && hook.error.is_none())
        {
            hook.error = Some(format!("{function}: {error:#}"));
        }
    }
}

fn write(settings: &mut SettingsMap, value: &Settings) -> anyhow::Result<()> {
    let mut bytes = [0; size_of::<Settings>()];
    bytes.copy_from_slice(value.as_bytes());
    Ok(settings.set(0, bytes, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_what_there_is() {
        for (cpus, page_size, expected) in [
            (1, 4096, 128),
            (2, 4096, 128),
            (16, 4096, 128),
            (96, 4096, 32),
            (4, 65536, 32),
            (512, 4096, 32),
            (0, 0, 128),
        ] {
            assert_eq!(pages(cpus, page_size), expected, "{cpus} CPUs, pages of {page_size}");
        }
    }
}
