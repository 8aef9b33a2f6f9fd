//! The sender's own context: whose bytes are these, from which sequence number on. One body for every hook.

use aya_ebpf::{EbpfContext, programs::ProbeContext};
use imds_analyzer_ebpf::{abi::OwnerHook, target};

use super::{
    read::{self, Argument},
    settings_global::setting,
    skb,
    socket::{self, NOTES},
    task,
};

/// Entry of the hooks with typed arguments, of which the socket is the first; leaves at once if the socket's peer has
/// another port, as nearly every send does.
#[inline(always)]
pub(super) fn observe_typed(ctx: &impl EbpfContext, hook: OwnerHook) {
    let sk = Argument::first(ctx);
    if sk.u16(setting!(sock_dport)) == target::PORT.to_be() {
        observe(sk.address(), hook);
    }
}

/// Entry of the kprobe.
#[inline(always)]
pub(super) fn observe_registers(ctx: &ProbeContext) {
    let sock: u64 = ctx.arg(0).unwrap_or(0);
    if read::kernel::<u16>(sock + setting!(sock_dport)) == Some(target::PORT.to_be()) {
        observe(sock, OwnerHook::Kprobe);
    }
}

/// Looks at a send on the socket at `sock`, whose peer has IMDS's port.
#[inline(always)]
fn observe(sock: u64, hook: OwnerHook) {
    if !is_imds_address(sock) || task::is_kernel_thread() {
        return;
    }
    let Some(seq) = read::kernel::<u32>(sock + setting!(tcp_sock_write_seq)) else {
        return;
    };
    let cookie: u64 = read::kernel(sock + setting!(sock_cookie)).unwrap_or(0);
    let (identity, leader) = task::identity();
    let senders = match socket::senders(sock, cookie) {
        Some(senders) => senders,
        None => match socket::new_senders(sock, cookie) {
            Some(senders) => senders,
            None => return,
        },
    };
    let count = senders.count;
    if count > 0 {
        let last = &senders.notes[(count as usize).wrapping_sub(1) & (NOTES - 1)];
        let same =
            last.task.tid == identity.tid && last.task.start == identity.start && last.task.exec == identity.exec;
        if same {
            return;
        }
    }
    senders.count = count.wrapping_add(1);
    let note = &mut senders.notes[count as usize & (NOTES - 1)];
    note.seq = seq;
    task::facts_into(&mut note.task, &identity, leader, task::current_cgroup(), hook);
    if !senders.is_announced(&identity) {
        senders.set_announced(&identity);
        // Another than who connected, as few are: its paths are left to /proc.
        task::announce::<false>(&senders.notes[count as usize & (NOTES - 1)].task, leader, sock, cookie);
    }
}

/// Whether the peer of the socket at `sock` has IMDS's address.
#[inline(always)]
fn is_imds_address(sock: u64) -> bool {
    if read::kernel::<[u8; 4]>(sock + setting!(sock_daddr)).is_some_and(target::is_imds_v4) {
        return true;
    }
    const AF_INET6: u16 = 10;
    if read::kernel::<u16>(sock + setting!(sock_family)) != Some(AF_INET6) {
        return false;
    }
    let expected = skb::ipv6_words();
    let mut same = true;
    for (i, word) in expected.iter().enumerate() {
        same &= read::kernel::<u32>(sock + setting!(sock_v6_daddr) + i as u64 * 4) == Some(*word);
    }
    same
}
