//! Sockets that the socket hooks connected to a backend that was removed. The
//! backend no longer answers, and a UDP socket would never notice; destroying
//! the socket makes the application connect again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use beeline_abi::ip::proto;
use beeline_abi::service::BackendValue;
use beeline_abi::socket::{SocketKey, SocketValue, direction};
use beeline_sync::TableError;

use super::tables::KernelTable;
use crate::netlink::{NetlinkError, SocketDiag};

/// Backends whose sockets must be destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedBackends {
    /// Removed backends by ID.
    pub backends: HashMap<u32, BackendValue>,
    /// Pairs of service ID and backend ID: the backend no longer serves the
    /// Service, but may serve others. Only UDP sockets are destroyed.
    pub service_backends: HashSet<(u32, u32)>,
}

impl RemovedBackends {
    /// True if no socket must be destroyed.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty() && self.service_backends.is_empty()
    }

    /// Adds the backends of `more`.
    pub fn extend(&mut self, more: RemovedBackends) {
        self.backends.extend(more.backends);
        self.service_backends.extend(more.service_backends);
    }

    fn includes(&self, key: &SocketKey, value: &SocketValue) -> bool {
        // The ID may have been reused for another backend.
        let is_same = |backend: &BackendValue| {
            (backend.ip, backend.port, backend.proto) == (value.ip, value.port, key.proto)
        };
        self.backends.get(&value.backend).is_some_and(is_same)
            || key.proto == proto::UDP && self.service_backends.contains(&(value.service, value.backend))
    }
}

/// Sockets to destroy, in any network namespace.
#[derive(Debug, Default)]
pub struct StaleSockets {
    /// Peers of each socket, by socket cookie. A cookie is never reused.
    peers: HashMap<u64, Vec<(u8, SocketAddr)>>,
    /// Protocol and remote port of all sockets: one sock_diag query for each.
    queries: BTreeSet<(u8, u16)>,
}

impl StaleSockets {
    /// Reads the whole socket table, which is bounded, and selects the sockets
    /// of removed backends.
    pub fn find(
        table: &KernelTable<SocketKey, SocketValue>,
        removed: &RemovedBackends,
    ) -> Result<StaleSockets, TableError> {
        Ok(StaleSockets::among(table.entries()?, removed))
    }

    fn among(entries: Vec<(SocketKey, SocketValue)>, removed: &RemovedBackends) -> StaleSockets {
        let mut stale = StaleSockets::default();
        for (key, value) in entries {
            if key.direction == direction::FRONTEND && removed.includes(&key, &value) {
                let peer = SocketAddr::new(IpAddr::from(value.ip), value.port.get());
                stale.peers.entry(key.cookie).or_default().push((key.proto, peer));
                stale.queries.insert((key.proto, peer.port()));
            }
        }
        stale
    }

    /// True if all sockets were destroyed.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Destroys the sockets that are in the network namespace of `diag` and
    /// still connected to the backend. Returns how many were destroyed.
    pub fn destroy(&mut self, diag: &mut SocketDiag) -> Result<u64, NetlinkError> {
        let mut destroyed = 0;
        for (protocol, port) in &self.queries {
            for family in families(*protocol) {
                for socket in diag.connected(family, *protocol, Some(*port))? {
                    let peers = self.peers.get(&socket.cookie);
                    if peers.is_some_and(|peers| peers.contains(&(*protocol, socket.peer))) {
                        destroyed += u64::from(diag.destroy(&socket)?);
                        self.peers.remove(&socket.cookie);
                    }
                }
            }
        }
        Ok(destroyed)
    }
}

/// Address families to query. An IPv6 socket may be connected to an IPv4 address.
fn families(protocol: u8) -> Vec<u8> {
    match protocol {
        proto::TCP | proto::UDP => vec![libc::AF_INET as u8, libc::AF_INET6 as u8],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use beeline_abi::{Ip, Port};

    use super::*;

    #[test]
    fn unit_only_sockets_of_removed_backends_are_stale() {
        let ip = |last: u8| Ip::from(IpAddr::from([10, 0, 0, last]));
        let entry = |cookie, backend, last, direction| {
            let key = SocketKey { cookie, proto: proto::UDP, direction, ..SocketKey::default() };
            let service = 1 + u32::from(cookie == 5);
            (key, SocketValue { ip: ip(last), port: Port::new(53), service, backend, ..Default::default() })
        };
        let removed =
            BackendValue { ip: ip(1), port: Port::new(53), proto: proto::UDP, ..Default::default() };
        let entries = vec![
            entry(1, 7, 1, direction::FRONTEND),
            // The reverse entry, another backend, and a backend that reuses the ID.
            entry(2, 7, 1, direction::BACKEND),
            entry(3, 8, 1, direction::FRONTEND),
            entry(4, 7, 2, direction::FRONTEND),
            // The same backend, reached through another Service and through this one.
            entry(5, 9, 3, direction::FRONTEND),
            entry(6, 9, 3, direction::FRONTEND),
        ];
        let removed = RemovedBackends {
            backends: HashMap::from([(7, removed)]),
            service_backends: HashSet::from([(1, 9)]),
        };
        let mut found: Vec<u64> = StaleSockets::among(entries, &removed).peers.into_keys().collect();
        found.sort_unstable();
        assert_eq!(found, [1, 6]);
    }
}
