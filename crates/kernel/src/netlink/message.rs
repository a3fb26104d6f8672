//! Encoding and decoding of netlink messages (netlink(7)). Integers are in
//! host byte order unless the attribute says otherwise.
//!
//! Attributes with an unknown type or length are skipped and are never an
//! error, because newer kernels add attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use beeline_abi::Mac;

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// A request that is being built.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a type (`RTM_*`) with flags (`NLM_F_*`) and the fixed
    /// header of its family (`struct ifinfomsg`, `struct rtmsg`, ...).
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Message { bytes };
        message.pad();
        message
    }

    /// Appends an attribute.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Message {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// Appends a 32-bit integer.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends a string and its terminating zero byte.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends an IP address: 4 or 16 bytes, in network byte order.
    pub fn ip(&mut self, kind: u16, ip: IpAddr) -> &mut Message {
        match ip {
            IpAddr::V4(v4) => self.bytes(kind, &v4.octets()),
            IpAddr::V6(v6) => self.bytes(kind, &v6.octets()),
        }
    }

    /// Appends a nested attribute (`NLA_F_NESTED`), filled by `fill`.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Message {
        let start = self.bytes.len();
        self.bytes(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Appends bytes without an attribute header.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Message {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Sets length and sequence number and returns the whole message.
    pub fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A received message.
#[doc(alias = "nlmsghdr")]
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Sequence number of the request.
    pub sequence: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Stops at the first truncated one.
pub fn received(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let length = read_u32(header)? as usize;
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: read_u16(&header[4..])?,
            flags: read_u16(&header[6..])?,
            sequence: read_u32(&header[8..])?,
            payload,
        })
    })
}

/// The attributes in `bytes`: type (without flags) and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = read_u16(bytes)? as usize;
        let kind = read_u16(bytes.get(2..)?)? & KIND_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attributes after a fixed header of `fixed` bytes.
pub fn attributes_after(payload: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(payload.get(fixed..).unwrap_or_default())
}

/// The first two bytes as an integer.
pub fn read_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

/// The first four bytes as an integer.
pub fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

/// The text before the terminating zero byte.
pub fn read_string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An IP address of 4 or 16 bytes.
pub fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A MAC address of 6 bytes.
pub fn read_mac(bytes: &[u8]) -> Option<Mac> {
    (bytes.len() == 6).then(|| bytes.first_chunk::<6>().map(|octets| Mac(*octets)))?
}

/// `AF_INET` or `AF_INET6`.
pub fn family(ip: &IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unit_a_message_is_read_back_as_written() {
        let mut message = Message::new(24, 5, &[7; 6]);
        message.u32(4, 77).string(3, "eth0").nested(9, |inner| {
            inner.ip(1, "10.0.0.1".parse().unwrap());
        });
        let bytes = message.finish(42).to_vec();
        let all: Vec<_> = received(&bytes).collect();
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (24, 5, 42));
        let found: Vec<_> = attributes_after(all[0].payload, 8).collect();
        assert_eq!(found[0], (4, &77u32.to_ne_bytes()[..]));
        assert_eq!((found[1].0, read_string(found[1].1)), (3, "eth0".to_owned()));
        let inner: Vec<_> = attributes(found[2].1).collect();
        assert_eq!(read_ip(inner[0].1), Some("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn unit_no_bytes_make_the_reader_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in received(&bytes) {
                prop_assert!(attributes_after(message.payload, 12).count() <= bytes.len());
            }
        }
    }
}
