//! Runs in the sender's own context and notes which task writes from which sequence number on. All hooks share one
//! body.

use aya_ebpf::{EbpfContext, programs::ProbeContext};
use imds_analyzer_ebpf::{
    abi::{OwnerHook, Task},
    target,
};

use super::{
    constants::offset,
    socket::{self, NOTES},
    task::{self, imds_announce},
};
use crate::bpf::common::{read, skb};

/// Entry of the hooks with typed arguments; the socket is the first argument. Returns at once if the socket's peer has
/// another port, as in nearly every send.
#[inline(always)]
pub(super) fn observe_typed(ctx: &impl EbpfContext, hook: OwnerHook) {
    let sk = Argument::first(ctx);
    if sk.u16(offset!(sock_dport)) == target::PORT.to_be() {
        observe(sk.address(), hook);
    }
}

/// Entry of the kprobe.
#[inline(always)]
pub(super) fn observe_registers(ctx: &ProbeContext) {
    let sock: u64 = ctx.arg(0).unwrap_or(0);
    if read::kernel::<u16>(sock + offset!(sock_dport)) == Some(target::PORT.to_be()) {
        observe(sock, OwnerHook::Kprobe);
    }
}

/// Looks at a send on the socket at `sock`, whose peer has IMDS's port.
#[inline(always)]
fn observe(sock: u64, hook: OwnerHook) {
    if !is_imds_address(sock) || task::is_kernel_thread() {
        return;
    }
    let Some(seq) = read::kernel::<u32>(sock + offset!(tcp_sock_write_seq)) else {
        return;
    };
    let (cookie, _) = read::kernel_or_zero(sock + offset!(sock_cookie));
    imds_note_sender(sock, cookie, task::current_cgroup(), hook as u32, seq);
}

/// Notes that the current task sends from `seq` on, on the socket at `sock`, unless the latest note already has this
/// task with the same facts (user, name). Announces the task's process unless it was the last one announced. `hook` is
/// an [`OwnerHook`].
// VERIFIER: a global function, like `imds_announce`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_note_sender(sock: u64, cookie: u64, cgroup: u64, hook: u32, seq: u32) -> u32 {
    let senders = match socket::senders(sock, cookie) {
        Some(senders) => senders,
        None => match socket::new_senders(sock, cookie) {
            Some(senders) => senders,
            None => return 0,
        },
    };
    let (identity, leader) = task::identity();
    let count = senders.count;
    let next = count as usize & (NOTES - 1);
    // Write the facts into the slot of the oldest note to compare them there: that slot is the next one to be taken.
    let fresh = &mut senders.notes[next];
    fresh.seq = seq;
    task::facts_into(&mut fresh.task, &identity, leader, cgroup, hook as u8);
    let last = (count as usize).wrapping_sub(1) & (NOTES - 1);
    if count == 0 || !is_same(&senders.notes[last].task, &senders.notes[next].task) {
        senders.count = count.wrapping_add(1);
    }
    if !senders.is_announced(&identity) {
        senders.set_announced(&identity);
        // Few sockets are used by a process other than the one that connected. User space reads the paths of this
        // process from /proc.
        imds_announce(sock, cookie, cgroup, hook);
    }
    0
}

#[inline(always)]
fn is_same(a: &Task, b: &Task) -> bool {
    const WORDS: usize = size_of::<Task>() / 8;
    let (a, b): (&[u64; WORDS], &[u64; WORDS]) = (zerocopy::transmute_ref!(a), zerocopy::transmute_ref!(b));
    let mut different = 0;
    for word in 0..WORDS {
        different |= a[word] ^ b[word];
    }
    different == 0
}

/// True if the peer of the socket at `sock` has IMDS's address.
#[inline(always)]
fn is_imds_address(sock: u64) -> bool {
    if read::kernel::<[u8; 4]>(sock + offset!(sock_daddr)).is_some_and(target::is_imds_v4) {
        return true;
    }
    const AF_INET6: u16 = 10;
    if read::kernel::<u16>(sock + offset!(sock_family)) != Some(AF_INET6) {
        return false;
    }
    let expected = skb::ipv6_words();
    let mut same = true;
    for (i, word) in expected.iter().enumerate() {
        same &= read::kernel::<u32>(sock + offset!(sock_v6_daddr) + i as u64 * 4) == Some(*word);
    }
    same
}

/// Argument 0 of a hook that runs with typed arguments (BTF tracepoint, fentry): a pointer the kernel vouches for.
#[derive(Clone, Copy)]
struct Argument(*const *const u8);

impl Argument {
    /// `ctx` is the program's context: an array of arguments, eight bytes each.
    #[inline(always)]
    fn first(ctx: &impl EbpfContext) -> Self {
        Self(ctx.as_ptr().cast())
    }

    /// The two bytes at `offset`, loaded without a helper call: the verifier knows the pointer's type, and the kernel
    /// handles the fault if the memory is gone.
    #[inline(always)]
    fn u16(self, offset: u64) -> u16 {
        // SAFETY: the context holds at least one argument.
        let argument = unsafe { core::ptr::read_volatile(self.0) };
        let field = argument.wrapping_add(offset as usize).cast::<u16>();
        // SAFETY: `offset` is the offset of a field of the argument's struct, from the kernel's own BTF.
        unsafe { core::ptr::read_volatile(field) }
    }

    /// The pointer as a number.
    #[inline(always)]
    fn address(self) -> u64 {
        // VERIFIER: the pointer is read as bytes, so that arithmetic on it is not restricted.
        read::kernel(self.0 as u64).unwrap_or(0)
    }
}
