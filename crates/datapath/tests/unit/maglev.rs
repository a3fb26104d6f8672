//! Maglev tables: weighted random choice, and clients that map to one backend on
//! every node.

use std::collections::BTreeMap;

use beeline_abi::conntrack::ConntrackKey;
use beeline_abi::service::{
    BackendValue, CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    MaglevSegment, SCOPE_EXTERNAL, ServiceAddressValue, SlotKey, backend_state, service_flags,
};
use beeline_abi::{Ip, Port};
use beeline_datapath::native::build::{Build, Transport};
use beeline_datapath::platform::Step;

use crate::world::{FAMILIES, Family, Sent, World};

const NODE_PORT: u16 = 30080;
const SYN: u8 = 2;

fn tcp(sport: u16, dport: u16) -> Transport {
    Transport::Tcp { sport, dport, flags: SYN, sequence: 1, acknowledged: 0 }
}

/// A node whose Service 1 has these backends (ids from 500 on, port 8000 on),
/// each as often as it says; served at the node's NodePort as well.
fn node(f: Family, weights: &[u32], flags: u32) -> World {
    let mut world = World::new(f);
    let class = if f.pod.is_v4() { CLASS_NODE } else { CLASS_NODE_IPV6 };
    world.tables.service_address.insert(f.node, ServiceAddressValue { class, flags: 0 });
    let key = FrontendKey { class, port: Port::new(NODE_PORT), proto: 6, scope: SCOPE_EXTERNAL };
    world.tables.frontend.insert(key, FrontendValue { service: 1, ..FrontendValue::default() });
    let mut entries: Vec<u32> =
        (0..).zip(weights).flat_map(|(n, count)| (0..*count).map(move |_| 500 + n)).collect();
    // In an order that has nothing to do with the backends' numbers.
    entries.sort_by_key(|id| id.wrapping_mul(0x9e37_79b9).rotate_left(*id));
    for n in 0..weights.len() as u32 {
        let port = Port::new(8000 + n as u16);
        let value = BackendValue {
            ip: f.far,
            port,
            state: backend_state::ACTIVE,
            node: 2,
            ..BackendValue::default()
        };
        world.tables.backend.insert(500 + n, value);
    }
    for (slot, segment) in (0..).zip(entries.chunks(MAGLEV_SEGMENT_SIZE)) {
        let mut value = MaglevSegment::default();
        value.backends[..segment.len()].copy_from_slice(segment);
        world.tables.maglev.insert(SlotKey { service: 1, generation: 7, slot }, value);
    }
    let service = world.tables.service.get_mut(&1).expect("the service is there");
    (service.maglev_size, service.maglev_generation, service.flags) = (entries.len() as u32, 7, flags);
    if let Some(config) = &mut world.tables.config {
        config.node = 1;
        (config.node_ipv4, config.node_ipv6) = (f.node, f.node);
    }
    world
}

fn chosen(sent: &Sent) -> u32 {
    let of_service = |step: &Step| match step {
        Step::Service { backend, .. } => Some(*backend),
        _ => None,
    };
    sent.steps.iter().find_map(of_service).unwrap_or_else(|| panic!("no backend: {sent:#?}"))
}

#[test]
fn unit_random_choice_follows_weights() {
    for f in FAMILIES {
        let mut world = node(f, &[90, 9, 1], 0);
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for n in 0..10_000_u32 {
            world.random = n.wrapping_mul(0x9e37_79b9);
            world.tables.conntrack.clear();
            let sent = world.pod_sends(Build::new(f.pod, f.service, tcp(40_000, 80)));
            *counts.entry(chosen(&sent)).or_default() += 1;
        }
        let near = |id: u32, ideal: u32| counts[&id].abs_diff(ideal) <= ideal / 10;
        assert!(near(500, 9_000) && near(501, 900) && near(502, 100), "{counts:?}");
    }
}

#[test]
fn unit_a_client_maps_to_one_backend_on_every_node() {
    for f in FAMILIES {
        let weights = [84; 3];
        let (mut here, mut there) =
            (node(f, &weights, service_flags::MAGLEV), node(f, &weights, service_flags::MAGLEV));
        // The other node has another address, and numbers its backends in
        // another way; its table is made of the same backends.
        let other = |id: u32| 1_502 - id;
        for id in 500..503 {
            let value = here.tables.backend[&id];
            there.tables.backend.remove(&id);
            there.tables.backend.insert(other(id), value);
        }
        for segment in there.tables.maglev.values_mut() {
            segment.backends.iter_mut().filter(|id| **id != 0).for_each(|id| *id = other(*id));
        }
        there.random = 0xdead_beef;
        let asked = there.family.next_hop;
        let class = there.tables.service_address[&f.node];
        there.tables.service_address.insert(asked, class);
        let own =
            there.tables.address.iter().find(|(key, _)| key.ip == f.node).map(|(_, value)| *value).unwrap();
        there
            .tables
            .address
            .iter_mut()
            .filter(|(key, _)| key.ip == asked)
            .for_each(|(_, value)| *value = own);
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for sport in 20_000..23_000 {
            let a = chosen(&here.uplink_receives(Build::new(f.external, f.node, tcp(sport, NODE_PORT))));
            let b = chosen(&there.uplink_receives(Build::new(f.external, asked, tcp(sport, NODE_PORT))));
            assert_eq!(b, other(a), "port {sport}");
            *counts.entry(a).or_default() += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}

#[test]
fn unit_with_affinity_only_the_client_address_is_hashed() {
    for f in FAMILIES {
        let mut seen: BTreeMap<Ip, u32> = BTreeMap::new();
        let mut world = node(f, &[84; 3], service_flags::MAGLEV);
        world.tables.service.get_mut(&1).unwrap().affinity_s = 600;
        for n in 0..600_u16 {
            let mut octets = f.external.octets();
            octets[15] = (n % 20) as u8 + 1;
            let client = Ip::from_octets(octets);
            // Another entry node knows nothing of the client.
            world.tables.affinity.clear();
            let sent = world.uplink_receives(Build::new(client, f.node, tcp(30_000 + n, NODE_PORT)));
            let backend = chosen(&sent);
            assert_eq!(*seen.entry(client).or_insert(backend), backend, "{client}");
        }
        let used: std::collections::BTreeSet<u32> = seen.values().copied().collect();
        assert!(used.len() > 1, "20 clients do not all lead to one backend: {seen:?}");
    }
}

/// The client's port is taken towards the backend: it gets another port there,
/// not another backend.
#[test]
fn unit_a_taken_port_does_not_change_the_choice() {
    for f in FAMILIES {
        let mut world = node(f, &[84; 3], service_flags::MAGLEV);
        let first = world.pod_sends(Build::new(f.pod, f.service, tcp(40_000, 80)));
        let backend = chosen(&first);
        let taken: Vec<ConntrackKey> = world.tables.conntrack.keys().copied().collect();
        assert_eq!(taken.len(), 2);
        world.second_service();
        let second = world.pod_sends(Build::new(f.pod, f.free_service, tcp(40_000, 80)));
        assert_eq!(chosen(&second), backend);
        assert!(
            second.steps.iter().any(|step| matches!(step, Step::Snat { ip, .. } if *ip == f.pod)),
            "{second:#?}"
        );
    }
}

/// Recorded values: nodes of different releases must agree.
#[test]
fn unit_the_hash_never_changes() {
    let f = FAMILIES[0];
    let mut world = node(f, &[1; 64], service_flags::MAGLEV);
    let entries: Vec<u32> = (0..8)
        .map(|n| chosen(&world.uplink_receives(Build::new(f.external, f.node, tcp(50_000 + n, NODE_PORT)))))
        .collect();
    let index_of = |id: &u32| {
        let segments =
            [0, 1].map(|slot| world.tables.maglev[&SlotKey { service: 1, generation: 7, slot }].backends);
        segments.concat().iter().position(|known| known == id).unwrap()
    };
    assert_eq!(entries.iter().map(index_of).collect::<Vec<_>>(), [50, 32, 57, 8, 14, 16, 7, 6]);
}
