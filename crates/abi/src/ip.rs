//! Addresses and ports as stored in tables and packets.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address of either family: 16 bytes in network byte order, IPv4 as
/// IPv4-mapped (`::ffff:a.b.c.d`). Four words rather than 16 bytes, because eBPF
/// copies and compares aligned words.
#[repr(C)]
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Ip(pub [u32; 4]);

/// The third word of an IPv4-mapped address, `00 00 ff ff` in memory.
pub const MAPPED_WORD: u32 = 0xffff_u32.to_be();

impl Ip {
    /// `::`, also "no address" where a field is optional.
    pub const UNSPECIFIED: Ip = Ip([0; 4]);

    /// The mapped form of an IPv4 address, given as the word in the packet
    /// (network byte order in memory).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Ip {
        Ip([0, 0, MAPPED_WORD, word])
    }

    /// The mapped form of an IPv4 address from its four octets.
    pub const fn from_v4(octets: [u8; 4]) -> Ip {
        Ip::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// An IPv6 address (or an already mapped IPv4 one) from its octets.
    pub const fn from_octets(o: [u8; 16]) -> Ip {
        Ip([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// The sixteen octets, in network byte order.
    pub fn octets(self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(self.as_bytes());
        out
    }

    /// True for an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED_WORD
    }

    /// The word of an IPv4 address, network byte order in memory (the last word
    /// of an IPv6 address).
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// True for `::` and nothing else.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Ip {
        match ip {
            IpAddr::V4(v4) => Ip::from_v4(v4.octets()),
            IpAddr::V6(v6) => Ip::from_octets(v6.octets()),
        }
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> IpAddr {
        if ip.is_v4() {
            IpAddr::V4(Ipv4Addr::from(ip.0[3].to_ne_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(ip.octets()))
        }
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A transport port (or an ICMP echo identifier) in network byte order: the
/// 16 bits exactly as in the packet.
#[repr(transparent)]
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Port(pub u16);

impl Port {
    /// From a number in host byte order.
    pub const fn new(port: u16) -> Port {
        Port(port.to_be())
    }

    /// The number in host byte order.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// An Ethernet address (IEEE 802 EUI-48), in wire order.
#[repr(transparent)]
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Parses `aa:bb:cc:dd:ee:ff`, in either case. `None` for anything else.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next()?;
            let hex = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| hex)?;
        }
        parts.next().is_none().then_some(Mac(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IP protocol numbers (IANA) that the datapath distinguishes.
pub mod proto {
    #![allow(missing_docs, reason = "each is its own IANA keyword")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_mac_is_six_pairs_of_hexadecimal_digits() {
        assert_eq!(Mac::parse("02:be:e1:00:0A:ff"), Some(Mac([2, 0xbe, 0xe1, 0, 10, 255])));
        for bad in [
            "",
            "02:be:e1:00:00",
            "02:be:e1:00:00:01:02",
            "2:be:e1:00:00:01",
            "+2:be:e1:00:00:01",
            "g2:be:e1:00:00:01",
        ] {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
    }
}
