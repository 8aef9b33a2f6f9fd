//! The programs of the modern object. Each entry point is a few lines; the modules hold the logic.

mod attempt;
mod budget;
mod classifier;
mod connect;
mod constants;
mod egress;
mod endpoints;
mod exchange;
mod ingress;
mod memory;
mod pages;
mod paths;
mod rehearse;
mod release;
mod report;
mod scan;
mod sender;
mod skb;
mod socket;
mod task;
mod transport;

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, SkBuffContext, SockAddrContext, SockContext},
};
use imds_analyzer_ebpf::abi::OwnerHook;

/// The return value of every hook: this tool only watches, so it lets everything through. Only a rehearsal keeps packets
/// back.
const PASS: i32 = 1;
/// The packet is dropped, and the send fails before TCP counts its bytes as sent. The other of two values: `PASS ^ 1`.
const DROP: i32 = 0;

/// match-proto (kernel/bpf/cgroup.c): int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, ...)
#[cgroup_skb]
fn imds_egress(ctx: SkBuffContext) -> i32 {
    egress::observe(ctx.skb.skb);
    PASS
}

/// match-proto (kernel/bpf/cgroup.c): int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, ...)
#[cgroup_skb]
fn imds_ingress(ctx: SkBuffContext) -> i32 {
    ingress::observe(ctx.skb.skb);
    PASS
}

/// match-proto (net/ipv4/tcp_ipv4.c): int tcp_v4_pre_connect(struct sock *sk, struct sockaddr_unsized *uaddr, int addr_len)
#[cgroup_sock_addr(connect4)]
fn imds_connect4(ctx: SockAddrContext) -> i32 {
    connect::observe_v4(&ctx);
    PASS
}

/// match-proto (net/ipv6/tcp_ipv6.c): int tcp_v6_pre_connect(struct sock *sk, struct sockaddr_unsized *uaddr, int addr_len)
#[cgroup_sock_addr(connect6)]
fn imds_connect6(ctx: SockAddrContext) -> i32 {
    connect::observe_v6(&ctx);
    PASS
}

/// match-proto (net/ipv4/af_inet.c): int inet_release(struct socket *sock)
#[cgroup_sock(sock_release)]
fn imds_release(ctx: SockContext) -> i32 {
    release::observe(ctx.sock);
    PASS
}

// The programs of a rehearsal run instead of those above, and are never loaded otherwise.

/// match-proto (kernel/bpf/cgroup.c): int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, ...)
#[cgroup_skb]
fn imds_rehearse_egress(ctx: SkBuffContext) -> i32 {
    egress::judge(ctx.skb.skb)
}

/// match-proto (kernel/bpf/cgroup.c): int __cgroup_bpf_run_filter_skb(struct sock *sk, struct sk_buff *skb, ...)
#[cgroup_skb]
fn imds_rehearse_ingress(ctx: SkBuffContext) -> i32 {
    ingress::observe(ctx.skb.skb);
    rehearse::receive(ctx.skb.skb);
    PASS
}

/// match-proto (net/ipv4/af_inet.c): int inet_release(struct socket *sock)
#[cgroup_sock(sock_release)]
fn imds_rehearse_release(ctx: SockContext) -> i32 {
    release::observe(ctx.sock);
    rehearse::release(ctx.sock);
    PASS
}

// The sender hooks run while the socket is locked, so the sequence number they read is the one that will be written.
// Before the lock, in tcp_sendmsg, two writers could read the same number.

/// match-proto (include/trace/events/tcp.h, since 6.15): void trace_tcp_sendmsg_locked(const struct sock *sk, const struct msghdr *msg, const struct sk_buff *skb, int size_goal)
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
fn imds_tp_btf(ctx: BtfTracePointContext) -> i32 {
    sender::observe_typed(&ctx, OwnerHook::TpBtf);
    0
}

/// match-proto (net/ipv4/tcp.c): int tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size)
#[fentry(function = "tcp_sendmsg_locked")]
fn imds_fentry(ctx: FEntryContext) -> i32 {
    sender::observe_typed(&ctx, OwnerHook::Fentry);
    0
}

/// match-proto (net/ipv4/tcp.c): int tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size)
#[kprobe]
fn imds_kprobe(ctx: ProbeContext) -> u32 {
    sender::observe_registers(&ctx);
    0
}
