//! Where the send tap finds what it reads: from BTF, else the places that Linux 4.14 to 5.10 have in common, which
//! [`super::calibrate`] then checks.

use imds_analyzer_ebpf::{
    abi::{
        Settings,
        send::{NO_TAG, SendSettings},
    },
    target,
};

use super::btf::{Btf, BtfError};

/// `WRITE` of the iterator's direction, where that is a part of its type (until 5.13).
const DIRECTION: u32 = 1;

/// Looks every field up; the error names the first that is missing.
pub fn from_btf(btf: &Btf, common: Settings) -> Result<SendSettings, BtfError> {
    let iterator = btf.field("msghdr", "msg_iter")?;
    let field = |name| btf.field("iov_iter", name).map(|offset| iterator + offset);
    // Renamed in 6.4 (commit de4f5fed3f23).
    let iter_segments = field("iov").or_else(|_| field("__iov"))?;
    // Before 5.14 (commit 8cd54c1c8480) direction and kind were one field, and its kinds were bits.
    let (iter_type, tag_mask) = match field("iter_type") {
        Ok(offset) => (offset, 0xff),
        Err(_) => (field("type")?, 0xff & !DIRECTION),
    };
    let tag = |name| btf.enum_value("iter_type", name);
    Ok(SendSettings {
        common,
        sock_num: btf.field("sock_common", "skc_num")?,
        sock_rcv_saddr: btf.field("sock_common", "skc_rcv_saddr")?,
        sock_v6_rcv_saddr: btf.field("sock_common", "skc_v6_rcv_saddr")?,
        msg_name: btf.field("msghdr", "msg_name")?,
        msg_flags: btf.field("msghdr", "msg_flags")?,
        iter_type,
        iter_offset: field("iov_offset")?,
        iter_segments,
        iter_segment_count: field("nr_segs")?,
        // One buffer instead of segments: since 6.0.
        iter_buffer: field("ubuf").unwrap_or(iter_segments),
        tag_mask,
        tag_iovec: tag("ITER_IOVEC")?,
        tag_kvec: tag("ITER_KVEC")?,
        tag_buffer: tag("ITER_UBUF").unwrap_or(NO_TAG),
        ..target()
    })
}

/// Without BTF. What depends on a kernel's configuration is 0, and learnt.
pub fn common_to_old_kernels() -> SendSettings {
    SendSettings {
        common: Settings {
            sock_daddr: 0,
            sock_dport: 12,
            sock_family: 16,
            sock_net: 48,
            sock_v6_daddr: 56,
            ..Settings::default()
        },
        sock_rcv_saddr: 4,
        sock_num: 14,
        sock_v6_rcv_saddr: 72,
        msg_name: 0,
        iter_type: 16,
        iter_offset: 24,
        iter_segments: 40,
        iter_segment_count: 48,
        iter_buffer: 40,
        msg_flags: 72,
        tag_mask: 0xff & !DIRECTION,
        tag_iovec: NO_TAG,
        tag_kvec: NO_TAG,
        tag_buffer: NO_TAG,
        ..target()
    }
}

/// The tags of segments in the kernel's memory, by those of a process's: 4.20 moved them (commit 00e23707442a).
pub fn kvec_tag(iovec: u32) -> Option<u32> {
    match iovec {
        0 => Some(2),
        4 => Some(8),
        _ => None,
    }
}

/// What is looked for.
fn target() -> SendSettings {
    let [a, b, c, d] = std::array::from_fn(|word| {
        let bytes: [u8; 4] = std::array::from_fn(|byte| target::IPV6[word * 4 + byte]);
        u32::from_ne_bytes(bytes)
    });
    SendSettings {
        target_v4: u32::from_ne_bytes(target::IPV4),
        target_v6: [a, b, c, d],
        target_port: target::PORT.to_be().into(),
        ..SendSettings::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

    use super::{super::offsets, *};

    #[test]
    fn this_kernel_has_every_field() {
        let btf = Btf::from_kernel().unwrap();
        let settings = from_btf(&btf, offsets::from_btf(&btf).unwrap()).unwrap();
        assert_eq!(
            (settings.sock_num, settings.sock_rcv_saddr, settings.msg_name),
            (14, 4, 0)
        );
        assert_ne!(settings.tag_iovec, settings.tag_kvec);
        assert_eq!(settings.target_port, 0x5000);
    }
}
