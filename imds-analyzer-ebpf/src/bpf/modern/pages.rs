//! Detects bytes that change after they were judged: the kernel reads pages that the sender can still write
//! (MSG_ZEROCOPY, vmsplice, splice, sendfile) again when it retransmits a packet, and a retransmission may take another
//! route.

use aya_ebpf::bindings::__sk_buff;
use imds_analyzer_ebpf::{abi::RecordKind, classify::Reason, follow::is_before};

use super::{
    constants::{digest_key, offset},
    memory,
    report::imds_unjudged,
    socket::{self, JUDGED, Judged},
};
use crate::bpf::common::{read, skb::Skb};

/// Bytes read by one call of [`imds_digest`].
const CHUNK: usize = 64;
/// Calls of [`imds_digest`] per [`imds_digests`], and of [`imds_digests`] per packet: 64 KiB.
const STEPS: u32 = 32;
const SPANS: u32 = 32;

/// Remembers `len` new payload bytes at `offset`, which are at `seq` in the stream, if the sender can still write them
/// or could write those of an earlier packet: the kernel may merge the two packets when it retransmits.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_remember(ctx: *mut __sk_buff, seq: u32, offset: u32, len: u32) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    if are_senders(memory::number(ctx, &socket.skb)) {
        if socket.pages.get() == 0 {
            socket.pages.set(1);
            socket.pages_seq.set(seq);
            socket.judged_count.set(0);
        }
        socket.pages_end.set(seq.wrapping_add(len));
    }
    if socket.pages.get() != 0 {
        let digest = digest(ctx, offset, len);
        let count = socket.judged_count.get();
        socket.judged[count as usize & (JUDGED - 1)].set(Judged {
            seq,
            len,
            digest,
            reserved: 0,
        });
        socket.judged_count.set(count.wrapping_add(1));
    }
    0
}

/// Compares `len` retransmitted payload bytes at `offset`, which are at `seq` in the stream, with the bytes that were
/// judged.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_again(ctx: *mut __sk_buff, seq: u32, offset: u32, len: u32) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let end = seq.wrapping_add(len);
    let elsewhere = socket.local.get() != 0 && is_before(seq, socket.local_seq.get()) && !skb.is_local();
    if !elsewhere && (socket.pages.get() == 0 || !is_before(socket.pages_seq.get(), end)) {
        return 0;
    }
    if !elsewhere {
        let digest = digest(ctx, offset, len);
        let mut same = false;
        for known in &socket.judged {
            let known = known.get();
            same |= known.seq == seq && known.len == len && known.digest == digest;
        }
        if same {
            return 0;
        }
    }
    let head = socket.next_seq.get().wrapping_sub(socket.classifier.head().len);
    if socket.classifier.is_unfinished() && is_before(head, end) {
        socket.classifier.spoil(Reason::Changed);
        socket.classifier.end_spoil();
    }
    imds_unjudged(ctx, RecordKind::Changed as u32, seq, len, Reason::Changed as u32);
    0
}

/// True if the sender of the packet at `skb` can still write its pages.
#[inline(always)]
fn are_senders(skb: u64) -> bool {
    let head: u64 = read::kernel(skb + offset!(skb_head)).unwrap_or(0);
    let end: u32 = read::kernel(skb + offset!(skb_end)).unwrap_or(0);
    // If the flags cannot be read, the pages may be the sender's.
    read::kernel::<[u8; 1]>(head + end as u64 + offset!(shared_info_flags))
        .is_none_or(|[flags]| flags as u64 & offset!(shared_info_mask) != 0)
}

/// A digest of `len` payload bytes at `offset`: a polynomial over the field of 2^31 - 1, evaluated at a point that no
/// sender knows, so that no sender can find other bytes with the same digest.
#[inline(always)]
fn digest(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let mut digest = 0;
    let mut taken = 0_u32;
    // VERIFIER: a constant bound.
    for _ in 0..SPANS {
        if taken >= len {
            break;
        }
        digest = imds_digests(ctx, offset.wrapping_add(taken), len.wrapping_sub(taken), digest);
        taken = taken.wrapping_add(STEPS * CHUNK as u32);
    }
    digest
}

/// Continues a digest with up to [`STEPS`] chunks of `len` bytes at `offset`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_digests(ctx: *mut __sk_buff, offset: u32, len: u32, digest: u32) -> u32 {
    let mut digest = digest;
    let mut taken = 0_u32;
    // VERIFIER: a constant bound.
    for _ in 0..STEPS {
        if taken >= len {
            break;
        }
        digest = imds_digest(ctx, offset.wrapping_add(taken), len.wrapping_sub(taken), digest);
        taken = taken.wrapping_add(CHUNK as u32);
    }
    digest
}

/// Continues a digest with up to [`CHUNK`] of `len` bytes at `offset`.
// VERIFIER: a separate function, so that the verifier walks its loop once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_digest(ctx: *mut __sk_buff, offset: u32, len: u32, digest: u32) -> u32 {
    const PRIME: u64 = (1 << 31) - 1;
    if len == 0 {
        return digest;
    }
    let wanted = if len > CHUNK as u32 { CHUNK as u32 } else { len };
    let mut chunk = [0; CHUNK];
    if !Skb(ctx).load_into(offset, &mut chunk, wanted) {
        // No digest has this value: digests are below 2^31 - 1.
        return u32::MAX;
    }
    let mut digest = digest as u64;
    for byte in chunk {
        digest = (digest * digest_key() + byte as u64 + 1) % PRIME;
    }
    digest as u32
}
