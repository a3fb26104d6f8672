//! Sends frames through the hooks of a small node that keeps its state between
//! them. Each must end with a verdict, and well-formed frames must stay well
//! formed.
//!
//! Input: the family, then per frame a byte for the hook (with bit 7, lengths
//! and checksums are corrected first), two for the length (little endian) and
//! the frame.

#![no_main]
#![allow(dead_code, reason = "the world is that of the unit tests, and not all of it is used here")]

use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{addresses, check, checksum, transport_checksum};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/datapath/tests/unit/world.rs"]
mod world;

use world::{FAMILIES, NEIGHBOUR_IFINDEX, POD_IFINDEX, UPLINK, World};

/// Maximum number of frames per input.
const FRAMES_MAX: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let Some((family, mut rest)) = bytes.split_first() else { return };
    let mut world = World::new(FAMILIES[usize::from(family & 1)]);
    for _ in 0..FRAMES_MAX {
        let [at, low, high, more @ ..] = rest else { return };
        let length = usize::from(u16::from_le_bytes([*low, *high]) & 0x7ff).min(more.len());
        let (frame, next) = more.split_at(length);
        rest = next;
        let mut frame = frame.to_vec();
        if at & 0x80 != 0 {
            fix_checksums(&mut frame);
        }
        send(&mut world, *at, frame);
    }
});

/// Sets lengths and checksums, which a fuzzer does not find by itself.
fn fix_checksums(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let bytes = packet.len() as u16;
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            packet[2..4].copy_from_slice(&bytes.to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum);
        }
        Some(6) if packet.len() >= 40 => packet[4..6].copy_from_slice(&(bytes - 40).to_be_bytes()),
        _ => return,
    }
    let Ok((src, dst, protocol, header)) = addresses(packet) else { return };
    let at = match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        proto::ICMP | proto::ICMPV6 => 2,
        _ => return,
    };
    let transport = &mut packet[header..];
    if let Some(place) = transport.get_mut(at..at + 2) {
        place.fill(0);
        let sum = transport_checksum(&src, &dst, protocol, transport);
        transport[at..at + 2].copy_from_slice(&sum);
    }
}

fn send(world: &mut World, at: u8, frame: Vec<u8>) {
    let (at, ifindex) = match at % 4 {
        0 => (hook::FROM_POD, POD_IFINDEX),
        1 => (hook::FROM_POD, NEIGHBOUR_IFINDEX),
        2 => (hook::TO_POD, POD_IFINDEX),
        _ => (hook::FROM_UPLINK, UPLINK),
    };
    let received = check(&frame);
    let sent = world.send(at, ifindex, frame);
    if received.is_ok() && !matches!(sent.verdict, Verdict::Drop { .. }) {
        assert_eq!(check(&sent.frame), Ok(()), "{sent:#?}");
    }
}
