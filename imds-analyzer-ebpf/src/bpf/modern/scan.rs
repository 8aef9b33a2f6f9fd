//! Feeds new payload to the socket's classifier, a few bytes per call.

use aya_ebpf::bindings::__sk_buff;
use imds_analyzer_ebpf::{abi::RecordKind, classify::Step};

use super::{
    rehearse::{imds_refuse, imds_tell},
    report::imds_report,
    socket,
};
use crate::bpf::common::skb::Skb;

/// Bytes looked at by one call of [`imds_scan`].
// VERIFIER: the verifier walks every path through the classifier for each of these bytes, about 6,000 instructions per
// byte.
const CHUNK: usize = 2;
/// Calls of [`imds_scan`] per [`imds_span`], of [`imds_span`] per [`imds_payload`], and of [`imds_payload`] per packet:
/// 64 KiB in chunks, and a quarter more for pipelined heads, each of which ends a call early.
// VERIFIER: three loops with few iterations, because the verifier walks every iteration of a loop.
const STEPS: u32 = 32;
const SPANS: u32 = 32;
const PAYLOADS: u32 = 40;
/// Flag in the result of [`imds_scan`]: a head is to be reported. The lower bits are the number of bytes taken.
const HEAD: u32 = 1 << 31;

/// Takes `len` payload bytes at `offset`. Returns how many bytes are left over because the packet has more than the
/// loops may take. With `REHEARSE`, each head is considered for refusal before it is reported.
#[inline(always)]
pub(super) fn payload<const REHEARSE: bool>(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let (mut offset, mut left) = (offset, len);
    // VERIFIER: a constant bound.
    for _ in 0..PAYLOADS {
        let taken = if REHEARSE {
            imds_payload_rehearse(ctx, offset, left)
        } else {
            imds_payload(ctx, offset, left)
        };
        if taken == 0 {
            break;
        }
        offset = offset.wrapping_add(taken);
        left = left.saturating_sub(taken);
    }
    left
}

/// The loop of the functions below: up to `$steps` pieces, of which `$piece` takes one; `$taken` of its result are bytes,
/// and `$done` handles the rest.
// A macro, so that the functions compile to the same instructions whether or not a rehearsal shares their code.
macro_rules! pieces {
    ($ctx:ident, $offset:ident, $len:ident, $steps:ident, $piece:ident, |$result:ident| $taken:expr, $done:expr) => {{
        let mut taken = 0_u32;
        // VERIFIER: a constant bound.
        for _ in 0..$steps {
            let $result = $piece($ctx, $offset.wrapping_add(taken), $len.saturating_sub(taken));
            if $result == 0 {
                break;
            }
            taken = taken.wrapping_add($taken);
            $done
        }
        taken
    }};
}

/// Like [`imds_span`], for up to [`SPANS`] spans.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_payload(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    pieces!(ctx, offset, len, SPANS, imds_span, |result| result, {})
}

/// Like [`imds_payload`], in a rehearsal.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_payload_rehearse(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    pieces!(ctx, offset, len, SPANS, imds_span_rehearse, |result| result, {})
}

/// Takes `len` payload bytes at `offset`, or as many as one call may look at, and reports the heads in them. Returns
/// how many it took.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_span(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    pieces!(
        ctx,
        offset,
        len,
        STEPS,
        imds_scan,
        |result| result & !HEAD,
        if result & HEAD != 0 {
            imds_report(ctx, RecordKind::Request as u32);
        }
    )
}

/// Like [`imds_span`], in a rehearsal: considers each head for refusal before it reports it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_span_rehearse(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    pieces!(
        ctx,
        offset,
        len,
        STEPS,
        imds_scan,
        |result| result & !HEAD,
        if result & HEAD != 0 {
            imds_refuse(ctx);
            imds_report(ctx, RecordKind::Request as u32);
            imds_tell(ctx);
        }
    )
}

/// Pushes up to [`CHUNK`] of `len` payload bytes at `offset` into the socket's classifier. Returns how many it took,
/// with [`HEAD`] set if the last of them completed a head; 0 if the packet could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_scan(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    if len == 0 {
        return 0;
    }
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let wanted = if len > CHUNK as u32 { CHUNK as u32 } else { len };
    let mut chunk = [0; CHUNK];
    if !skb.load_into(offset, &mut chunk, wanted) {
        return 0;
    }
    let mut taken = 0;
    let mut head = 0;
    for byte in chunk {
        if taken >= wanted || head != 0 {
            break;
        }
        taken += 1;
        if socket.classifier.push(byte) == Step::Head {
            head = HEAD;
        }
    }
    socket.next_seq.set(socket.next_seq.get().wrapping_add(taken));
    taken | head
}
