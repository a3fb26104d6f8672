//! Builds frames that no kernel would send, and sends them with a packet
//! socket.

use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::packet::{IpPacket, UDP, internet_checksum, sum};

pub type Mac = [u8; 6];

const PAYLOAD: &[u8] = b"who am I?";
const SOURCE_PORT: u16 = 40_000;

/// A short UDP datagram; source and destination have the same family.
pub fn udp(mac_src: Mac, mac_dst: Mac, src: IpAddr, dst: IpAddr, port: u16) -> Vec<u8> {
    let length = (8 + PAYLOAD.len()) as u16;
    let mut frame = [mac_dst, mac_src].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => frame.extend(ipv4_header(src, dst, length)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([UDP, 64]);
            frame.extend([src.octets(), dst.octets()].concat());
        }
        _ => panic!("{src} and {dst} are not of one family"),
    }
    let at = frame.len();
    for word in [SOURCE_PORT, port, length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(PAYLOAD);
    let packet = IpPacket::of_frame(&frame).unwrap();
    let checksum = internet_checksum(packet.pseudo_sum(length.into()) + sum(packet.payload));
    frame[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// EtherType and IP header.
fn ipv4_header(src: Ipv4Addr, dst: Ipv4Addr, payload_bytes: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload_bytes).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    header.extend([src.octets(), dst.octets()].concat());
    let checksum = internet_checksum(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [vec![0x08, 0x00], header].concat()
}

/// An ARP announcement (RFC 5227 section 1.1) of `ip`.
pub fn arp(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

/// Sends a frame on a device of the calling thread's network namespace.
pub fn send(device: &str, frame: &[u8]) -> Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: if_nametoindex(device)? as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    // SAFETY: buffer and address live through the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent == frame.len() as isize { Ok(()) } else { Err(Error::last_os_error()) }
}
