//! What counts as the Instance Metadata Service: two addresses, one port, one protocol.
//!
//! Source: Amazon EC2 User Guide, "Access instance metadata for an EC2 instance".

/// `169.254.169.254`.
pub const IPV4: [u8; 4] = [169, 254, 169, 254];

/// [`IPV4`] in the first four of sixteen bytes.
pub const IPV4_IN_16: [u8; 16] = [169, 254, 169, 254, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `fd00:ec2::254`, served on Nitro instances with `HttpProtocolIpv6=enabled`.
pub const IPV6: [u8; 16] = [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54];

/// IMDS speaks plain HTTP on port 80 only.
pub const PORT: u16 = 80;

/// True if `address` is IMDS's IPv4 address.
#[inline(always)]
pub const fn is_imds_v4(address: [u8; 4]) -> bool {
    u32::from_ne_bytes(address) == u32::from_ne_bytes(IPV4)
}

/// True if `address` is IMDS's IPv6 address, or its IPv4 address in mapped form (`::ffff:169.254.169.254`).
#[inline(always)]
pub const fn is_imds_v6(address: [u8; 16]) -> bool {
    let address = u128::from_be_bytes(address);
    address == u128::from_be_bytes(IPV6) || address == (0xffff << 32 | u32::from_be_bytes(IPV4) as u128)
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_are_the_documented_ones() {
        assert_eq!(Ipv4Addr::from(IPV4), Ipv4Addr::new(169, 254, 169, 254));
        assert_eq!(Ok(Ipv6Addr::from(IPV6)), "fd00:ec2::254".parse());
    }

    #[test]
    fn mapped_address_is_imds_and_its_neighbours_are_not() {
        assert!(is_imds_v4(IPV4));
        assert!(!is_imds_v4([169, 254, 169, 253]));
        for (text, expected) in [
            ("::ffff:169.254.169.254", true),
            ("fd00:ec2::254", true),
            ("::169.254.169.254", false),
            ("fd00:ec2::253", false),
            ("::1", false),
        ] {
            let address: Ipv6Addr = text.parse().expect("a literal address");
            assert_eq!(is_imds_v6(address.octets()), expected, "{text}");
        }
    }
}
