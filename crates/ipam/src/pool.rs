//! One pool: the usable addresses of a PodCIDR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Maximum number of addresses in one pool. Larger PodCIDRs (all IPv6 ones) are
/// used from their start. Bounds the state.
pub const POOL_ADDRESSES_MAX: u64 = 65_534;

/// The network address and the first address are not allocated: the first is
/// the gateway by convention, and in IPv6 the network address is the
/// subnet-router anycast address (RFC 4291, section 2.6.1).
const FIRST_OFFSET: u64 = 2;

/// Number of usable addresses in a PodCIDR.
pub fn usable_addresses(cidr: IpNet) -> u64 {
    let (bits, broadcast) = match cidr {
        IpNet::V4(net) => (32 - u32::from(net.prefix_len()), 1),
        IpNet::V6(net) => (128 - u32::from(net.prefix_len()), 0),
    };
    let addresses = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
    addresses.saturating_sub(FIRST_OFFSET + broadcast).min(POOL_ADDRESSES_MAX)
}

/// Checks that `cidr` can be a pool beside `others`.
pub(crate) fn check(cidr: IpNet, others: &[Pool]) -> Result<(), String> {
    if usable_addresses(cidr) == 0 {
        return Err(format!(
            "PodCIDR {cidr} has no usable address (network, first and broadcast address are not used); \
             give the node a larger PodCIDR"
        ));
    }
    let overlaps = |pool: &&Pool| pool.cidr.contains(&cidr) || cidr.contains(&pool.cidr);
    match others.iter().find(overlaps) {
        Some(other) => Err(format!(
            "PodCIDR {cidr} overlaps {} of the same node and is not used; remove one of them from \
             spec.podCIDRs of the Node",
            other.cidr
        )),
        None => Ok(()),
    }
}

/// A PodCIDR and its allocation cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) cidr: IpNet,
    /// Offset of the next address that was never allocated.
    pub(crate) next: u64,
}

impl Pool {
    pub(crate) fn new(cidr: IpNet) -> Pool {
        Pool { cidr, next: FIRST_OFFSET }
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        matches!(self.cidr, IpNet::V6(_))
    }

    pub(crate) fn size(&self) -> u64 {
        usable_addresses(self.cidr)
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip)
    }

    /// True if `ip` may be allocated from the pool.
    pub(crate) fn may_allocate(&self, ip: IpAddr) -> bool {
        self.contains(ip) && (FIRST_OFFSET..self.end()).contains(&offset(self.cidr, ip))
    }

    /// The first unused address that is not `taken`, and the cursor after it.
    pub(crate) fn unused(&self, taken: impl Fn(&IpAddr) -> bool) -> Option<(IpAddr, u64)> {
        (self.next..self.end()).map(|at| (address(self.cidr, at), at + 1)).find(|(ip, _)| !taken(ip))
    }

    /// The offset after the last usable one.
    pub(crate) fn end(&self) -> u64 {
        FIRST_OFFSET + self.size()
    }
}

fn address(cidr: IpNet, offset: u64) -> IpAddr {
    match cidr {
        IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() + offset as u32).into(),
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() + u128::from(offset)).into(),
    }
}

/// Distance from the network address, saturating; `ip` is in `cidr`.
fn offset(cidr: IpNet, ip: IpAddr) -> u64 {
    match (cidr, ip) {
        (IpNet::V4(net), IpAddr::V4(ip)) => u64::from(ip.to_bits() - net.network().to_bits()),
        (IpNet::V6(net), IpAddr::V6(ip)) => {
            u64::try_from(ip.to_bits() - net.network().to_bits()).unwrap_or(u64::MAX)
        }
        _ => u64::MAX,
    }
}
