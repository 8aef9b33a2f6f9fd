//! Answers of IMDS: follows every packet that a socket receives by sequence number and finds the status lines. Bodies
//! are skipped.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use imds_analyzer_ebpf::{
    abi::{
        Header, Loss, RecordKind,
        exchange::{Answer, News},
    },
    answer::Step,
    follow::{self, Headers, Place},
};

use super::{
    exchange::{self, Exchange},
    task, transport,
};
use crate::bpf::common::{counters, skb::Skb};

/// Bytes looked at by one call of [`imds_answer_bytes`].
// VERIFIER: the verifier walks every path through the automaton for each of these bytes.
const CHUNK: usize = 4;
/// Calls of [`imds_answer_bytes`] per [`imds_answer_span`], and of [`imds_answer_span`] per packet: 64 KiB in chunks.
// VERIFIER: two loops with few iterations, because the verifier walks every iteration of a loop.
const STEPS: u32 = 128;
const SPANS: u32 = 136;
/// Flag in the result of [`imds_answer_bytes`]: a status code has ended. The lower bits are the number of bytes taken.
const ANSWER: u32 = 1 << 31;

/// Entry of the program.
#[inline(always)]
pub(super) fn observe(ctx: *mut __sk_buff) {
    if Skb(ctx).is_imds() {
        imds_answers(ctx);
    }
}

/// Processes a packet for a socket whose peer is IMDS.
// VERIFIER: a global function, like `imds_stream`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_answers(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.tcp_sock();
    if sk.is_null() || says_nothing(skb) || !exchange::enter(sk) {
        return 0;
    }
    imds_receive(ctx);
    if exchange::leave(sk) {
        imds_left_out(ctx);
        exchange::leave_lost(sk);
    }
    0
}

/// Gives up on the answers of a connection after a packet was skipped: nobody knows what was in that packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_left_out(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    if let Some(exchange) = exchange::of_packet(skb) {
        exchange.lose();
        tell(skb, exchange, News::Lost);
    }
    0
}

/// True if the packet is a bare acknowledgement. Timers send those on any CPU: such a packet must not take the turn of
/// one that carries an answer.
#[inline(always)]
fn says_nothing(skb: Skb) -> bool {
    match Headers::read(&skb) {
        Ok(headers) => skb.len() <= headers.payload && !headers.is_syn() && !headers.is_last(),
        Err(_) => false,
    }
}

/// Processes a packet that has taken the turn.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_receive(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let Some(exchange) = exchange::of_packet(skb) else {
        return 0;
    };
    let Ok(headers) = Headers::read(&skb) else {
        exchange.lose();
        return 0;
    };
    exchange.set_hops(follow::hop_limit(&skb, headers.v6).unwrap_or(0));
    if exchange.synced.get() == 0 {
        if headers.is_syn() {
            exchange.synced.set(1);
            exchange.next_seq.set(headers.seq);
        } else if headers.is_reset() {
            exchange.refused.set(1);
        }
    }
    let len = skb.len().saturating_sub(headers.payload);
    if len > 0 {
        take(skb, exchange, &headers, len);
    }
    let end = headers.seq.wrapping_add(len);
    if headers.is_fin() && follow::is_before(exchange.next_seq.get(), end) {
        exchange.lose();
    }
    if exchange.is_lost() {
        tell(skb, exchange, News::Lost);
    } else if headers.is_last() {
        tell(skb, exchange, News::End);
    }
    0
}

/// Takes the new part of `len` bytes of payload.
#[inline(always)]
fn take(skb: Skb, exchange: &Exchange, headers: &Headers, len: u32) {
    let (mut offset, mut left) = (headers.payload, len);
    if exchange.synced.get() == 0 {
        // The beginning of the stream was not seen.
        exchange.lose();
        return;
    }
    match follow::place(exchange.next_seq.get(), headers.seq, len) {
        Place::New => {}
        Place::Known(known) => {
            offset += known;
            left -= known;
        }
        Place::Gap(missing) => exchange.gap(missing),
    }
    // VERIFIER: a constant bound.
    for _ in 0..SPANS {
        let taken = imds_answer_span(skb.0, offset, left);
        if taken == 0 {
            break;
        }
        offset = offset.wrapping_add(taken);
        left = left.saturating_sub(taken);
    }
    if left > 0 {
        counters::add(Loss::PacketBound, 1);
        exchange.lose();
    }
}

/// Takes `len` payload bytes at `offset`, or as many as one call may look at, and reports the answers in them. Returns
/// how many it took.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_answer_span(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let mut taken = 0_u32;
    // VERIFIER: a constant bound.
    for _ in 0..STEPS {
        let result = imds_answer_bytes(ctx, offset.wrapping_add(taken), len.saturating_sub(taken));
        if result == 0 {
            break;
        }
        taken = taken.wrapping_add(result & !ANSWER);
        if result & ANSWER != 0 {
            imds_answered(ctx);
        }
    }
    taken
}

/// Takes up to [`CHUNK`] of `len` payload bytes at `offset`, or more if they need no parsing. Returns how many it took,
/// with [`ANSWER`] set if the last of them ended a status code; 0 if the packet could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_answer_bytes(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    if len == 0 {
        return 0;
    }
    let skb = Skb(ctx);
    let Some(exchange) = exchange::of_packet(skb) else {
        return 0;
    };
    let skipped = exchange.skip(len);
    if skipped > 0 {
        return skipped;
    }
    let wanted = if len > CHUNK as u32 { CHUNK as u32 } else { len };
    let mut chunk = [0; CHUNK];
    if !skb.load_into(offset, &mut chunk, wanted) {
        return 0;
    }
    let mut taken = 0;
    let mut answer = 0;
    for byte in chunk {
        if taken >= wanted || answer != 0 {
            break;
        }
        taken += 1;
        if exchange.push(byte) == Step::Answer {
            answer = ANSWER;
        }
    }
    taken | answer
}

/// Reports the answer whose status code has just ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_answered(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.full_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(exchange) = exchange::of(sk) else { return 0 };
    let Some(answered) = exchange.count_answer() else {
        return 0;
    };
    send(
        sk,
        skb.cookie(),
        Answer {
            header: Header {
                time: answered.time,
                ..header()
            },
            sock: 0,
            cookie: 0,
            index: answered.index,
            status: answered.status,
            hop_limit: answered.hop_limit,
            news: News::Answer as u8,
        },
    );
    0
}

/// Tells user space that the requests without an answer get none, or that their answers cannot be matched.
#[inline(always)]
fn tell(skb: Skb, exchange: &Exchange, news: News) {
    let sk = skb.full_sock();
    if !sk.is_null() {
        end(sk, skb.cookie(), exchange, news);
    }
}

/// Like [`tell`], for the connection of `sk`.
#[inline(always)]
pub(super) fn end(sk: *mut bpf_sock, cookie: u64, exchange: &Exchange, news: News) {
    if let Some(index) = exchange.to_tell() {
        send(
            sk,
            cookie,
            Answer {
                header: header(),
                sock: 0,
                cookie: 0,
                index,
                status: 0,
                hop_limit: 0,
                news: news as u8,
            },
        );
    }
}

#[inline(always)]
fn header() -> Header {
    Header {
        time: task::now(),
        kind: RecordKind::Answer as u16,
        data_len: 0,
        reserved: 0,
    }
}

#[inline(always)]
fn send(sk: *mut bpf_sock, cookie: u64, answer: Answer) {
    let Some(mut entry) = transport::reserve::<Answer>() else {
        counters::add(Loss::AnswerRing, 1);
        return;
    };
    // SAFETY: reserved memory of this type, all of which is written before it is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    let sock = super::memory::number(sk, core::cell::Cell::from_mut(&mut record.sock));
    *record = answer;
    record.sock = sock;
    record.cookie = cookie;
    entry.submit(0);
}
