//! Sockets that the hooks connected to a backend that is gone: nobody will
//! answer them, and datagram sockets would never learn it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use beeline_abi::ip::proto;
use beeline_abi::service::BackendValue;
use beeline_abi::socket::{SocketKey, SocketValue, direction};
use beeline_sync::TableError;

use super::tables::KernelTable;
use crate::netlink::{NetlinkError, SocketDiag};

/// What sockets have to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedBackends {
    /// Backends that nobody has any more, by number.
    pub backends: HashMap<u32, BackendValue>,
    /// Services with a backend that serves them no longer, though perhaps
    /// others: datagrams leave it.
    pub service_backends: HashSet<(u32, u32)>,
}

impl RemovedBackends {
    /// Nobody has to leave.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty() && self.service_backends.is_empty()
    }

    /// Adds what another one says.
    pub fn extend(&mut self, more: RemovedBackends) {
        self.backends.extend(more.backends);
        self.service_backends.extend(more.service_backends);
    }

    fn includes(&self, key: &SocketKey, value: &SocketValue) -> bool {
        // The number may have passed to another backend meanwhile.
        let is_same = |backend: &BackendValue| {
            (backend.ip, backend.port, backend.proto) == (value.ip, value.port, key.proto)
        };
        self.backends.get(&value.backend).is_some_and(is_same)
            || key.proto == proto::UDP && self.service_backends.contains(&(value.service, value.backend))
    }
}

/// What is to be destroyed, in whichever network namespaces it is.
#[derive(Debug, Default)]
pub struct StaleSockets {
    /// Peers of each socket, by its cookie: a cookie is never used twice.
    peers: HashMap<u64, Vec<(u8, SocketAddr)>>,
    /// Protocols and ports of all of them: what the kernel is asked for.
    queries: BTreeSet<(u8, u16)>,
}

impl StaleSockets {
    /// Reads the socket table. Costs as much as it holds (it is bounded),
    /// whatever is gone.
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

    /// Nothing is left to look for.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Destroys those that are in the network namespace of `diag` and still
    /// connected to the backend. Returns how many.
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

/// Families of sockets; one of IPv6 may be connected to an IPv4 address.
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
            // The way back, another backend, and one that has the number now.
            entry(2, 7, 1, direction::BACKEND),
            entry(3, 8, 1, direction::FRONTEND),
            entry(4, 7, 2, direction::FRONTEND),
            // The same backend, asked for by another service and by this one.
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
