//! Random packet loss on a device, by a small eBPF filter in both directions.
//! Unlike netem, it is available in every kernel that runs Beeline. A GSO
//! packet (up to 64 KB) is dropped as a whole.

use std::io;
use std::os::fd::AsFd;

use thiserror::Error;

use crate::datapath::load_classifier;
use crate::netlink::{Direction, Netlink, NetlinkError};

/// Priority and handle of the filter.
const PRIORITY_AND_HANDLE: (u16, u32) = (1, 1);

/// Why packet loss could not be set.
#[derive(Debug, Error)]
pub enum LossError {
    /// The kernel rejected the program.
    #[error("cannot load the packet loss classifier: {0}")]
    Program(#[source] io::Error),
    /// The filter could not be attached or detached.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Drops `percent` (0 to 100) of the packets that a device receives, and of
/// those that it sends; 0 removes the filter.
pub fn set(netlink: &mut Netlink, ifindex: u32, percent: f64) -> Result<(), LossError> {
    for direction in [Direction::Ingress, Direction::Egress] {
        match threshold(percent) {
            Some(threshold) => attach(netlink, ifindex, direction, threshold)?,
            None => detach(netlink, ifindex, direction)?,
        }
    }
    Ok(())
}

fn attach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    threshold: u32,
) -> Result<(), LossError> {
    let program = load_classifier("lose", &instructions(threshold)).map_err(LossError::Program)?;
    netlink.add_clsact(ifindex)?;
    Ok(netlink.set_bpf_filter(ifindex, direction, PRIORITY_AND_HANDLE, program.as_fd(), "lose")?)
}

fn detach(netlink: &mut Netlink, ifindex: u32, direction: Direction) -> Result<(), LossError> {
    if netlink.bpf_filters(ifindex, direction)?.is_empty() {
        return Ok(());
    }
    Ok(netlink.delete_bpf_filter(ifindex, direction, PRIORITY_AND_HANDLE)?)
}

/// A packet is dropped if a random 32-bit number is at most this threshold;
/// none = no packet is dropped.
fn threshold(percent: f64) -> Option<u32> {
    // The conversion from a float saturates.
    let count = (percent / 100.0 * 4_294_967_296.0) as u64;
    count.checked_sub(1).map(|last| last.min(u64::from(u32::MAX)) as u32)
}

/// `struct bpf_insn` as 64-bit integers: the opcode in the lowest byte, the
/// offset in bits 16 to 31, the immediate value in the upper half.
fn instructions(threshold: u32) -> [u64; 6] {
    let one = |code: u8, offset: u8, value: i32| {
        u64::from(code) | u64::from(offset) << 16 | u64::from(value as u32) << 32
    };
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const MOVE_TO_R0: u8 = 0xb7;
    const JUMP_IF_W0_UP_TO: u8 = 0xb6;
    const GET_PRANDOM_U32: i32 = 7;
    const NEXT_FILTER: i32 = -1;
    const DROP: i32 = 2;
    [
        one(CALL, 0, GET_PRANDOM_U32),
        one(JUMP_IF_W0_UP_TO, 2, threshold as i32),
        one(MOVE_TO_R0, 0, NEXT_FILTER),
        one(EXIT, 0, 0),
        one(MOVE_TO_R0, 0, DROP),
        one(EXIT, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_threshold_is_the_part_of_all_numbers() {
        assert_eq!(threshold(0.0), None);
        assert_eq!(threshold(50.0), Some(u32::MAX / 2));
        assert_eq!(threshold(100.0), Some(u32::MAX));
        assert!(threshold(0.001).is_some_and(|number| number > 40_000));
    }
}
