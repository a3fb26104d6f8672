//! The lifetime of connections: the state of an entry, how packets change it, and
//! how long it stays valid. Times are in ticks ([`beeline_abi::conntrack::tick`]).

use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackValue, flags as entry};

use super::tcp;

/// The state that both entries of a translated connection share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) expires: u32,
    pub(super) tcp_origin: u8,
    pub(super) tcp_reply: u8,
    pub(super) replied: u16,
}

impl State {
    #[inline(always)]
    pub(super) fn of(value: &ConntrackValue) -> State {
        State {
            expires: value.expires,
            tcp_origin: value.tcp_origin,
            tcp_reply: value.tcp_reply,
            replied: value.flags & entry::REPLIED,
        }
    }
}

/// Whether the packet is a SYN for a closed connection, which starts a new one
/// (RFC 9293 section 3.6.1, reuse of a pair of ports).
#[inline(always)]
pub(super) fn is_port_reuse(value: &ConntrackValue, tcp_flags: u8) -> bool {
    let syn = tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    syn && is_closed(value)
}

#[inline(always)]
pub(super) fn is_closed(value: &ConntrackValue) -> bool {
    (value.tcp_origin | value.tcp_reply) & tcp::RST != 0 || value.tcp_origin & value.tcp_reply & tcp::FIN != 0
}

#[inline(always)]
pub(super) fn account(value: &mut ConntrackValue, origin: bool, tcp_flags: u8, bytes: u64) {
    // A side that continues after a reset has ignored it as out of window (RFC
    // 9293 section 3.10.7.4), so the connection is still open. Segments that were in
    // flight when it was accepted are answered with another reset, which is final.
    let continues = tcp_flags & (tcp::ACK | tcp::FIN | tcp::RST) == tcp::ACK;
    let cleared = if continues { tcp::RST } else { 0 };
    if origin {
        value.packets_origin += 1;
        value.bytes_origin += bytes;
        value.tcp_origin |= tcp_flags;
        value.tcp_reply &= !cleared;
    } else {
        value.packets_reply += 1;
        value.bytes_reply += bytes;
        value.tcp_reply |= tcp_flags;
        value.tcp_origin &= !cleared;
        if value.flags & entry::REPLIED == 0 {
            value.flags |= entry::REPLIED;
        }
    }
}

#[inline(always)]
pub(super) fn tcp_lifetime(value: &ConntrackValue, config: &ConfigValue) -> u32 {
    let is_established = value.flags & entry::REPLIED != 0 && value.tcp_origin & tcp::ACK != 0;
    if is_closed(value) {
        config.ticks_tcp_closing
    } else if is_established {
        config.ticks_tcp_established
    } else {
        config.ticks_tcp_opening
    }
}
