//! A frame in a vector. Checksums are updated with exactly the arithmetic of the
//! kernel (`inet_proto_csum_replace_by_diff`).

use std::vec::Vec;

use crate::parse::{ETHERNET_BYTES, OFFSET_MAX};
use crate::platform::Packet;
use crate::rewrite::{half, sum_add, sum_fold};

/// The packet of the user-space platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeFrame {
    /// The frame, starting with the Ethernet header.
    pub bytes: Vec<u8>,
    /// Payload bytes per segment; 0 = one ordinary packet.
    pub segment_payload: u32,
    /// The transport checksum holds only the sum of the pseudo-header
    /// (`CHECKSUM_PARTIAL`).
    pub partial: bool,
}

impl NativeFrame {
    /// A packet without segmentation offload, with complete checksums.
    pub fn new(bytes: impl Into<Vec<u8>>) -> NativeFrame {
        NativeFrame { bytes: bytes.into(), segment_payload: 0, partial: false }
    }

    fn window(&self, offset: u32, bytes: usize) -> Option<&[u8]> {
        let start = (offset & OFFSET_MAX) as usize;
        self.bytes.get(start..start + bytes)
    }

    fn window_mut(&mut self, offset: u32, bytes: usize) -> Option<&mut [u8]> {
        let start = (offset & OFFSET_MAX) as usize;
        self.bytes.get_mut(start..start + bytes)
    }
}

impl Packet for NativeFrame {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segment_payload(&self) -> u32 {
        self.segment_payload
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(self.window(offset, N * 4)?.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Some(words)
    }

    fn load_u16(&self, offset: u32) -> Option<u16> {
        let bytes = self.window(offset, 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    }

    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()> {
        for (bytes, word) in self.window_mut(offset, N * 4)?.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Some(())
    }

    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()> {
        self.window_mut(offset, 2)?.copy_from_slice(&word.to_ne_bytes());
        Some(())
    }

    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()> {
        self.window_mut(offset, 1)?[0] = byte;
        Some(())
    }

    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        // Not limited to OFFSET_MAX, like the kernel helper.
        let at = offset as usize;
        let field = self.bytes.get_mut(at..at + 2)?;
        let old = u16::from_ne_bytes([field[0], field[1]]);
        if zero_is_none && old == 0 {
            return Some(());
        }
        let mut new = match (self.partial, pseudo) {
            (false, _) => !sum_fold(sum_add(difference, !half(old))),
            (true, true) => sum_fold(sum_add(difference, half(old))),
            (true, false) => old,
        };
        if zero_is_none && new == 0 {
            new = 0xffff;
        }
        field.copy_from_slice(&new.to_ne_bytes());
        Some(())
    }

    fn checksum_is_partial(&mut self, _offset: u32) -> bool {
        self.partial
    }

    fn truncate(&mut self, length: u32) -> Option<()> {
        self.bytes.truncate(length as usize);
        self.segment_payload = 0;
        Some(())
    }

    fn insert_after_ethernet(&mut self, bytes: u32) -> Option<()> {
        let at = ETHERNET_BYTES as usize;
        self.bytes.splice(at..at, std::iter::repeat_n(0, bytes as usize));
        Some(())
    }
}
