//! Offsets of the fields that the send tap reads: from BTF, or else those that Linux 4.14 to 7.2 have in common, which
//! [`super::calibrate`] then checks and completes.

use imds_analyzer_ebpf::{
    abi::{
        Offsets,
        legacy::{NO_TAG, Settings},
    },
    target,
};

use super::btf::{Btf, BtfError};

/// How a kernel marks the kind of memory that an iterator walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Until 5.13 (commit 8cd54c1c8480): bits of one field, which also holds the direction.
    Bits,
    /// Since then: numbers in a byte of their own, with the direction in another.
    Numbers,
}

impl Tags {
    /// The bits of the field's first byte that hold the mark.
    pub const fn mask(self) -> u32 {
        /// `WRITE`.
        const DIRECTION: u32 = 1;
        match self {
            Self::Bits => 0xff & !DIRECTION,
            Self::Numbers => 0xff,
        }
    }

    /// The mark of segments in kernel memory, given the mark of segments in process memory (`enum iter_type`).
    pub const fn kvec(self, iovec: u32) -> Option<u32> {
        match (self, iovec) {
            (Self::Bits, 0) => Some(2),
            // Since 4.20 (commit 00e23707442a).
            (Self::Bits, 4) => Some(8),
            (Self::Numbers, 0) => Some(1),
            // Since 6.7 (commit f1982740f5e7).
            (Self::Numbers, 1) => Some(3),
            _ => None,
        }
    }
}

/// Looks every field up; the error names the first that is missing.
pub fn from_btf(btf: &Btf, offsets: Offsets) -> Result<Settings, BtfError> {
    let iterator = btf.field("msghdr", "msg_iter")?;
    let field = |name| btf.field("iov_iter", name).map(|offset| iterator + offset);
    // Renamed in 6.4 (commit de4f5fed3f23).
    let iter_segments = field("iov").or_else(|_| field("__iov"))?;
    let (iter_type, tags) = match field("iter_type") {
        Ok(offset) => (offset, Tags::Numbers),
        Err(_) => (field("type")?, Tags::Bits),
    };
    let tag = |name| btf.enum_value("iter_type", name);
    Ok(Settings {
        offsets,
        sock_num: btf.field("sock_common", "skc_num")?,
        sock_rcv_saddr: btf.field("sock_common", "skc_rcv_saddr")?,
        sock_v6_rcv_saddr: btf.field("sock_common", "skc_v6_rcv_saddr")?,
        msg_name: btf.field("msghdr", "msg_name")?,
        msg_flags: btf.field("msghdr", "msg_flags")?,
        iter_type,
        iter_offset: field("iov_offset")?,
        iter_segments,
        iter_segment_count: field("nr_segs")?,
        // Since 6.0 an iterator can have one buffer instead of segments.
        iter_buffer: field("ubuf").unwrap_or(iter_segments),
        tag_mask: tags.mask(),
        tag_iovec: tag("ITER_IOVEC")?,
        tag_kvec: tag("ITER_KVEC")?,
        tag_buffer: tag("ITER_UBUF").unwrap_or(NO_TAG),
        ..target()
    })
}

/// Settings for a kernel without BTF. An offset that differs between kernels is 0; calibration learns it.
pub fn common_to_all_kernels() -> Settings {
    Settings {
        offsets: Offsets {
            sock_daddr: 0,
            sock_dport: 12,
            sock_family: 16,
            sock_net: 48,
            sock_v6_daddr: 56,
            sock_cookie: 88,
            ..Offsets::default()
        },
        sock_rcv_saddr: 4,
        sock_num: 14,
        sock_v6_rcv_saddr: 72,
        msg_name: 0,
        iter_type: 16,
        iter_offset: 24,
        iter_segment_count: 48,
        tag_iovec: NO_TAG,
        tag_kvec: NO_TAG,
        tag_buffer: NO_TAG,
        ..target()
    }
}

/// Settings that hold only the address and port of IMDS.
fn target() -> Settings {
    let [a, b, c, d] = std::array::from_fn(|word| {
        let bytes: [u8; 4] = std::array::from_fn(|byte| target::IPV6[word * 4 + byte]);
        u32::from_ne_bytes(bytes)
    });
    Settings {
        target_v4: u32::from_ne_bytes(target::IPV4),
        target_v6: [a, b, c, d],
        target_port: target::PORT.to_be().into(),
        ..Settings::default()
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
    #[test]
    fn this_kernel_s_marks_are_in_the_table() {
        let btf = Btf::from_kernel().unwrap();
        let settings = from_btf(&btf, offsets::from_btf(&btf).unwrap()).unwrap();
        let tags = [Tags::Bits, Tags::Numbers]
            .into_iter()
            .find(|tags| tags.mask() == settings.tag_mask)
            .unwrap();
        assert_eq!(tags.kvec(settings.tag_iovec), Some(settings.tag_kvec));
    }
}
