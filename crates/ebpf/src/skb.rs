//! Packet access on a socket buffer (`struct __sk_buff`).

use core::arch::asm;
use core::mem::size_of;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data};
use beeline_datapath::parse::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, OFFSET_MAX};
use beeline_datapath::platform::Packet;

/// Bytes that are made linear, and so readable, if the packet's data is in page
/// fragments.
const READABLE_BYTES: u32 = OFFSET_MAX + 1;
const TCP_BYTES: u32 = 20;

/// The current packet.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    /// Wraps the context and makes the headers readable.
    #[inline(always)]
    pub fn readable(skb: *mut __sk_buff) -> Skb {
        let this = Skb(skb);
        let (data, end) = this.bounds();
        if ((end - data) as u32) < this.length() && !this.headers_are_linear() {
            this.pull();
        }
        this
    }

    /// Whether the node itself sent the packet: it has no ingress device.
    #[inline(always)]
    pub fn is_from_host(&self) -> bool {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).ingress_ifindex == 0 }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let mut skb = self.0;
        // SAFETY: copies a register to itself. It prevents the compiler from
        // keeping the sum of context and offset, which the verifier does not accept
        // as a context pointer.
        unsafe { asm!("{0} = {0}", inout(reg) skb, options(nomem, preserves_flags)) };
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { ((*skb).data as usize, (*skb).data_end as usize) }
    }

    /// TCP without IP options or extension headers: its headers are usually linear,
    /// so nothing must be pulled.
    #[inline(always)]
    fn headers_are_linear(&self) -> bool {
        const TCP: u8 = beeline_abi::ip::proto::TCP;
        if let Some(first) = self.load::<6>(12) {
            let v4 = first[0].to_ne_bytes();
            if v4[..3] == [0x08, 0x00, 0x45] && first[2].to_ne_bytes()[3] == TCP {
                return self.window::<u8>(ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES - 1).is_some();
            }
            if v4[..2] == [0x86, 0xdd] && first[2].to_ne_bytes()[0] == TCP {
                return self.window::<u8>(ETHERNET_BYTES + IPV6_BYTES + TCP_BYTES - 1).is_some();
            }
        }
        false
    }

    #[inline(always)]
    fn pull(&self) {
        let length = self.length();
        let bytes = if length < READABLE_BYTES { length } else { READABLE_BYTES };
        // SAFETY: a valid context; a failure is detected by the bounds check.
        unsafe { bpf_skb_pull_data(self.0, bytes) };
    }

    /// UDP that the host sends with `UDP_SEGMENT` holds only the sum of the
    /// pseudo-header, to be completed at segmentation. If the device has no checksum
    /// offload, the kernel does not mark it as partial (`CHECKSUM_NONE`, Linux 6.11),
    /// and `bpf_l4_csum_replace` would treat it as a complete checksum.
    #[inline(always)]
    fn segments_checksum_change(&mut self, offset: u32, difference: u32) -> Option<()> {
        let sum = self.load_u16(offset)? as u64 + difference as u64;
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        self.store_u16(offset, ((sum & 0xffff) + (sum >> 16)) as u16)
    }

    /// A pointer to a `T` in the frame, with bounds that the verifier can check.
    #[inline(always)]
    fn window<T>(&self, offset: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        let mut start = data + (offset & OFFSET_MAX) as usize;
        // SAFETY: copies a register to itself. It hides the origin of `start`, so
        // the compiler cannot split the sum below. The verifier must see that the
        // compared pointer is the one that is used.
        unsafe { asm!("{0} = {0}", inout(reg) start, options(pure, nomem, preserves_flags)) };
        if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let window = self.window::<[u32; N]>(offset)?;
        // SAFETY: inside the frame, checked by `window`; unaligned access is
        // what the verifier allows where the processor does.
        Some(unsafe { *window })
    }

    #[inline(always)]
    fn load_u16(&self, offset: u32) -> Option<u16> {
        let window = self.window::<u16>(offset)?;
        // SAFETY: as in `load`.
        Some(unsafe { *window })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()> {
        let window = self.window::<[u32; N]>(offset)?;
        // SAFETY: as in `load`; the verifier makes the buffer writable.
        unsafe { *window = *words };
        Some(())
    }

    #[inline(always)]
    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()> {
        let window = self.window::<u16>(offset)?;
        // SAFETY: as in `store`.
        unsafe { *window = word };
        Some(())
    }

    #[inline(always)]
    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()> {
        let window = self.window::<u8>(offset)?;
        // SAFETY: as in `store`.
        unsafe { *window = byte };
        Some(())
    }

    #[inline(always)]
    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        if zero_is_none && self.segment_payload() != 0 && self.is_from_host() {
            return self.segments_checksum_change(offset, if pseudo { difference } else { 0 });
        }
        let mut flags = 0;
        if pseudo {
            flags |= BPF_F_PSEUDO_HDR as u64;
        }
        if zero_is_none {
            flags |= BPF_F_MARK_MANGLED_0 as u64;
        }
        // SAFETY: a valid context; the helper checks the offset.
        let result = unsafe { bpf_l4_csum_replace(self.0, offset, 0, difference as u64, flags) };
        if result == 0 { Some(()) } else { None }
    }

    /// The kernel ignores a change outside the pseudo-header if a device completes
    /// the checksum. A trial change therefore detects this; it is reverted.
    #[inline(always)]
    fn checksum_is_partial(&mut self, offset: u32) -> bool {
        let Some(before) = self.load_u16(offset) else { return false };
        if self.checksum_change(offset, 1, false, false).is_none() {
            return false;
        }
        if self.load_u16(offset) == Some(before) {
            return true;
        }
        let _ = self.store_u16(offset, before);
        false
    }

    #[inline(always)]
    fn truncate(&mut self, length: u32) -> Option<()> {
        // SAFETY: a valid context.
        let result = unsafe { bpf_skb_change_tail(self.0, length, 0) };
        if result == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn insert_after_ethernet(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: a valid context.
        let result = unsafe { bpf_skb_adjust_room(self.0, bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        if result == 0 { Some(()) } else { None }
    }
}
