//! The node's configuration for its programs: one value, replaced live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;

/// The only element of the `config` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigValue {
    /// [`crate::ABI_VERSION`]; 0 = nothing published yet.
    pub abi_version: u32,
    /// See [`flags`].
    pub flags: u32,
    /// This node's number in the node table.
    pub node: u32,
    /// Conntrack lifetimes in ticks ([`crate::conntrack::tick`]).
    pub ticks_tcp_established: u32,
    /// TCP before the handshake is complete.
    pub ticks_tcp_opening: u32,
    /// TCP after FIN from both sides or RST.
    pub ticks_tcp_closing: u32,
    /// UDP and everything else that is not ICMP, answered.
    pub ticks_udp: u32,
    /// UDP not yet answered.
    pub ticks_udp_unreplied: u32,
    /// ICMP echo.
    pub ticks_icmp: u32,
    /// Drop events per second and CPU at most; counters are never sampled.
    pub events_per_s: u32,
    /// Cookie of the node's own network namespace.
    pub netns_cookie: u64,
    /// The node's address, IPv4; unspecified if it has none.
    pub node_ipv4: Ip,
    /// The node's address, IPv6; unspecified if it has none.
    pub node_ipv6: Ip,
    /// First port that translated sources get when theirs is taken, host
    /// byte order. The range holds no NodePort and no port that the kernel
    /// gives to sockets by itself (`ip_local_port_range`).
    pub nat_port_first: u16,
    /// Last port of that range, host byte order.
    pub nat_port_last: u16,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Flags of [`ConfigValue`].
pub mod flags {
    /// Pods reach the outside with the node's IPv4 address.
    pub const MASQUERADE_IPV4: u32 = 1;
    /// Pods reach the outside with the node's IPv6 address.
    pub const MASQUERADE_IPV6: u32 = 2;
    /// The socket hooks translate for pods, too, not for the host alone.
    pub const SOCKET_PODS: u32 = 4;
    /// 127.0.0.1 and ::1 count as node addresses at the socket hooks
    /// (NodePorts on loopback).
    pub const NODE_PORT_LOOPBACK: u32 = 8;
    /// kube-proxy's connections run on: TCP in the middle of a connection
    /// that is not known belongs to the host.
    pub const TAKE_OVER: u32 = 16;
}

impl ConfigValue {
    /// The defaults for everything that does not depend on the node.
    pub const fn defaults() -> ConfigValue {
        use crate::conntrack::ticks_from_seconds as s;
        ConfigValue {
            abi_version: crate::ABI_VERSION,
            flags: 0,
            node: 0,
            // The values that kube-proxy and Linux users know: established
            // 24 h (kube-proxy --conntrack-tcp-timeout-established).
            ticks_tcp_established: s(86_400),
            ticks_tcp_opening: s(60),
            ticks_tcp_closing: s(10),
            ticks_udp: s(180),
            ticks_udp_unreplied: s(30),
            ticks_icmp: s(30),
            events_per_s: 100,
            netns_cookie: 0,
            node_ipv4: Ip::UNSPECIFIED,
            node_ipv6: Ip::UNSPECIFIED,
            // Above the kernel's own range of local ports, 32768 to 60999.
            nat_port_first: 61_000,
            nat_port_last: 65_535,
            reserved: 0,
        }
    }
}
