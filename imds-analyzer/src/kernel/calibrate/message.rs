//! Sockets and messages: their fields are at known offsets, or calibration fails.

use anyhow::{Context as _, Result, ensure};
use imds_analyzer_ebpf::abi::legacy::Settings;

use super::{
    super::constants::Tags,
    Dump,
    connection::{Connection, FLAGS, Sent},
};

/// Fails if the fields of the sock are not at the expected offsets.
pub(super) fn check_sock(sock: Dump<'_>, settings: &Settings, connection: &Connection) -> Result<()> {
    const AF_INET: u16 = 2;
    const LOCALHOST: [u8; 4] = [127, 0, 0, 1];
    let offsets = &settings.offsets;
    ensure!(
        sock.u16(offsets.sock_dport) == Some(connection.destination_port.to_be())
            && sock.u16(settings.sock_num) == Some(connection.source_port)
            && sock.u16(offsets.sock_family) == Some(AF_INET)
            && sock.array(offsets.sock_daddr) == Some(LOCALHOST)
            && sock.array(settings.sock_rcv_saddr) == Some(LOCALHOST),
        "struct sock is not laid out as in Linux 4.14 to 7.2, or the kprobe did not run"
    );
    Ok(())
}

/// Finds the offset of the sequence number of the next byte to be written. Between the two dumps of the same sock,
/// `waiting` bytes were written: they moved only this number, away from the value that other fields still hold.
pub(super) fn find_next_seq(before: Dump<'_>, after: Dump<'_>, waiting: usize) -> Option<u32> {
    let stays = |seq: u32| {
        let is_there = |&at: &u32| before.u32(at) == Some(seq) && after.u32(at) == Some(seq);
        before.places(4).any(|at| is_there(&at))
    };
    before.only(4, |at| {
        let (Some(from), Some(to)) = (before.u32(at), after.u32(at)) else {
            return false;
        };
        to.wrapping_sub(from) as usize == waiting && stays(from)
    })
}

/// Learns the offset of the segments, and the kernel's mark for them, from a message of several segments.
pub(super) fn learn(message: Dump<'_>, settings: &mut Settings, sent: &Sent) -> Result<()> {
    // The byte count comes before the segments until 6.3, and behind them since.
    let segments = [(32, 40), (40, 32)]
        .into_iter()
        .find(|&(count, _)| message.u64(count) == Some(sent.len()))
        .map(|(_, segments)| segments);
    let (Some(segments), Some(0), Some(0)) = (
        segments,
        message.u64(settings.msg_name),
        message.u64(settings.iter_offset),
    ) else {
        anyhow::bail!("struct msghdr is not laid out as in Linux 4.14 to 7.2");
    };
    ensure!(
        message.u64(settings.iter_segment_count) == Some(sent.segments.len() as u64),
        "the number of segments is not where Linux 4.14 to 7.2 has it"
    );
    settings.iter_segments = segments;
    settings.iter_buffer = segments;
    let kind = message
        .u32(settings.iter_type)
        .context("a message ends before its segments")?;
    // With numbers, the direction is a byte of its own, which is set in a send.
    let tags = if kind >> 8 == 0 { Tags::Bits } else { Tags::Numbers };
    settings.tag_mask = tags.mask();
    settings.tag_iovec = kind & settings.tag_mask;
    // Without this tag, bytes that the kernel itself sends cannot be read, and are reported as such.
    settings.tag_kvec = tags.kvec(settings.tag_iovec).unwrap_or(settings.tag_kvec);
    Ok(())
}

/// Checks that the segments are at the offsets that were learnt.
pub(super) fn check_segments(iovec: Dump<'_>, sent: &Sent) -> Result<()> {
    for (index, (address, len)) in (0_u32..).zip(&sent.segments) {
        ensure!(
            iovec.u64(index * 16) == Some(*address) && iovec.u64(index * 16 + 8) == Some(*len),
            "the segments of a message are not where they are expected"
        );
    }
    Ok(())
}

/// Learns the offset of the flags from a message with [`FLAGS`].
pub(super) fn learn_flags(message: Dump<'_>, settings: &mut Settings) -> Result<()> {
    // Until 5.7; then behind one more field (commit 1f466e1f15cf); in later kernels before the length of the control
    // data.
    const PLACES: [u32; 3] = [72, 80, 68];
    let is_there = |at: &u32| {
        message
            .u32(*at)
            .is_some_and(|flags| flags & FLAGS.bits() == FLAGS.bits())
    };
    settings.msg_flags = PLACES
        .into_iter()
        .find(is_there)
        .context("the flags of a message are not where they are expected")?;
    Ok(())
}

/// Learns from a message of one segment, which newer kernels mark differently: write(2) since 6.0, send(2) since 6.4.
pub(super) fn learn_buffer(message: Dump<'_>, settings: &mut Settings, sent: &Sent) -> Result<()> {
    let tag = message.u8(settings.iter_type).map_or(0, u32::from) & settings.tag_mask;
    if tag != settings.tag_iovec {
        let address = sent.segments.first().map(|(address, _)| *address);
        ensure!(
            message.u64(settings.iter_buffer) == address,
            "a message of one segment is not laid out as in Linux 4.14 to 7.2"
        );
        settings.tag_buffer = tag;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn the_next_sequence_number_is_what_moved_alone() {
        let before = dump(&[1, 500, 500, 7, 500, 20]);
        let find = |after: &[u32]| find_next_seq(Dump(&before), Dump(&dump(after)), 13);
        assert_eq!(find(&[1, 500, 513, 7, 500, 20]), Some(8));
        // All of them moved: no bytes wait.
        assert_eq!(find(&[1, 513, 513, 7, 513, 20]), None);
        // A counter moved by the same amount, but no field kept its old value.
        assert_eq!(find(&[1, 500, 500, 20, 500, 20]), None);
        // Two candidates.
        assert_eq!(find(&[1, 513, 513, 7, 500, 20]), None);
        assert_eq!(find(&[1, 500, 500, 7, 500, 20]), None);
    }
}
