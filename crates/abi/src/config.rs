//! The node's configuration for its eBPF programs: one value, replaced while
//! they run.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;

/// The only element of the config array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConfigValue {
    /// [`crate::ABI_VERSION`]; 0 = nothing published yet.
    pub abi_version: u32,
    /// See [`flags`].
    pub flags: u32,
    /// This node's id in the node table.
    pub node: u32,
    /// Lifetime of an established TCP connection, in ticks
    /// ([`crate::conntrack::tick`]), like the lifetimes below.
    pub ticks_tcp_established: u32,
    /// Lifetime of TCP before the handshake is complete, ticks.
    pub ticks_tcp_opening: u32,
    /// Lifetime of TCP after FIN from both sides or RST, ticks.
    pub ticks_tcp_closing: u32,
    /// Lifetime of UDP and other protocols (not TCP, not ICMP) after a reply,
    /// ticks.
    pub ticks_udp: u32,
    /// Lifetime of the same before a reply, ticks.
    pub ticks_udp_unreplied: u32,
    /// Lifetime of ICMP echo, ticks.
    pub ticks_icmp: u32,
    /// Maximum number of drop events per tick (about a second) and CPU. Counters
    /// are not sampled.
    pub events_per_s: u32,
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    pub netns_cookie: u64,
    /// The node's address, IPv4; unspecified if it has none.
    pub node_ipv4: Ip,
    /// The node's address, IPv6; unspecified if it has none.
    pub node_ipv6: Ip,
    /// First SNAT port, host byte order: used when the client's own port is
    /// taken. The range must not overlap NodePorts or the ephemeral ports of the
    /// kernel (`ip_local_port_range`).
    pub nat_port_first: u16,
    /// Last SNAT port (inclusive), host byte order.
    pub nat_port_last: u16,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Flags of [`ConfigValue`].
pub mod flags {
    /// IPv4 from pods to outside the cluster gets the node's address.
    pub const MASQUERADE_IPV4: u32 = 1;
    /// IPv6 from pods to outside the cluster gets the node's address.
    pub const MASQUERADE_IPV6: u32 = 2;
    /// The socket hooks translate for pods as well as for the host.
    pub const SOCKET_PODS: u32 = 4;
    /// The socket hooks serve NodePorts on 127.0.0.0/8 and ::1 as well.
    pub const NODE_PORT_LOOPBACK: u32 = 8;
    /// Taking over from kube-proxy: TCP of an established connection that has no
    /// entry here is left to the host.
    pub const TAKE_OVER: u32 = 16;
}

impl ConfigValue {
    /// The defaults of all fields that do not depend on the node.
    pub const fn defaults() -> ConfigValue {
        use crate::conntrack::ticks_from_seconds as s;
        ConfigValue {
            abi_version: crate::ABI_VERSION,
            flags: 0,
            node: 0,
            // kube-proxy --conntrack-tcp-timeout-established: 24 h.
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
            // Above the default ip_local_port_range, 32768 to 60999.
            nat_port_first: 61_000,
            nat_port_last: 65_535,
            reserved: 0,
        }
    }
}
