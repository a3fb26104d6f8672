//! Malformed and spoofed frames, sent directly to a pod's device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// MAC address of every pod's gateway.
const GATEWAY: [u8; 6] = [0x02, 0xbe, 0xe1, 0, 0, 1];

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Generates and sends malformed frames in a pod.
pub struct MalformedFrames {
    socket: OwnedFd,
    random: u64,
    /// MAC address of the pod.
    pub mac: [u8; 6],
    /// IP addresses of the pod.
    pub ips: [IpAddr; 2],
    /// IP addresses of another pod.
    pub others: [IpAddr; 2],
}

impl MalformedFrames {
    /// Opens a packet socket on the device with this index in the network
    /// namespace of the calling thread.
    pub fn open(
        ifindex: u32,
        mac: [u8; 6],
        ips: [IpAddr; 2],
        others: [IpAddr; 2],
    ) -> io::Result<MalformedFrames> {
        let family = AddressFamily::Packet;
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        // SAFETY: sockaddr_ll is plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes of `address`, which lives
        // until after the call, and the descriptor is open.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(MalformedFrames { socket, random: 0x6a75_6e6b, mac, ips, others })
    }

    /// Sends one frame; consecutive numbers cover every kind. Returns false if
    /// the pod's kernel rejects it.
    pub fn send(&mut self, number: u64) -> bool {
        let frame = self.frame(number);
        nix::unistd::write(&self.socket, &frame).is_ok()
    }

    fn frame(&mut self, number: u64) -> Vec<u8> {
        let [IpAddr::V4(own4), IpAddr::V6(own6)] = self.ips else { unreachable!("IPv4 comes first") };
        let [IpAddr::V4(other4), IpAddr::V6(other6)] = self.others else { unreachable!("IPv4 comes first") };
        let length = self.below(1500) as usize;
        let rest = self.bytes(length);
        match number % 12 {
            0 => [vec![0; 14], rest]
                .concat()
                .into_iter()
                .map(|byte: u8| byte ^ self.below(256) as u8)
                .collect(),
            1 => self.reframed(IPV4, &rest),
            2 => self.reframed(IPV6, &rest),
            3 => self.reframed(self.random as u16, &rest),
            4 => self.reframed(ARP, &rest),
            5 => {
                let packet = self.ipv4(own4, other4, &rest);
                self.reframed(IPV4, &packet)
            }
            6 => {
                let packet = self.ipv6(own6, other6, &rest);
                self.reframed(IPV6, &packet)
            }
            7 => {
                let packet = self.ipv4(other4, own4, &rest);
                self.reframed(IPV4, &packet)
            }
            8 => {
                let packet = self.ipv6(other6, own6, &rest);
                self.reframed(IPV6, &packet)
            }
            9 => {
                let packet = self.ipv4(own4, other4, &rest);
                frame(GATEWAY, [2, 0, 0, 0, 0, 9], IPV4, &packet)
            }
            10 => {
                // ARP spoofing (RFC 826: Ethernet, IPv4, request).
                let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
                packet.extend(self.mac);
                packet.extend(other4.octets());
                packet.extend([0; 6]);
                packet.extend([169, 254, 42, 1]);
                self.reframed(ARP, &packet)
            }
            _ => {
                // A truncated packet.
                let mut packet = self.ipv6(own6, other6, &rest);
                packet.truncate(self.below(60) as usize);
                self.reframed(IPV6, &packet)
            }
        }
    }

    fn reframed(&self, kind: u16, packet: &[u8]) -> Vec<u8> {
        frame(GATEWAY, self.mac, kind, packet)
    }

    /// An IPv4 header with random fields; addresses and length are usually
    /// correct.
    fn ipv4(&mut self, from: Ipv4Addr, to: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
        let words = 5 + if self.below(4) == 0 { self.below(11) } else { 0 };
        let said = if self.below(4) == 0 { self.next() as u16 } else { 20 + rest.len() as u16 };
        let fragment = if self.below(2) == 0 { self.next() as u16 } else { 0 };
        let protocol = [1, 6, 17, 58, 132, 255][self.below(6) as usize];
        let mut header = vec![0x40 | words as u8, 0];
        header.extend(said.to_be_bytes());
        header.extend((self.next() as u16).to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.below(256) as u8, protocol, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        header.extend(rest);
        header
    }

    /// The same for IPv6, with random extension headers.
    fn ipv6(&mut self, from: Ipv6Addr, to: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
        let said = if self.below(4) == 0 { self.next() as u16 } else { rest.len() as u16 };
        let next = [0, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135, 255][self.below(12) as usize];
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(said.to_be_bytes());
        header.extend([next, self.below(256) as u8]);
        header.extend(from.octets());
        header.extend(to.octets());
        header.extend(rest);
        header
    }

    /// Pseudo-random number (xorshift64).
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

fn frame(to: [u8; 6], from: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), packet].concat()
}
