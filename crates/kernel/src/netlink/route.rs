//! Routes, and route lookups (`ip route get`), the user-space counterpart of
//! the eBPF helper `bpf_fib_lookup`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::error::ignore_missing;
use super::message::{Message, attributes, attributes_after, family, read_ip, read_u16, read_u32};
use super::{Netlink, NetlinkError, request};

/// Bytes of `struct rtmsg`.
const FIXED: usize = 12;
/// `RTA_*` of linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
/// `RTAX_MTU` of linux/rtnetlink.h.
const RTAX_MTU: u16 = 2;
/// `RTNH_F_ONLINK` and `RTM_F_CLONED`.
const ONLINK: u32 = 4;
const CLONED: u32 = 0x200;

/// The origin of a route (`rtm_protocol`, `proto` in `ip route`).
pub mod protocol {
    /// Added by Beeline. No program in iproute2's list of protocols has this number.
    pub const BEELINE: u8 = 190;
    /// Added by the kernel.
    #[doc(alias = "RTPROT_KERNEL")]
    pub const KERNEL: u8 = 2;
    /// Added during boot; also the default of `ip route add`.
    #[doc(alias = "RTPROT_BOOT")]
    pub const BOOT: u8 = 3;
    /// Added by an administrator.
    #[doc(alias = "RTPROT_STATIC")]
    pub const STATIC: u8 = 4;
}

/// IDs of routing tables.
pub mod table {
    /// The default table for routes.
    #[doc(alias = "RT_TABLE_MAIN")]
    pub const MAIN: u32 = 254;
    /// The table that the kernel maintains, with the local and broadcast addresses.
    #[doc(alias = "RT_TABLE_LOCAL")]
    pub const LOCAL: u32 = 255;
}

/// Type of a route (`rtm_type`, `RTN_*`).
#[doc(alias = "rtm_type")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Forwarded to the next hop.
    #[default]
    Unicast,
    /// Delivered to this host.
    Local,
    /// Sent as a link-layer broadcast.
    Broadcast,
    /// Sent as multicast.
    Multicast,
    /// Dropped silently.
    Blackhole,
    /// Dropped with ICMP host unreachable.
    Unreachable,
    /// Dropped with ICMP administratively prohibited.
    Prohibit,
    /// Any other `RTN_*`.
    Other(u8),
}

impl RouteKind {
    fn from_number(number: u8) -> RouteKind {
        match number {
            1 => RouteKind::Unicast,
            2 => RouteKind::Local,
            3 => RouteKind::Broadcast,
            5 => RouteKind::Multicast,
            6 => RouteKind::Blackhole,
            7 => RouteKind::Unreachable,
            8 => RouteKind::Prohibit,
            other => RouteKind::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            RouteKind::Unicast => 1,
            RouteKind::Local => 2,
            RouteKind::Broadcast => 3,
            RouteKind::Multicast => 5,
            RouteKind::Blackhole => 6,
            RouteKind::Unreachable => 7,
            RouteKind::Prohibit => 8,
            RouteKind::Other(number) => number,
        }
    }
}

/// Scope of a route (`rtm_scope`, `RT_SCOPE_*`): the distance to its destinations.
#[doc(alias = "rtm_scope")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Anywhere (`RT_SCOPE_UNIVERSE`).
    #[default]
    Global,
    /// On the link.
    Link,
    /// On this host.
    Host,
}

impl Scope {
    fn from_number(number: u8) -> Scope {
        match number {
            253 => Scope::Link,
            254 => Scope::Host,
            _ => Scope::Global,
        }
    }

    fn number(self) -> u8 {
        match self {
            Scope::Global => 0,
            Scope::Link => 253,
            Scope::Host => 254,
        }
    }
}

/// A route.
#[doc(alias = "rtmsg")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNet,
    /// Next hop; none = the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the output device; 0 = the kernel selects it by the gateway.
    pub ifindex: u32,
    /// Preferred source address for packets of this host.
    pub source: Option<IpAddr>,
    /// MTU metric, bytes.
    pub mtu: Option<u32>,
    /// The gateway is treated as on-link even if no route covers it (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Scope (IPv4 only).
    pub scope: Scope,
    /// Origin; see [`protocol`].
    pub protocol: u8,
    /// ID of the table; see [`table`].
    pub table: u32,
    /// Metric; 0 = the kernel's default (1024 for IPv6).
    pub priority: u32,
    /// Type.
    pub kind: RouteKind,
}

impl Route {
    /// A unicast route in the main table with the protocol of Beeline.
    pub fn new(destination: IpNet, ifindex: u32) -> Route {
        Route {
            destination: destination.trunc(),
            gateway: None,
            ifindex,
            source: None,
            mtu: None,
            onlink: false,
            scope: Scope::Global,
            protocol: protocol::BEELINE,
            table: table::MAIN,
            priority: 0,
            kind: RouteKind::Unicast,
        }
    }

    /// The default route of the gateway's address family.
    pub fn default_via(gateway: IpAddr, ifindex: u32) -> Route {
        Route::new(default_destination(gateway), ifindex).via(gateway)
    }

    /// Sets the next hop.
    pub fn via(self, gateway: IpAddr) -> Route {
        Route { gateway: Some(gateway), ..self }
    }

    /// Sets link scope: the destination is on the link.
    pub fn on_link(self) -> Route {
        Route { scope: Scope::Link, ..self }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if self.ifindex != 0 {
            write!(f, " on the link with index {}", self.ifindex)?;
        }
        Ok(())
    }
}

/// The result of a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedRoute {
    /// Type of the route.
    pub kind: RouteKind,
    /// Index of the output device, or 0.
    pub ifindex: u32,
    /// Next hop; none = the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address that this host would use.
    pub source: Option<IpAddr>,
    /// MTU of the route or the learned path MTU, bytes; none = the MTU of the device.
    pub mtu: Option<u32>,
    /// ID of the table that has the route.
    pub table: u32,
}

impl Netlink {
    /// All routes of all tables, without cached ones.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut fixed = [0; FIXED];
            fixed[0] = family as u8;
            found.extend(self.dump("routes", libc::RTM_GETROUTE, &fixed, parse)?);
        }
        Ok(found)
    }

    /// Adds a route. If a route to the same destination exists, the error
    /// satisfies [`NetlinkError::is_exists`].
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        self.change("add", || format!("route {route}"), &mut message(libc::RTM_NEWROUTE, flags, route))
    }

    /// Adds a route, or replaces the one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        self.change("set", || format!("route {route}"), &mut message(libc::RTM_NEWROUTE, flags, route))
    }

    /// Deletes a route. It is no error if there is none.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = message(libc::RTM_DELROUTE, request(0), route);
        ignore_missing(self.change("delete", || format!("route {route}"), &mut message))
    }

    /// Looks up the route for a packet that this host sends (`ip route get`).
    /// The errors are those of [`Netlink::route_lookup`].
    pub fn route_to(&mut self, destination: IpAddr) -> Result<ResolvedRoute, NetlinkError> {
        self.route_lookup(destination, None, None)
    }

    /// Looks up the route for a packet with a source address and, if it is
    /// forwarded, the index of its input device. Fails with `ENETUNREACH` if
    /// there is no route, `EINVAL` for a blackhole route, `EHOSTUNREACH` for
    /// an unreachable route and `EACCES` for a prohibit route.
    pub fn route_lookup(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        ingress: Option<u32>,
    ) -> Result<ResolvedRoute, NetlinkError> {
        let bits = if destination.is_ipv4() { 32 } else { 128 };
        let mut fixed = [0; FIXED];
        fixed[0] = family(&destination);
        fixed[1] = bits;
        fixed[2] = if source.is_some() { bits } else { 0 };
        let mut message = Message::new(libc::RTM_GETROUTE, request(0), &fixed);
        message.ip(RTA_DST, destination);
        if let Some(source) = source {
            message.ip(RTA_SRC, source);
        }
        if let Some(ingress) = ingress {
            message.u32(RTA_IIF, ingress);
        }
        self.get(
            || format!("the route to {destination}"),
            &mut message,
            |payload| {
                parse_any(payload).map(|route| ResolvedRoute {
                    kind: route.kind,
                    ifindex: route.ifindex,
                    gateway: route.gateway,
                    source: route.source,
                    mtu: route.mtu,
                    table: route.table,
                })
            },
        )
    }
}

fn message(kind: u16, flags: u16, route: &Route) -> Message {
    let v4 = route.destination.addr().is_ipv4();
    let mut fixed = [0; FIXED];
    fixed[0] = family(&route.destination.addr());
    fixed[1] = route.destination.prefix_len();
    fixed[4] = u8::try_from(route.table).unwrap_or(0);
    fixed[5] = route.protocol;
    fixed[6] = if v4 { route.scope.number() } else { 0 };
    fixed[7] = route.kind.number();
    let bits = if route.onlink { ONLINK } else { 0 };
    fixed[8..12].copy_from_slice(&bits.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    message.ip(RTA_DST, route.destination.addr()).u32(RTA_TABLE, route.table);
    match route.gateway {
        // An IPv4 destination with an IPv6 next hop (RFC 8950; `RTA_VIA`, Linux 5.2).
        Some(IpAddr::V6(gateway)) if v4 => {
            let mut via = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            via.extend(gateway.octets());
            message.bytes(RTA_VIA, &via);
        }
        Some(gateway) => {
            message.ip(RTA_GATEWAY, gateway);
        }
        None => {}
    }
    if route.ifindex != 0 {
        message.u32(RTA_OIF, route.ifindex);
    }
    if let Some(source) = route.source {
        message.ip(RTA_PREFSRC, source);
    }
    if route.priority != 0 {
        message.u32(RTA_PRIORITY, route.priority);
    }
    if let Some(mtu) = route.mtu {
        message.nested(RTA_METRICS, |metrics| {
            metrics.u32(RTAX_MTU, mtu);
        });
    }
    message
}

/// Parses a route; none if it is a cached one (`RTM_F_CLONED`).
pub(super) fn parse(payload: &[u8]) -> Option<Route> {
    let cloned = read_u32(payload.get(8..)?)? & CLONED != 0;
    if cloned { None } else { parse_any(payload) }
}

fn parse_any(payload: &[u8]) -> Option<Route> {
    let fixed: &[u8; FIXED] = payload.first_chunk()?;
    let any: IpAddr = match i32::from(fixed[0]) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut destination = any;
    let mut route = Route {
        table: u32::from(fixed[4]),
        protocol: fixed[5],
        scope: Scope::from_number(fixed[6]),
        kind: RouteKind::from_number(fixed[7]),
        onlink: read_u32(&fixed[8..])? & ONLINK != 0,
        ..Route::new(default_destination(any), 0)
    };
    for (kind, value) in attributes_after(payload, FIXED) {
        match kind {
            RTA_DST => destination = read_ip(value)?,
            RTA_MULTIPATH => first_hop(&mut route, value),
            other => hop_attribute(&mut route, other, value),
        }
    }
    route.destination = IpNet::new(destination, fixed[1]).ok()?;
    Some(route)
}

fn hop_attribute(route: &mut Route, kind: u16, value: &[u8]) {
    match kind {
        RTA_OIF => route.ifindex = read_u32(value).unwrap_or(0),
        RTA_GATEWAY => route.gateway = read_ip(value),
        RTA_VIA => route.gateway = value.get(2..).and_then(read_ip),
        RTA_PRIORITY => route.priority = read_u32(value).unwrap_or(0),
        RTA_PREFSRC => route.source = read_ip(value),
        RTA_TABLE => route.table = read_u32(value).unwrap_or(0),
        RTA_METRICS => {
            let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
            route.mtu = mtu.and_then(|(_, mtu)| read_u32(mtu)).filter(|mtu| *mtu != 0);
        }
        _ => {}
    }
}

/// Takes the first next hop of a multipath route: `struct rtnexthop` and attributes.
fn first_hop(route: &mut Route, value: &[u8]) {
    let length = read_u16(value).map_or(0, usize::from);
    let Some(hop) = value.get(..length).filter(|hop| hop.len() >= 8) else { return };
    route.ifindex = read_u32(&hop[4..]).unwrap_or(0);
    for (kind, value) in attributes(&hop[8..]) {
        hop_attribute(route, kind, value);
    }
}

fn default_destination(of: IpAddr) -> IpNet {
    match of {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    }
}
