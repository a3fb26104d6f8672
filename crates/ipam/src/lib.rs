//! Pod address pools as a pure state machine: requests and time in, addresses
//! out. The agent writes [`Ipam::to_json`] to disk before it answers a request,
//! and reads it with [`Ipam::from_json`] when it starts.
//!
//! Each usable address of a pool is in exactly one state: unused (at or above
//! the pool's cursor), owned by an attachment, or released. Allocation takes
//! unused addresses first, then the address that was released longest ago, and
//! never one that is still cooling down.

mod pool;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use pool::Pool;
pub use pool::{POOL_ADDRESSES_MAX, usable_addresses};
pub use state::StateError;

/// Milliseconds since the UNIX epoch. Wall-clock time, because the state
/// persists across reboots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// Default time before a released address can be allocated again, in
/// milliseconds. Longer than neighbour cache entries, DNS answers and UDP
/// conntrack entries usually live.
pub const COOLDOWN_MS_DEFAULT: u64 = 60_000;

/// The owner of addresses: a container's interface, as identified by CNI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

impl Owner {
    /// The owner with this container id and interface name.
    pub fn new(container_id: impl Into<String>, interface: impl Into<String>) -> Owner {
        Owner { container_id: container_id.into(), interface: interface.into() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.container_id, self.interface)
    }
}

/// Why the allocation failed. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// The node has no PodCIDR yet.
    #[error(
        "no address for {owner}: this node has no usable PodCIDR; check spec.podCIDRs of the Node \
         (kube-controller-manager sets it with --allocate-node-cidrs=true) and try again"
    )]
    NoPool {
        /// The owner of the failed allocation.
        owner: Owner,
    },
    /// Every address is owned or cooling down.
    #[error(
        "no address for {owner}: pool {pools} is exhausted ({size} addresses, {owned} in use, {cooling} \
         released less than {cooldown_s} s ago); delete pods, wait for the release of finished ones, or \
         give the node a larger PodCIDR"
    )]
    Exhausted {
        /// The owner of the failed allocation.
        owner: Owner,
        /// The pools of the family, comma separated.
        pools: String,
        /// Usable addresses in them.
        size: u64,
        /// Owned addresses in them.
        owned: u64,
        /// Addresses that are cooling down.
        cooling: u64,
        /// The cool-down in seconds.
        cooldown_s: u64,
    },
}

/// Utilisation of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The PodCIDR.
    pub cidr: IpNet,
    /// Usable addresses.
    pub size: u64,
    /// Addresses that are owned.
    pub owned: u64,
    /// Released addresses that have not been allocated again.
    pub released: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Released {
    ip: IpAddr,
    at: Moment,
}

/// The address pools of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    cooldown_ms: u64,
    pools: Vec<Pool>,
    owners: BTreeMap<Owner, Vec<IpAddr>>,
    owned: HashSet<IpAddr>,
    /// Oldest first.
    released: VecDeque<Released>,
    released_ips: HashSet<IpAddr>,
}

impl Ipam {
    /// No pools, no owners.
    pub fn new(cooldown_ms: u64) -> Ipam {
        Ipam {
            cooldown_ms,
            pools: Vec::new(),
            owners: BTreeMap::new(),
            owned: HashSet::new(),
            released: VecDeque::new(),
            released_ips: HashSet::new(),
        }
    }

    /// Sets the node's PodCIDRs. Owned addresses stay owned, even outside the
    /// new pools. Returns one message for each unusable CIDR.
    pub fn set_pools(&mut self, cidrs: &[IpNet]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut pools: Vec<Pool> = Vec::new();
        for cidr in cidrs.iter().map(IpNet::trunc) {
            let known = self.pools.iter().find(|pool| pool.cidr == cidr);
            match pool::check(cidr, &pools) {
                Ok(()) => pools.push(known.cloned().unwrap_or_else(|| Pool::new(cidr))),
                Err(problem) => problems.push(problem),
            }
        }
        self.pools = pools;
        problems
    }

    /// The PodCIDRs in use.
    pub fn pools(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools.iter().map(|pool| pool.cidr)
    }

    /// Allocates one address of each family that has a pool, or returns the
    /// addresses that `owner` already has. All or nothing.
    pub fn allocate(&mut self, owner: &Owner, now: Moment) -> Result<Vec<IpAddr>, AllocateError> {
        if let Some(addresses) = self.owners.get(owner) {
            return Ok(addresses.clone());
        }
        if self.pools.is_empty() {
            return Err(AllocateError::NoPool { owner: owner.clone() });
        }
        self.remove_cooled_outside_pools(now);
        let mut choices = Vec::new();
        for ipv6 in [false, true] {
            if self.pools.iter().any(|pool| pool.is_ipv6() == ipv6) {
                let choice = self.choose(ipv6, now).ok_or_else(|| self.exhausted(owner, ipv6, now))?;
                choices.push(choice);
            }
        }
        let addresses: Vec<IpAddr> = choices.into_iter().map(|choice| self.take(choice)).collect();
        self.owners.insert(owner.clone(), addresses.clone());
        Ok(addresses)
    }

    /// Records addresses that an attachment uses, if the state was lost.
    /// Returns false, and records nothing, if the owner already has addresses
    /// or another owner has one of these.
    pub fn adopt(&mut self, owner: &Owner, addresses: &[IpAddr]) -> bool {
        if self.owners.contains_key(owner) || addresses.iter().any(|ip| self.owned.contains(ip)) {
            return false;
        }
        self.released.retain(|released| !addresses.contains(&released.ip));
        self.released_ips.retain(|ip| !addresses.contains(ip));
        self.owned.extend(addresses);
        self.owners.insert(owner.clone(), addresses.to_vec());
        true
    }

    /// Releases the owner's addresses and returns them. They are reused last.
    /// Empty if the owner has none.
    pub fn release(&mut self, owner: &Owner, now: Moment) -> Vec<IpAddr> {
        let addresses = self.owners.remove(owner).unwrap_or_default();
        for ip in &addresses {
            self.owned.remove(ip);
            if self.released_ips.insert(*ip) {
                self.released.push_back(Released { ip: *ip, at: now });
            }
        }
        addresses
    }

    /// Releases the addresses of all owners that are not in `valid`. Returns
    /// what was released.
    pub fn retain(&mut self, valid: &BTreeSet<Owner>, now: Moment) -> Vec<(Owner, Vec<IpAddr>)> {
        let gone: Vec<Owner> = self.owners.keys().filter(|owner| !valid.contains(owner)).cloned().collect();
        gone.into_iter()
            .map(|owner| {
                let addresses = self.release(&owner, now);
                (owner, addresses)
            })
            .collect()
    }

    /// The owner's addresses, IPv4 first.
    pub fn addresses(&self, owner: &Owner) -> Option<&[IpAddr]> {
        self.owners.get(owner).map(Vec::as_slice)
    }

    /// Every owner with its addresses.
    pub fn owners(&self) -> impl Iterator<Item = (&Owner, &[IpAddr])> {
        self.owners.iter().map(|(owner, addresses)| (owner, addresses.as_slice()))
    }

    /// Utilisation of every pool.
    pub fn status(&self) -> Vec<PoolStatus> {
        self.pools
            .iter()
            .map(|pool| PoolStatus {
                cidr: pool.cidr,
                size: pool.size(),
                owned: self.owned.iter().filter(|ip| pool.contains(**ip)).count() as u64,
                released: self.released.iter().filter(|released| pool.contains(released.ip)).count() as u64,
            })
            .collect()
    }

    /// Selects an address without allocating it.
    fn choose(&mut self, ipv6: bool, now: Moment) -> Option<Choice> {
        for (index, pool) in self.pools.iter().enumerate().filter(|(_, pool)| pool.is_ipv6() == ipv6) {
            let taken = |ip: &IpAddr| self.owned.contains(ip) || self.released_ips.contains(ip);
            if let Some((ip, next)) = pool.unused(taken) {
                return Some(Choice::Unused { pool: index, ip, next });
            }
        }
        // If the clock was set back, restart the cool-down instead of extending
        // it.
        for released in self.released.iter_mut().filter(|released| released.at > now) {
            released.at = now;
        }
        self.released
            .iter()
            .find(|released| {
                has_cooled_down(released, now, self.cooldown_ms)
                    && self.pools.iter().any(|pool| pool.is_ipv6() == ipv6 && pool.may_allocate(released.ip))
            })
            .map(|released| Choice::Released(released.ip))
    }

    fn take(&mut self, choice: Choice) -> IpAddr {
        let ip = match choice {
            Choice::Unused { pool, ip, next } => {
                self.pools[pool].next = next;
                ip
            }
            Choice::Released(ip) => {
                self.released.retain(|released| released.ip != ip);
                self.released_ips.remove(&ip);
                ip
            }
        };
        self.owned.insert(ip);
        ip
    }

    /// Forgets released addresses outside every pool after their cool-down, so
    /// that the pools bound the list.
    fn remove_cooled_outside_pools(&mut self, now: Moment) {
        let (pools, released_ips, cooldown_ms) = (&self.pools, &mut self.released_ips, self.cooldown_ms);
        self.released.retain(|released| {
            let keep = pools.iter().any(|pool| pool.may_allocate(released.ip))
                || !has_cooled_down(released, now, cooldown_ms);
            if !keep {
                released_ips.remove(&released.ip);
            }
            keep
        });
    }

    fn exhausted(&self, owner: &Owner, ipv6: bool, now: Moment) -> AllocateError {
        let pools: Vec<&Pool> = self.pools.iter().filter(|pool| pool.is_ipv6() == ipv6).collect();
        let within = |ip: &IpAddr| pools.iter().any(|pool| pool.contains(*ip));
        AllocateError::Exhausted {
            owner: owner.clone(),
            pools: pools.iter().map(|pool| pool.cidr.to_string()).collect::<Vec<_>>().join(", "),
            size: pools.iter().map(|pool| pool.size()).sum(),
            owned: self.owned.iter().filter(|ip| within(ip)).count() as u64,
            cooling: self
                .released
                .iter()
                .filter(|released| within(&released.ip) && !has_cooled_down(released, now, self.cooldown_ms))
                .count() as u64,
            cooldown_s: self.cooldown_ms / 1000,
        }
    }
}

enum Choice {
    Unused { pool: usize, ip: IpAddr, next: u64 },
    Released(IpAddr),
}

fn has_cooled_down(released: &Released, now: Moment, cooldown_ms: u64) -> bool {
    now.0.saturating_sub(released.at.0) >= cooldown_ms
}
