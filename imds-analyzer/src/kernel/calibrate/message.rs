//! Sockets and messages: where old kernels have them, or not at all.

use anyhow::{Context as _, Result, ensure};
use imds_analyzer_ebpf::abi::send::SendSettings;

use super::{
    super::constants,
    Dump,
    connection::{Connection, FLAGS, Sent},
};

/// Whether the sock is where it is looked for.
pub(super) fn check_sock(sock: Dump<'_>, settings: &SendSettings, connection: &Connection) -> Result<()> {
    const AF_INET: u16 = 2;
    const LOCALHOST: [u8; 4] = [127, 0, 0, 1];
    let common = &settings.common;
    ensure!(
        sock.u16(common.sock_dport) == Some(connection.destination_port.to_be())
            && sock.u16(settings.sock_num) == Some(connection.source_port)
            && sock.u16(common.sock_family) == Some(AF_INET)
            && sock.array(common.sock_daddr) == Some(LOCALHOST)
            && sock.array(settings.sock_rcv_saddr) == Some(LOCALHOST),
        "struct sock is not as in Linux 4.14 to 5.10, or the kprobe was not run"
    );
    Ok(())
}

/// Checks a message of several segments, and learns how the kernel marks such.
pub(super) fn learn(message: Dump<'_>, iovec: Dump<'_>, settings: &mut SendSettings, sent: &Sent) -> Result<()> {
    /// `count` stands between the offset and the segments.
    const COUNT: u32 = 32;
    ensure!(
        message.u64(settings.msg_name) == Some(0)
            && message.u64(settings.iter_offset) == Some(0)
            && message.u64(COUNT) == Some(sent.len())
            && message.u64(settings.iter_segment_count) == Some(sent.segments.len() as u64),
        "struct msghdr is not as in Linux 4.14 to 5.10"
    );
    for (index, (address, len)) in (0_u32..).zip(&sent.segments) {
        ensure!(
            iovec.u64(index * 16) == Some(*address) && iovec.u64(index * 16 + 8) == Some(*len),
            "the segments of a message are not where they are looked for"
        );
    }
    let tag = message.u8(settings.iter_type).map_or(0, u32::from) & settings.tag_mask;
    settings.tag_iovec = tag;
    // Without it, what the kernel itself sends is not readable, and said to be so.
    settings.tag_kvec = constants::kvec_tag(tag).unwrap_or(settings.tag_kvec);
    Ok(())
}

/// Checks a message of one segment, which newer kernels mark otherwise.
pub(super) fn learn_buffer(message: Dump<'_>, settings: &mut SendSettings, sent: &Sent) -> Result<()> {
    // 5.8 put a field before them (commit 1f466e1f15cf).
    let places = [settings.msg_flags, settings.msg_flags + 8];
    let is_there = |at: &u32| {
        message
            .u32(*at)
            .is_some_and(|flags| flags & FLAGS as u32 == FLAGS as u32)
    };
    settings.msg_flags = places
        .into_iter()
        .find(is_there)
        .context("the flags of a message are not where they are looked for")?;
    let tag = message.u8(settings.iter_type).map_or(0, u32::from) & settings.tag_mask;
    if tag != settings.tag_iovec {
        let address = sent.segments.first().map(|(address, _)| *address);
        ensure!(
            message.u64(settings.iter_buffer) == address,
            "a message of one segment is not as in Linux 4.14 to 5.10"
        );
        settings.tag_buffer = tag;
    }
    Ok(())
}
