//! The nodes that announce each prefix. Where prefixes of different nodes
//! overlap, the first node by name owns the range. All nodes of the cluster
//! agree, in any order of events.

use std::collections::{BTreeMap, BTreeSet};

use beeline_abi::Ip;
use beeline_abi::address::AddressKey;
use ipnet::IpNet;

/// A prefix in 128-bit form; IPv4 is mapped (`::ffff:0:0/96`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix {
    start: u128,
    bits: u32,
}

impl Prefix {
    pub(crate) fn of(net: IpNet) -> Prefix {
        let mapped = if matches!(net, IpNet::V4(_)) { 96 } else { 0 };
        let bits = u32::from(net.prefix_len()) + mapped;
        Prefix { start: number(net.network().into()), bits }
    }

    pub(crate) fn key(self) -> AddressKey {
        AddressKey { prefix_bits: self.bits, ip: Ip::from_octets(self.start.to_be_bytes()) }
    }

    pub(crate) fn contains(self, ip: Ip) -> bool {
        number(ip) & mask(self.bits) == self.start
    }

    fn end(self) -> u128 {
        self.start | !mask(self.bits)
    }
}

impl From<AddressKey> for Prefix {
    fn from(key: AddressKey) -> Prefix {
        Prefix { start: number(key.ip), bits: key.prefix_bits }
    }
}

fn number(ip: Ip) -> u128 {
    u128::from_be_bytes(ip.octets())
}

fn mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[derive(Debug, Default)]
pub(crate) struct PrefixOwners {
    owners: BTreeMap<Prefix, BTreeSet<String>>,
    /// Number of prefixes by length. Few lengths are in use.
    lengths: BTreeMap<u32, usize>,
}

impl PrefixOwners {
    pub(crate) fn add(&mut self, prefix: Prefix, name: &str) {
        let names = self.owners.entry(prefix).or_insert_with(|| {
            *self.lengths.entry(prefix.bits).or_default() += 1;
            BTreeSet::new()
        });
        names.insert(name.to_owned());
    }

    pub(crate) fn remove(&mut self, prefix: Prefix, name: &str) {
        let Some(names) = self.owners.get_mut(&prefix) else { return };
        names.remove(name);
        if names.is_empty() {
            self.owners.remove(&prefix);
            if let Some(count) = self.lengths.get_mut(&prefix.bits) {
                *count -= 1;
            }
            self.lengths.retain(|_, count| *count > 0);
        }
    }

    /// Prefixes that overlap `prefix`, including itself, with their nodes.
    pub(crate) fn overlapping(&self, prefix: Prefix) -> Vec<(Prefix, &str)> {
        let shorter = self.lengths.range(..prefix.bits).filter_map(|(bits, _)| {
            self.owners.get_key_value(&Prefix { start: prefix.start & mask(*bits), bits: *bits })
        });
        let within = self.owners.range(prefix..=Prefix { start: prefix.end(), bits: 128 });
        shorter
            .chain(within)
            .flat_map(|(prefix, names)| names.iter().map(|name| (*prefix, name.as_str())))
            .collect()
    }

    /// The node, and its prefix, that prevents `name` from owning `prefix`.
    pub(crate) fn conflict(&self, prefix: Prefix, name: &str) -> Option<(Prefix, &str)> {
        self.overlapping(prefix)
            .into_iter()
            .filter(|(_, other)| *other < name)
            .min_by_key(|(_, other)| *other)
    }

    /// The owner of exactly this prefix.
    pub(crate) fn owner(&self, prefix: Prefix) -> Option<&str> {
        let name = self.owners.get(&prefix)?.first()?;
        self.conflict(prefix, name).is_none().then_some(name)
    }
}
