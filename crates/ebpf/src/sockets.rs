//! The socket hooks of a cgroup (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR`): each reads
//! the address of a call, runs `beeline_datapath::socket` and applies its action.
//! First kernel versions: connect 4.17, sendmsg 4.18, recvmsg 5.2, getpeername 5.8.

use core::arch::asm;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use beeline_abi::conntrack::tick;
use beeline_abi::counter::{hook, outcome, outcome_index};
use beeline_abi::endpoint::NamespaceValue;
use beeline_abi::socket::{SocketKey, SocketValue};
use beeline_abi::{Ip, Port};
use beeline_datapath::socket::{Action, SocketAddress, Sockets, connect, peer, sendmsg};

use crate::maps;
use crate::platform::{Kernel, count};

/// The system call proceeds.
const PROCEED: i32 = 1;
/// The system call fails with the error set by `bpf_set_retval` (Linux 5.18).
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// connect(2), IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(call: SockAddrContext) -> i32 {
    let address = address4(call.sock_addr);
    apply4(call.sock_addr, connect(&mut Kernel::without_packet(), &address))
}

/// connect(2), IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(call: SockAddrContext) -> i32 {
    let address = address6(call.sock_addr);
    apply6(call.sock_addr, connect(&mut Kernel::without_packet(), &address))
}

/// sendmsg(2) of datagrams with a destination, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(call: SockAddrContext) -> i32 {
    let address = address4(call.sock_addr);
    apply4(call.sock_addr, sendmsg(&mut Kernel::without_packet(), &address))
}

/// sendmsg(2) of datagrams with a destination, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(call: SockAddrContext) -> i32 {
    let address = address6(call.sock_addr);
    apply6(call.sock_addr, sendmsg(&mut Kernel::without_packet(), &address))
}

/// recvmsg(2) of datagrams, IPv4: translates the source address.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(call: SockAddrContext) -> i32 {
    let from = address4(call.sock_addr);
    apply4(call.sock_addr, peer(&mut Kernel::without_packet(), &from))
}

/// recvmsg(2) of datagrams, IPv6: translates the source address.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(call: SockAddrContext) -> i32 {
    let from = address6(call.sock_addr);
    apply6(call.sock_addr, peer(&mut Kernel::without_packet(), &from))
}

/// getpeername(2), IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(call: SockAddrContext) -> i32 {
    let to = address4(call.sock_addr);
    apply4(call.sock_addr, peer(&mut Kernel::without_packet(), &to))
}

/// getpeername(2), IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(call: SockAddrContext) -> i32 {
    let to = address6(call.sock_addr);
    apply6(call.sock_addr, peer(&mut Kernel::without_packet(), &to))
}

/// Hides the origin of the pointer from the compiler, so that it does not keep the
/// sum of context and offset, which the verifier does not accept.
#[inline(always)]
fn hide_origin(mut call: *mut bpf_sock_addr) -> *mut bpf_sock_addr {
    // SAFETY: copies a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) call, options(nomem, preserves_flags)) };
    call
}

#[inline(always)]
fn address4(call: *mut bpf_sock_addr) -> SocketAddress {
    let call = hide_origin(call);
    // SAFETY: the kernel hands a valid context to the program.
    address(call, Ip::from_v4_word(unsafe { (*call).user_ip4 }))
}

#[inline(always)]
fn address6(call: *mut bpf_sock_addr) -> SocketAddress {
    let call = hide_origin(call);
    // SAFETY: as above.
    let ip = unsafe {
        Ip([
            (&raw const (*call).user_ip6[0]).read(),
            (&raw const (*call).user_ip6[1]).read(),
            (&raw const (*call).user_ip6[2]).read(),
            (&raw const (*call).user_ip6[3]).read(),
        ])
    };
    address(call, ip)
}

#[inline(always)]
fn address(call: *mut bpf_sock_addr, ip: Ip) -> SocketAddress {
    // SAFETY: the kernel hands a valid context to the program; the port is
    // two bytes in network order.
    unsafe {
        SocketAddress {
            cookie: bpf_get_socket_cookie(call.cast()),
            netns_cookie: bpf_get_netns_cookie(call.cast()),
            ip,
            port: Port((*hide_origin(call)).user_port as u16),
            proto: (*hide_origin(call)).protocol as u8,
        }
    }
}

#[inline(always)]
fn apply4(call: *mut bpf_sock_addr, action: Action) -> i32 {
    if let Action::Redirect(ip, port) = action {
        let call = hide_origin(call);
        // SAFETY: the kernel hands a valid context to the program.
        unsafe {
            (*call).user_ip4 = ip.v4_word();
            (*call).user_port = port.0 as u32;
        }
    }
    finish(action)
}

#[inline(always)]
fn apply6(call: *mut bpf_sock_addr, action: Action) -> i32 {
    if let Action::Redirect(Ip([a, b, c, d]), port) = action {
        let call = hide_origin(call);
        // SAFETY: as above; word by word, as the kernel allows.
        unsafe {
            (&raw mut (*call).user_ip6[0]).write_volatile(a);
            (&raw mut (*call).user_ip6[1]).write_volatile(b);
            (&raw mut (*call).user_ip6[2]).write_volatile(c);
            (&raw mut (*call).user_ip6[3]).write_volatile(d);
            (*call).user_port = port.0 as u32;
        }
    }
    finish(action)
}

#[inline(always)]
fn finish(action: Action) -> i32 {
    match action {
        Action::Keep => PROCEED,
        Action::Redirect(..) => {
            count(outcome_index(hook::SOCKET, outcome::SOCKET_TRANSLATED), 0);
            PROCEED
        }
        Action::Refuse => {
            count(outcome_index(hook::SOCKET, outcome::ANSWERED), 0);
            // SAFETY: has no preconditions.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            REFUSE
        }
    }
}

impl Sockets for Kernel {
    #[inline(always)]
    fn tick(&self) -> u32 {
        // SAFETY: has no preconditions.
        tick(unsafe { bpf_ktime_get_ns() })
    }
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn namespace(&self, cookie: u64) -> Option<NamespaceValue> {
        // SAFETY: as in `socket`.
        unsafe { maps::NAMESPACE.get(&cookie) }.copied()
    }
    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        // SAFETY: a value is replaced whole, and stays in memory until the
        // program has ended.
        unsafe { maps::SOCKET.get(key) }.copied()
    }
    #[inline(always)]
    fn socket_insert(&mut self, key: &SocketKey, value: &SocketValue) {
        let _ = maps::SOCKET.insert(key, value, 0);
    }
}
