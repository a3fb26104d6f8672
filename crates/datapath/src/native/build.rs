//! Builds frames as a sender does, with complete checksums.

use std::vec::Vec;

use beeline_abi::ip::proto;
use beeline_abi::{GATEWAY_MAC, Ip, Mac};

/// The transport header of a packet. Ports and other numbers are in host byte
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Control bits.
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number.
        acknowledged: u32,
    },
    /// UDP (RFC 768).
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// Echo request or reply (RFC 792, RFC 4443).
    Echo {
        /// Reply rather than request.
        reply: bool,
        /// Identifier.
        id: u16,
    },
    /// An ICMP error that quotes `payload` (an IP packet).
    IcmpError {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Second word of the header (MTU or pointer), host byte order.
        word: u32,
    },
    /// Any other protocol, by number, without a header of its own.
    Other(u8),
}

/// A packet to build. `src` and `dst` determine the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Ethernet source.
    pub mac_src: Mac,
    /// Ethernet destination.
    pub mac_dst: Mac,
    /// Source.
    pub src: Ip,
    /// Destination.
    pub dst: Ip,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 "don't fragment".
    pub dont_fragment: bool,
    /// The transport header.
    pub transport: Transport,
    /// Bytes after the transport header.
    pub payload: Vec<u8>,
}

impl Build {
    /// A packet from a pod to its gateway, TTL 64.
    pub fn new(src: Ip, dst: Ip, transport: Transport) -> Build {
        Build {
            mac_src: Mac([2, 0, 0, 0, 0, 1]),
            mac_dst: GATEWAY_MAC,
            src,
            dst,
            ttl: 64,
            dont_fragment: true,
            transport,
            payload: Vec::new(),
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend_from_slice(&self.mac_dst.0);
        frame.extend_from_slice(&self.mac_src.0);
        frame.extend_from_slice(if self.src.is_v4() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// The IP packet alone.
    pub fn packet(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let mut packet = self.ip_header(transport.len());
        packet.extend(transport);
        packet
    }

    /// The protocol number.
    pub fn protocol(&self) -> u8 {
        match (&self.transport, self.src.is_v4()) {
            (Transport::Tcp { .. }, _) => proto::TCP,
            (Transport::Udp { .. }, _) => proto::UDP,
            (Transport::Echo { .. } | Transport::IcmpError { .. }, true) => proto::ICMP,
            (Transport::Echo { .. } | Transport::IcmpError { .. }, false) => proto::ICMPV6,
            (Transport::Other(number), _) => *number,
        }
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        let mut header = Vec::new();
        if !self.src.is_v4() {
            header.extend_from_slice(&[0x60, 0, 0, 0]);
            header.extend_from_slice(&(payload as u16).to_be_bytes());
            header.extend_from_slice(&[self.protocol(), self.ttl]);
            header.extend_from_slice(&self.src.octets());
            header.extend_from_slice(&self.dst.octets());
            return header;
        }
        header.extend_from_slice(&[0x45, 0]);
        header.extend_from_slice(&(payload as u16 + 20).to_be_bytes());
        header.extend_from_slice(&[0, 0, if self.dont_fragment { 0x40 } else { 0 }, 0]);
        header.extend_from_slice(&[self.ttl, self.protocol(), 0, 0]);
        header.extend_from_slice(&self.src.octets()[12..]);
        header.extend_from_slice(&self.dst.octets()[12..]);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = self.transport_header();
        let header = bytes.len();
        bytes.extend_from_slice(&self.payload);
        let at = match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp { .. } => {
                let length = (bytes.len() as u16).to_be_bytes();
                bytes[4..6].copy_from_slice(&length);
                6
            }
            Transport::Echo { .. } | Transport::IcmpError { .. } => 2,
            Transport::Other(_) => return bytes,
        };
        debug_assert!(header >= at + 2, "the checksum is in the header");
        let sum = transport_checksum(&self.src, &self.dst, self.protocol(), &bytes);
        bytes[at..at + 2].copy_from_slice(&sum);
        bytes
    }

    fn transport_header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        match &self.transport {
            Transport::Tcp { sport, dport, flags, sequence, acknowledged } => {
                header.extend_from_slice(&sport.to_be_bytes());
                header.extend_from_slice(&dport.to_be_bytes());
                header.extend_from_slice(&sequence.to_be_bytes());
                header.extend_from_slice(&acknowledged.to_be_bytes());
                header.extend_from_slice(&[0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Transport::Udp { sport, dport } => {
                header.extend_from_slice(&sport.to_be_bytes());
                header.extend_from_slice(&dport.to_be_bytes());
                header.extend_from_slice(&[0; 4]);
            }
            Transport::Echo { reply, id } => {
                let kind = match (self.src.is_v4(), reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                header.extend_from_slice(&[kind, 0, 0, 0]);
                header.extend_from_slice(&id.to_be_bytes());
                header.extend_from_slice(&[0, 1]);
            }
            Transport::IcmpError { kind, code, word } => {
                header.extend_from_slice(&[*kind, *code, 0, 0]);
                header.extend_from_slice(&word.to_be_bytes());
            }
            Transport::Other(_) => {}
        }
        header
    }
}

/// The Internet checksum (RFC 1071) of consecutive parts, in network byte order.
/// All parts but the last must have an even length.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The checksum of a transport header and its payload; 0 if `bytes` already hold
/// the correct checksum. ICMP has no pseudo-header (RFC 792), ICMPv6 has one (RFC 4443).
pub fn transport_checksum(src: &Ip, dst: &Ip, protocol: u8, bytes: &[u8]) -> [u8; 2] {
    if protocol == proto::ICMP {
        return checksum(&[bytes]);
    }
    let length = (bytes.len() as u32).to_be_bytes();
    let (src, dst) = (src.octets(), dst.octets());
    let from = if Ip::from_octets(src).is_v4() { 12 } else { 0 };
    let sum = checksum(&[&src[from..], &dst[from..], &length, &[0, 0, 0, protocol], bytes]);
    if protocol == proto::UDP && sum == [0, 0] && bytes.get(6..8) == Some(&[0, 0]) {
        return [0xff, 0xff];
    }
    sum
}

/// Checks the lengths and checksums of an unfragmented frame without IP options.
///
/// # Errors
///
/// A description of the first mismatch.
pub fn check(frame: &[u8]) -> Result<(), &'static str> {
    let packet = frame.get(14..).ok_or("shorter than an Ethernet header")?;
    let (src, dst, protocol, header) = addresses(packet)?;
    if header == 20 && checksum(&[&packet[..20]]) != [0, 0] {
        return Err("IPv4 header checksum");
    }
    let transport = &packet[header..];
    let known = matches!(protocol, proto::TCP | proto::UDP | proto::ICMP | proto::ICMPV6);
    let absent = protocol == proto::UDP && header == 20 && transport.get(6..8) == Some(&[0, 0]);
    if known && !absent && transport_checksum(&src, &dst, protocol, transport) != [0, 0] {
        return Err("transport checksum");
    }
    Ok(())
}

/// Source, destination, protocol and header length in bytes of an IP packet
/// without options.
///
/// # Errors
///
/// A description, if the packet is truncated or its length does not match.
pub fn addresses(packet: &[u8]) -> Result<(Ip, Ip, u8, usize), &'static str> {
    let v4 = packet.first().map(|byte| byte >> 4) == Some(4);
    if v4 && packet.len() >= 20 {
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        if total != packet.len() || packet[0] != 0x45 {
            return Err("IPv4 length");
        }
        let word = |at: usize| Ip::from_v4([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        return Ok((word(12), word(16), packet[9], 20));
    }
    if !v4 && packet.len() >= 40 {
        if usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40 != packet.len() {
            return Err("IPv6 length");
        }
        let ip = |at: usize| Ip::from_octets(std::array::from_fn(|i| packet[at + i]));
        return Ok((ip(8), ip(24), packet[6], 40));
    }
    Err("shorter than an IP header")
}
