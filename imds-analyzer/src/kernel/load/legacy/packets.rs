//! The legacy object's packet program, at the root of cgroup2.
//!
//! Before 5.7 there are no links: the program is attached beside other programs, never in place of one, and stays
//! attached if this process is killed. The next start detaches programs that no process holds any more.

use std::{io, os::fd::AsFd as _, time::Instant};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, loaded_programs},
    util::KernelVersion,
};
use imds_analyzer_ebpf::abi::legacy::program;

use super::super::{super::cgroup, Hook, chain};
use crate::host::{
    namespace::in_first_pid_namespace,
    proc::{self, Directory, FILE_MAX},
};

/// Loads and attaches the program. Returns true if a link holds it.
pub(super) fn attach(ebpf: &mut Ebpf) -> anyhow::Result<(Hook, bool)> {
    let cgroup = cgroup::Root::open().context("cannot open cgroup2")?;
    let mut hook = Hook::new(program::PACKET);
    let Some(Program::CgroupSkb(program)) = ebpf.program_mut(program::PACKET) else {
        bail!("the object has no program {}", program::PACKET);
    };
    let started = Instant::now();
    program.load().map_err(|error| {
        anyhow!(
            "this kernel cannot forward packets to user space (needs 5.4): {}",
            chain(&error)
        )
    })?;
    hook.load = started.elapsed();
    // From 5.7 on aya uses links, which take no mode flag. Without links, `Single` would replace another program.
    let has_links = KernelVersion::current()? >= KernelVersion::new(5, 7, 0);
    let mode = if has_links {
        CgroupAttachMode::Single
    } else {
        CgroupAttachMode::AllowMultiple
    };
    program
        .attach(&cgroup, CgroupSkbAttachType::Egress, mode)
        .map_err(|error| anyhow!("cannot attach the packet program: {}", chain(&error)))?;
    if let Some(program) = ebpf.program(program::PACKET) {
        hook.set_info(program);
    }
    Ok((hook, has_links))
}

/// Detaches the programs of killed predecessors and returns how many there were.
pub(super) fn sweep() -> anyhow::Result<usize> {
    // In any other pid namespace some processes are not visible.
    if !in_first_pid_namespace() {
        return Ok(0);
    }
    let Ok(cgroup) = cgroup::Root::open() else {
        return Ok(0);
    };
    let mut removed = 0;
    for info in loaded_programs() {
        // The program may have been unloaded since it was listed.
        let Ok(info) = info else { continue };
        if info.name_as_str() == Some(program::PACKET) && !is_held(info.id())? {
            let program = info.fd()?;
            match cgroup::detach_egress(&cgroup, program.as_fd()) {
                Ok(()) => removed += 1,
                Err(error) => tracing::debug!("cannot detach program {} from the root of cgroup2: {error}", info.id()),
            }
        }
    }
    Ok(removed)
}

/// True if a process has the program open, or may have: not every process can be inspected.
fn is_held(id: u32) -> io::Result<bool> {
    let line = format!("prog_id:\t{id}");
    for pid in proc::pids()? {
        let found = Directory::open(pid?).and_then(|process| Ok((process.numbers("fdinfo")?, process)));
        let (files, process) = match found {
            Ok(found) => found,
            Err(error) if proc::is_gone(&error) => continue,
            // This process may be the one that holds the program.
            Err(_) => return Ok(true),
        };
        let has_it = |file| {
            let info = process.text(&format!("fdinfo/{file}"), FILE_MAX);
            info.is_ok_and(|info| info.lines().any(|it| it == line))
        };
        if files.flatten().any(has_it) {
            return Ok(true);
        }
    }
    Ok(false)
}
