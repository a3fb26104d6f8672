//! Verifies the checksums of captured frames, after reassembly of fragments.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::traffic::packet::{Fragment, ICMP, ICMPV6, IpPacket, TCP, UDP, internet_checksum, sum, u16_at};

/// Number of correct packets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Right {
    pub ipv4_headers: usize,
    pub tcp: usize,
    pub udp: usize,
    pub icmp: usize,
    pub icmpv6: usize,
    /// Number of these that were fragmented.
    pub reassembled: usize,
}

/// Takes the frames of one capture point in order.
#[derive(Default)]
pub struct Verifier {
    pub right: Right,
    fragments: HashMap<Key, Parts>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    id: u32,
}

#[derive(Default)]
struct Parts {
    bytes: Vec<u8>,
    received: usize,
    total: Option<usize>,
}

impl Verifier {
    /// Checks a frame, or the packet that it completes.
    pub fn take(&mut self, frame: &[u8]) -> Result<(), String> {
        let Some(packet) = IpPacket::of_frame(frame) else { return Ok(()) };
        if packet.src.is_ipv4() {
            zero("IPv4 header", sum(packet.header))?;
            self.right.ipv4_headers += 1;
        }
        let Some(fragment) = packet.fragment else { return self.transport(&packet, packet.payload) };
        let key = Key { src: packet.src, dst: packet.dst, proto: packet.proto, id: fragment.id };
        self.fragments.entry(key).or_default().take(fragment, packet.payload);
        let key = Key { src: packet.src, dst: packet.dst, proto: packet.proto, id: fragment.id };
        if self.fragments[&key].is_whole() {
            let whole = self.fragments.remove(&key).unwrap_or_default().bytes;
            self.transport(&packet, &whole)?;
            self.right.reassembled += 1;
        }
        Ok(())
    }

    /// Packets with missing fragments.
    pub fn incomplete(&self) -> usize {
        self.fragments.len()
    }

    fn transport(&mut self, packet: &IpPacket<'_>, payload: &[u8]) -> Result<(), String> {
        let with_pseudo = packet.pseudo_sum(payload.len()) + sum(payload);
        match packet.proto {
            TCP => zero("TCP", with_pseudo).map(|()| self.right.tcp += 1),
            UDP if u16_at(payload, 6) == 0 => Err("a UDP datagram without a checksum".into()),
            UDP => zero("UDP", with_pseudo).map(|()| self.right.udp += 1),
            ICMP => zero("ICMP", sum(payload)).and_then(|()| quoted(payload)).map(|()| self.right.icmp += 1),
            ICMPV6 => zero("ICMPv6", with_pseudo).map(|()| self.right.icmpv6 += 1),
            other => Err(format!("protocol {other} was not expected here")),
        }
    }
}

impl Parts {
    fn take(&mut self, fragment: Fragment, payload: &[u8]) {
        let end = fragment.offset + payload.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[fragment.offset..end].copy_from_slice(payload);
        self.received += payload.len();
        if !fragment.more {
            self.total = Some(end);
        }
    }

    fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.received >= total)
    }
}

/// The IP header quoted in an ICMP error has its own checksum.
fn quoted(message: &[u8]) -> Result<(), String> {
    match (message[0], message.get(8..28)) {
        (3 | 11 | 12, Some(header)) => zero("quoted IPv4 header", sum(header)),
        _ => Ok(()),
    }
}

/// The sum over data that includes a correct checksum is zero.
fn zero(what: &str, sum: u64) -> Result<(), String> {
    match internet_checksum(sum) {
        0 => Ok(()),
        rest => Err(format!("wrong checksum: {what} (off by {rest:#06x})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A captured DNS query: IPv4, UDP.
    const FRAME: &str = "02bee10000010242ac1e00c80800\
        4500003412340000401125250af401020af40203\
        9c40003500205a4b00112233445566778899aabbccddeeff0011223344556677";

    fn frame() -> Vec<u8> {
        let digits: Vec<u8> = FRAME.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let mut frame: Vec<u8> = digits.chunks(2).map(byte).collect();
        // Set the checksums here: the test is about changed bytes.
        frame[24..26].fill(0);
        let header = internet_checksum(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[40..42].fill(0);
        let packet = IpPacket::of_frame(&frame).unwrap();
        let udp = internet_checksum(packet.pseudo_sum(packet.payload.len()) + sum(packet.payload));
        frame[40..42].copy_from_slice(&udp.to_be_bytes());
        frame
    }

    #[test]
    fn unit_any_changed_byte_is_detected() {
        let mut verifier = Verifier::default();
        verifier.take(&frame()).unwrap();
        assert_eq!(verifier.right, Right { ipv4_headers: 1, udp: 1, ..Right::default() });
        // Starting at the identification field: length and protocol would
        // change the parsing.
        for at in (18..20).chain(22..23).chain(24..frame().len()) {
            let mut frame = frame();
            frame[at] ^= 0x10;
            assert!(verifier.take(&frame).is_err(), "byte {at}");
        }
    }

    #[test]
    fn unit_fragments_are_checked_after_reassembly() {
        let whole = frame();
        let fragment = |from: usize, to: usize, target: u16| {
            let mut frame = whole[..34].to_vec();
            frame.extend(&whole[34 + from..34 + to]);
            frame[16..18].copy_from_slice(&(20 + (to - from) as u16).to_be_bytes());
            frame[20..22].copy_from_slice(&target.to_be_bytes());
            frame[24..26].fill(0);
            let checksum = internet_checksum(sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            frame
        };
        let (first, mut second) = (fragment(0, 16, 0x2000), fragment(16, 32, 2));
        let mut verifier = Verifier::default();
        verifier.take(&first).unwrap();
        assert_eq!((verifier.incomplete(), verifier.right.udp), (1, 0));
        verifier.take(&second).unwrap();
        assert_eq!((verifier.incomplete(), verifier.right.reassembled), (0, 1));
        second[40] ^= 1;
        verifier.take(&first).unwrap();
        verifier.take(&second).unwrap_err();
    }
}
