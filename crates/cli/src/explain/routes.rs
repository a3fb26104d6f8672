//! Route lookups in the node's routing table, equivalent to `bpf_fib_lookup`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use beeline_abi::Ip;
use beeline_abi::context::Context;
use beeline_datapath::native::NextHop;
use beeline_datapath::platform::Route;
use beeline_kernel::netlink::{Netlink, NetlinkError, ResolvedRoute, RouteKind};
use beeline_kernel::netns::NetNs;
use nix::libc;

use crate::target::Target;

/// A netlink socket in the node's network namespace.
pub struct Routes {
    netlink: Netlink,
    failure: Option<anyhow::Error>,
}

impl Routes {
    /// Opens the socket.
    pub fn open(target: &Target) -> Result<Routes> {
        let netlink = match &target.netns {
            Some(path) => Netlink::open_in(&NetNs::open(path)?),
            None => Netlink::open(),
        };
        let netlink = netlink.with_context(|| format!("cannot look up routes on {}", target.label))?;
        Ok(Routes { netlink, failure: None })
    }

    /// The first lookup error; the result of the trace is then invalid.
    pub fn failure(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Looks up the next hop for a packet whose largest segment has `bytes` bytes.
    pub fn lookup(&mut self, context: &Context, bytes: u32) -> NextHop {
        self.resolve(context, bytes).unwrap_or_else(|error| {
            self.failure.get_or_insert(error);
            NextHop { route: Route::None, ..NO_ROUTE }
        })
    }

    fn resolve(&mut self, context: &Context, bytes: u32) -> Result<NextHop> {
        let (src, dst) = (IpAddr::from(context.src_after), IpAddr::from(context.dst_after));
        let without_device = |route| NextHop { route, next_hop: context.dst_after, ..NO_ROUTE };
        let resolved = match self.netlink.route_lookup(dst, Some(src), Some(context.ifindex)) {
            Ok(resolved) => resolved,
            Err(error) => return route_of_error(&error).map(without_device).ok_or_else(|| error.into()),
        };
        match resolved.kind {
            RouteKind::Unicast => self.found(&resolved, context, bytes),
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                Ok(without_device(Route::Prohibited))
            }
            _ => Ok(without_device(Route::Host)),
        }
    }

    fn found(&mut self, resolved: &ResolvedRoute, context: &Context, bytes: u32) -> Result<NextHop> {
        let dst = IpAddr::from(context.dst_after);
        let mtu = match resolved.mtu {
            Some(mtu) => mtu,
            None => self.netlink.link_by_index(resolved.ifindex)?.mtu,
        };
        Ok(NextHop {
            route: if bytes > mtu { Route::TooBig } else { Route::Found },
            ifindex: resolved.ifindex,
            next_hop: resolved.gateway.map_or(context.dst_after, Ip::from),
            source: self.source(dst)?,
            mtu,
        })
    }

    /// The node's source address for a destination.
    fn source(&mut self, dst: IpAddr) -> Result<Ip> {
        let resolved = self.netlink.route_lookup(dst, None, None)?;
        Ok(resolved.source.map_or(Ip::UNSPECIFIED, Ip::from))
    }
}

/// No route.
const NO_ROUTE: NextHop =
    NextHop { route: Route::None, ifindex: 0, next_hop: Ip::UNSPECIFIED, source: Ip::UNSPECIFIED, mtu: 0 };

/// The route result for an error of the kernel. If there is no route, the
/// node's network stack sends the ICMP error.
fn route_of_error(error: &NetlinkError) -> Option<Route> {
    match error.errno()? {
        libc::ENETUNREACH => Some(Route::Host),
        libc::EINVAL | libc::EHOSTUNREACH | libc::EACCES => Some(Route::Prohibited),
        _ => None,
    }
}
