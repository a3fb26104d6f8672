//! Parses packets for display and checksum verification.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ETHERNET_BYTES: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// Sum of 16-bit words in network byte order; an odd last byte is the upper
/// half of its word (RFC 1071).
pub fn sum(bytes: &[u8]) -> u64 {
    let words =
        bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low)));
    words.sum()
}

/// The checksum of a sum (RFC 1071): 0 if it includes a correct checksum.
pub fn internet_checksum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An IP packet.
#[derive(Clone, Debug)]
pub struct IpPacket<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    /// Data after the IP header and, in IPv6, after a fragment header.
    pub proto: u8,
    pub header: &'a [u8],
    pub payload: &'a [u8],
    pub fragment: Option<Fragment>,
}

/// Fragment fields of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// Offset in bytes.
    pub offset: usize,
    pub more: bool,
}

impl<'a> IpPacket<'a> {
    /// Parses a frame; none if it is not an IP packet or is truncated.
    pub fn of_frame(frame: &'a [u8]) -> Option<IpPacket<'a>> {
        IpPacket::parse(frame.get(ETHERNET_BYTES..)?, u16_at(frame, 12))
    }

    fn parse(bytes: &'a [u8], ethertype: u16) -> Option<IpPacket<'a>> {
        match ethertype {
            0x0800 => ipv4(bytes),
            0x86dd => ipv6(bytes),
            _ => None,
        }
    }

    /// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1)
    /// for a transport packet of `length` bytes.
    pub fn pseudo_sum(&self, length: usize) -> u64 {
        let addresses = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
            _ => unreachable!("both are of one header"),
        };
        addresses + length as u64 + u64::from(self.proto)
    }
}

fn ipv4(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let header_bytes = (bytes.first()? & 0x0f) as usize * 4;
    let header = bytes.get(..header_bytes.max(20))?;
    let frag_off = u16_at(header, 6);
    let fragment = Fragment {
        id: u16_at(header, 4).into(),
        offset: (frag_off & 0x1fff) as usize * 8,
        more: frag_off & 0x2000 != 0,
    };
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    Some(IpPacket {
        src: address(12).into(),
        dst: address(16).into(),
        ttl: header[8],
        proto: header[9],
        header,
        payload: bytes.get(header_bytes..u16_at(header, 2) as usize)?,
        fragment: (fragment.offset > 0 || fragment.more).then_some(fragment),
    })
}

/// Skips a hop-by-hop header (used by multicast listener reports) and a
/// fragment header; the lab's hosts send no others.
fn ipv6(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let header = bytes.get(..40)?;
    let mut payload = bytes.get(40..40 + u16_at(header, 4) as usize)?;
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
    let (mut proto, mut fragment) = (header[6], None);
    if proto == 0 {
        proto = *payload.first()?;
        payload = payload.get((payload[1] as usize + 1) * 8..)?;
    }
    if proto == 44 {
        let frag_off = u16_at(payload.get(..8)?, 2);
        let id = u32::from_be_bytes(payload[4..8].try_into().unwrap());
        fragment = Some(Fragment { id, offset: (frag_off & 0xfff8) as usize, more: frag_off & 1 != 0 });
        proto = payload[0];
        payload = &payload[8..];
    }
    Some(IpPacket {
        src: address(8).into(),
        dst: address(24).into(),
        ttl: header[7],
        proto,
        header,
        payload,
        fragment,
    })
}

/// One-line summary of a frame.
pub fn describe(frame: &[u8]) -> String {
    let Some(packet) = IpPacket::of_frame(frame) else {
        return format!("ethertype 0x{:04x}, {} bytes", u16_at(frame, 12), frame.len());
    };
    let mut text = format!("{} > {} ttl {}", packet.src, packet.dst, packet.ttl);
    if let Some(Fragment { id, offset, more }) = packet.fragment {
        let _ = write!(text, " fragment {id:#x} at {offset}{}", if more { "+" } else { "" });
    }
    let later = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
    let _ = match packet.proto {
        TCP | UDP if !later && packet.payload.len() >= 8 => ports(&packet, &mut text),
        ICMP | ICMPV6 if !later && packet.payload.len() >= 2 => {
            write!(text, " ICMP type {} code {}", packet.payload[0], packet.payload[1])
        }
        proto => write!(text, " protocol {proto}"),
    };
    let _ = write!(text, ", {} bytes", frame.len());
    text
}

fn ports(packet: &IpPacket<'_>, text: &mut String) -> std::fmt::Result {
    let (sport, dport) = (u16_at(packet.payload, 0), u16_at(packet.payload, 2));
    if packet.proto == UDP {
        return write!(text, " UDP {sport} > {dport}");
    }
    let control = packet.payload.get(13).copied().unwrap_or_default();
    let names = [(0x02, "SYN"), (0x10, "ACK"), (0x08, "PSH"), (0x01, "FIN"), (0x04, "RST")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| control & bit != 0).map(|(_, name)| *name).collect();
    write!(text, " TCP {sport} > {dport} {}", set.join("+"))
}

/// Hex dump in the format of `tcpdump -x`, limited in length.
pub fn hex(bytes: &[u8], bytes_max: usize) -> String {
    let lines = bytes[..bytes.len().min(bytes_max)].chunks(16).zip((0..).step_by(16));
    lines
        .map(|(line, at)| {
            let words: Vec<String> =
                line.chunks(2).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
            format!("        {at:#06x}:  {}\n", words.join(" "))
        })
        .collect()
}
