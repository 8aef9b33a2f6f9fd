//! Reports which process starts which, on kernels whose task structs cannot be read: uses only the two tracepoints and
//! helpers for the current task.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_comm, bpf_get_current_uid_gid},
    programs::TracePointContext,
};
use imds_analyzer_ebpf::abi::{
    COMM_LEN, Header, Loss, RecordKind,
    legacy::{ForkOrExec, Settings},
};

use super::{
    current::{now, thread},
    settings::settings,
    transport,
};
use crate::bpf::common::{counters, read};

/// Reports that the current process starts another one, or a thread.
#[inline(always)]
pub(super) fn forked(ctx: &TracePointContext) {
    let Some(settings) = settings() else { return };
    match child(ctx, settings) {
        Some(child) => send(ctx, child),
        None => counters::add(Loss::TaskRead, 1),
    }
}

/// Reports that the current process has begun to execute another program.
#[inline(always)]
pub(super) fn executed(ctx: &TracePointContext) {
    send(ctx, 0);
}

#[inline(always)]
fn child(ctx: &TracePointContext, settings: &Settings) -> Option<u32> {
    read::kernel(ctx.as_ptr() as u64 + settings.fork_child as u64)
}

#[inline(always)]
fn send(ctx: &TracePointContext, child: u32) {
    // SAFETY: a helper without arguments.
    let ids = unsafe { bpf_get_current_uid_gid() };
    let mut record = ForkOrExec {
        header: Header {
            time: now(),
            kind: RecordKind::ForkOrExec as u16,
            data_len: 0,
            reserved: 0,
        },
        tgid: (thread() >> 32) as u32,
        child,
        uid: ids as u32,
        reserved: 0,
        comm: [0; COMM_LEN],
    };
    // SAFETY: the helper writes as many bytes as it is told.
    let named = unsafe { bpf_get_current_comm(record.comm.as_mut_ptr().cast(), COMM_LEN as u32) };
    if named != 0 {
        counters::add(Loss::TaskRead, 1);
    }
    transport::output(ctx, &record, size_of::<ForkOrExec>() as u64);
}
