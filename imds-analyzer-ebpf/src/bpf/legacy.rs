//! The programs of the legacy object, in the order data flows: those that read sends, then the one that passes packets
//! on. A program that finds an IMDS socket continues in the next program by tail call, because old kernels have no
//! loops.

mod calibrate;
mod caller;
mod copy;
mod current;
mod lineage;
mod packet;
mod peer;
mod receives;
mod sends;
mod settings;
mod transport;

use aya_ebpf::{
    macros::{cgroup_skb, kprobe, kretprobe, tracepoint},
    programs::{ProbeContext, RetProbeContext, SkBuffContext, TracePointContext},
};
use imds_analyzer_ebpf::abi::legacy::Phase;

use super::common::skb::Skb;

// The send hooks run while the socket is locked, so the sends on one socket come one after the other.

/// match-proto (net/ipv4/tcp.c): int tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size)
#[kprobe]
#[inline(always)]
fn imds_send(ctx: ProbeContext) -> u32 {
    let (sock, message) = (argument(&ctx, 0), argument(&ctx, 1));
    sends::begin(&ctx, sock, message, argument(&ctx, 2));
    0
}

/// Until 6.4, for sends without a msghdr: sendfile(2) and splice(2).
///
/// match-proto (net/ipv4/tcp.c, until 6.4): ssize_t do_tcp_sendpages(struct sock *sk, struct page *page, int offset, size_t size, int flags)
#[kprobe]
#[inline(always)]
fn imds_pages(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, 0);
    sends::begin_pages(&ctx, sock);
    0
}

/// The return of `tcp_sendmsg_locked` and of `do_tcp_sendpages`.
#[kretprobe]
#[inline(always)]
fn imds_sent(ctx: RetProbeContext) -> u32 {
    let result: u64 = ctx.ret();
    sends::end(&ctx, result as i32);
    0
}

/// match-proto (net/ipv4/tcp_ipv4.c): int tcp_v4_connect(struct sock *sk, struct sockaddr_unsized *uaddr, int addr_len)
#[kprobe]
#[inline(always)]
fn imds_connect(ctx: ProbeContext) -> u32 {
    let (sock, address) = (argument(&ctx, 0), argument(&ctx, 1));
    sends::connect(&ctx, sock, address);
    0
}

/// match-proto (net/ipv4/tcp.c): void tcp_shutdown(struct sock *sk, int how)
#[kprobe]
#[inline(always)]
fn imds_shutdown(ctx: ProbeContext) -> u32 {
    /// `SEND_SHUTDOWN` of include/net/sock.h.
    const SEND_SHUTDOWN: u64 = 2;
    let (sock, how) = (argument(&ctx, 0), argument(&ctx, 1));
    if how & SEND_SHUTDOWN != 0 {
        sends::end_of_stream(&ctx, sock, Phase::Shutdown);
    }
    0
}

/// match-proto (net/ipv4/tcp.c): void tcp_close(struct sock *sk, long timeout)
#[kprobe]
#[inline(always)]
fn imds_close(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, 0);
    sends::end_of_stream(&ctx, sock, Phase::Close);
    0
}

/// match-proto (net/ipv4/tcp.c): int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, ...)
#[kprobe]
#[inline(always)]
fn imds_receive(ctx: ProbeContext) -> u32 {
    let (sock, message) = (argument(&ctx, 0), argument(&ctx, 1));
    receives::begin(sock, message, argument(&ctx, 2));
    0
}

/// Called by the reader when it has copied bytes to its own memory, before it returns (since before 4.14).
///
/// match-proto (net/ipv4/tcp.c): void tcp_cleanup_rbuf(struct sock *sk, int copied)
#[kprobe]
#[inline(always)]
fn imds_received(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, 0);
    receives::received(&ctx, sock, argument(&ctx, 1) as i32);
    0
}

/// match-proto (net/core/stream.c): int sk_stream_wait_memory(struct sock *sk, long *timeo_p)
#[kprobe]
#[inline(always)]
fn imds_wait(ctx: ProbeContext) -> u32 {
    sends::waits(argument(&ctx, 0));
    0
}

/// Tail-called: announces the process, then copies what it sends.
#[kprobe]
#[inline(always)]
fn imds_owner(ctx: ProbeContext) -> u32 {
    caller::announce(&ctx);
    0
}

/// Tail-called, also by itself: copies the next piece of a send.
#[kprobe]
#[inline(always)]
fn imds_copy(ctx: ProbeContext) -> u32 {
    copy::next(&ctx);
    0
}

/// match-proto (net/ipv4/tcp.c): int tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size)
#[kprobe]
#[inline(always)]
fn imds_calibrate(ctx: ProbeContext) -> u32 {
    let (sock, message) = (argument(&ctx, 0), argument(&ctx, 1));
    calibrate::dump(sock, message);
    0
}

/// match-proto (include/trace/events/sched.h): void trace_sched_process_fork(struct task_struct *parent, struct task_struct *child)
#[tracepoint]
#[inline(always)]
fn imds_fork(ctx: TracePointContext) -> u32 {
    lineage::forked(&ctx);
    0
}

/// match-proto (include/trace/events/sched.h): void trace_sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
#[tracepoint]
#[inline(always)]
fn imds_exec(ctx: TracePointContext) -> u32 {
    lineage::executed(&ctx);
    0
}

/// Sees every packet that a socket sends, on kernels that let such a program write to a perf buffer (5.4).
// VERIFIER: the section names no direction, so the program has no expected attach type, which kernels before 4.17 do
// not know.
#[cgroup_skb]
#[inline(always)]
fn imds_packet(ctx: SkBuffContext) -> i32 {
    const ALLOW: i32 = 1;
    packet::pass_on(Skb(ctx.skb.skb));
    ALLOW
}

#[inline(always)]
fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}
