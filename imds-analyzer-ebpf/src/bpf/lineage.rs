//! Who starts whom, where tasks cannot be read: what the two tracepoints and the current task say by themselves.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_comm, bpf_get_current_uid_gid},
    programs::TracePointContext,
};
use imds_analyzer_ebpf::abi::{
    COMM_LEN, Header, Loss, RecordKind,
    send::{Lineage, SendSettings},
};

use super::{counters, read, sendcopy::now, sendstate, settings_map::settings, transport_perf};

/// The current process starts another, or a thread.
#[inline(always)]
pub(super) fn forked(ctx: &TracePointContext) {
    let Some(settings) = settings() else { return };
    match child(ctx, settings) {
        Some(child) => send(ctx, child),
        None => counters::add(Loss::TaskRead, 1),
    }
}

/// The current process has begun to execute another program.
#[inline(always)]
pub(super) fn executed(ctx: &TracePointContext) {
    send(ctx, 0);
}

#[inline(always)]
fn child(ctx: &TracePointContext, settings: &SendSettings) -> Option<u32> {
    read::kernel(ctx.as_ptr() as u64 + settings.fork_child as u64)
}

#[inline(always)]
fn send(ctx: &TracePointContext, child: u32) {
    // SAFETY: a helper without arguments.
    let ids = unsafe { bpf_get_current_uid_gid() };
    let mut lineage = Lineage {
        header: Header {
            time: now(),
            kind: RecordKind::Lineage as u16,
            data_len: 0,
            reserved: 0,
        },
        tgid: (sendstate::thread() >> 32) as u32,
        child,
        uid: ids as u32,
        reserved: 0,
        comm: [0; COMM_LEN],
    };
    // SAFETY: the helper writes as many bytes as it is told.
    let named = unsafe { bpf_get_current_comm(lineage.comm.as_mut_ptr().cast(), COMM_LEN as u32) };
    if named != 0 {
        counters::add(Loss::TaskRead, 1);
    }
    transport_perf::output(ctx, &lineage, size_of::<Lineage>() as u64);
}
