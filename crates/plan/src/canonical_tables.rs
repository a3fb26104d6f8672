//! Tables as sorted text without the allocated ids. Two tables have the same
//! effect on packets if and only if their texts are equal.

use std::collections::{BTreeMap, BTreeSet};

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, kind};
use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_abi::service::{
    BackendValue, CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    SCOPE_EXTERNAL, SLOT_BY_BACKEND, SOURCE_SET_BITS, ServiceValue, SlotKey, SlotValue, address_flags,
    backend_state, service_flags, slot_flags,
};
use beeline_sync::Contents;

use crate::frontend_address::protocol_name;

/// The canonical text. Entries that nothing refers to are listed as `orphan`,
/// missing entries as `missing`.
pub fn canonical(contents: &Contents) -> String {
    let mut lines: Vec<String> = Vec::new();
    nodes(contents, &mut lines);
    addresses(contents, &mut lines);
    endpoints(contents, &mut lines);
    let sockets =
        |flags: u32| if flags & namespace_flags::SOCKETS != 0 { "translated" } else { "not translated" };
    let namespace = |(cookie, value): (&u64, &NamespaceValue)| {
        format!("namespace {cookie} sockets {}", sockets(value.flags))
    };
    lines.extend(contents.namespace.iter().map(namespace));
    services(contents, &mut lines);
    lines.sort();
    lines.join("\n")
}

fn node_name(contents: &Contents, id: u32) -> String {
    match contents.node.get(&id) {
        None if id == 0 => "-".to_owned(),
        None => "missing".to_owned(),
        Some(node) if !node.ipv4.is_unspecified() => node.ipv4.to_string(),
        Some(node) => node.ipv6.to_string(),
    }
}

fn nodes(contents: &Contents, lines: &mut Vec<String>) {
    for (id, node) in &contents.node {
        let prefixes: Vec<String> = contents
            .address
            .iter()
            .filter(|(_, value)| value.node == *id)
            .map(|(key, _)| prefix_text(key))
            .collect();
        lines.push(format!(
            "node {} {} mode {} prefixes {}",
            node.ipv4,
            node.ipv6,
            node.mode,
            prefixes.join(" ")
        ));
    }
}

fn prefix_text(key: &AddressKey) -> String {
    if key.ip.is_v4() && key.prefix_bits >= 96 {
        format!("{}/{}", key.ip, key.prefix_bits - 96)
    } else {
        format!("{}/{}", key.ip, key.prefix_bits)
    }
}

fn addresses(contents: &Contents, lines: &mut Vec<String>) {
    for (key, value) in &contents.address {
        let what = match value.kind {
            kind::LOCAL_POD => "local pods",
            kind::REMOTE_POD => "remote pods",
            kind::LOCAL_NODE => "own node",
            kind::REMOTE_NODE => "remote node",
            kind::SERVICE_RANGE => "service range",
            kind::NATIVE_RANGE => "native range",
            _ => "unknown kind",
        };
        lines.push(format!(
            "address {} {what} node {} identity {}",
            prefix_text(key),
            node_name(contents, value.node),
            value.identity
        ));
    }
}

fn endpoints(contents: &Contents, lines: &mut Vec<String>) {
    for (ip, value) in &contents.endpoint {
        lines.push(format!("endpoint {ip} device {} mac {} id {}", value.ifindex, value.pod_mac, value.id));
    }
}

fn services(contents: &Contents, lines: &mut Vec<String>) {
    let mut class_names: BTreeMap<u32, Vec<&Ip>> = BTreeMap::new();
    for (ip, value) in &contents.service_address {
        class_names.entry(value.class).or_default().push(ip);
        let exclusive = if value.flags & address_flags::EXCLUSIVE != 0 { " exclusive" } else { "" };
        let node =
            if is_node(value.class) || value.flags & address_flags::ALSO_NODE != 0 { " node" } else { "" };
        let own = if is_node(value.class) || !exclusive.is_empty() { "" } else { " own ports" };
        lines.push(format!("service address {ip}{exclusive}{own}{node}"));
    }
    let mut referenced: BTreeSet<u32> = BTreeSet::new();
    for (key, value) in &contents.frontend {
        referenced.insert(value.service);
        let addresses = class_names.get(&key.class).map(Vec::as_slice).unwrap_or_default();
        lines.push(frontend_line(contents, key, addresses, value));
    }
    let used = used_slots(contents);
    orphans(contents, &referenced, &used, lines);
    unselected(contents, lines);
}

fn is_node(class: u32) -> bool {
    [CLASS_NODE, CLASS_NODE_IPV6].contains(&class)
}

fn frontend_line(contents: &Contents, key: &FrontendKey, addresses: &[&Ip], value: &FrontendValue) -> String {
    let address = match addresses {
        _ if key.class == CLASS_NODE => "nodes".to_owned(),
        _ if key.class == CLASS_NODE_IPV6 => "nodes(IPv6)".to_owned(),
        [] => "orphan".to_owned(),
        _ => addresses.iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(","),
    };
    let scope = if key.scope == SCOPE_EXTERNAL { " external" } else { "" };
    let proto = protocol_name(key.proto);
    let from = match value.source_ranges {
        0 => String::new(),
        set => format!(" from {}", source_ranges(contents, set)),
    };
    let backends = match contents.service.get(&value.service) {
        None => "missing".to_owned(),
        Some(of) if of.slots == 0 && of.flags & service_flags::LOCAL != 0 => {
            format!("dropped{}{}", service_text(of), quiescing(contents, value.service))
        }
        Some(of) if of.slots == 0 => {
            format!("refused{}{}", service_text(of), quiescing(contents, value.service))
        }
        Some(of) => {
            let (slots, maglev) =
                (backends(contents, value.service, of), maglev_table(contents, value.service, of));
            let quiescing = quiescing(contents, value.service);
            format!("{}{}{quiescing}{maglev}", slots.join(" "), service_text(of))
        }
    };
    format!("frontend {address} {}/{proto}{scope}{from} -> {backends}", key.port)
}

fn source_ranges(contents: &Contents, set: u32) -> String {
    let of_set = contents.source_range.keys().filter(|key| key.set == set);
    let mut ranges: Vec<String> = of_set
        .map(|key| prefix_text(&AddressKey { prefix_bits: key.prefix_bits - SOURCE_SET_BITS, ip: key.ip }))
        .collect();
    ranges.sort();
    if ranges.is_empty() { "none".to_owned() } else { ranges.join(",") }
}

fn service_text(value: &ServiceValue) -> String {
    let mut text = String::new();
    if value.affinity_s != 0 {
        text += &format!(" affinity {} s", value.affinity_s);
    }
    if value.flags & service_flags::MAGLEV != 0 {
        text += " maglev";
    }
    let shown = service_flags::LOCAL | service_flags::MAGLEV | service_flags::SLOTS_BY_BACKEND;
    let others = value.flags & !shown;
    if others != 0 {
        text += &format!(" flags {others}");
    }
    text
}

fn backends(contents: &Contents, service: u32, value: &ServiceValue) -> Vec<String> {
    let slots = (0..value.slots).map(|slot| SlotKey { service, generation: value.generation, slot });
    let mut backends: Vec<String> = slots.map(|key| slot_text(contents, contents.slot.get(&key))).collect();
    backends.sort();
    backends
}

/// The backend in a slot, and the slot's own address if it differs.
fn slot_text(contents: &Contents, slot: Option<&SlotValue>) -> String {
    let found = slot.and_then(|slot| Some((slot, contents.backend.get(&slot.backend)?)));
    match found {
        None => "missing".to_owned(),
        Some((slot, backend)) if (slot.ip, slot.port) != (backend.ip, backend.port) => {
            format!("{}({} {} in the slot)", backend_text(contents, backend), slot.ip, slot.port)
        }
        Some((_, backend)) => backend_text(contents, backend),
    }
}

/// Number of Maglev table entries for each backend, and a checksum of their
/// order.
fn maglev_table(contents: &Contents, service: u32, value: &ServiceValue) -> String {
    let (mut counts, mut order) = (BTreeMap::new(), 0_u64);
    for index in 0..value.maglev_size {
        let (slot, at) = (index / MAGLEV_SEGMENT_SIZE as u32, index as usize % MAGLEV_SEGMENT_SIZE);
        let segment = contents.maglev.get(&SlotKey { service, generation: value.maglev_generation, slot });
        let backend = segment.and_then(|segment| contents.backend.get(&segment.backends[at]));
        let text = backend.map_or("missing".to_owned(), |backend| backend_text(contents, backend));
        order =
            text.bytes().fold(order, |sum, byte| sum.rotate_left(5) ^ u64::from(byte).wrapping_mul(0x9e37));
        *counts.entry(text).or_insert(0_u32) += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(who, count)| format!("{who} {count}")).collect();
    if counts.is_empty() { String::new() } else { format!(" table {} order {order:x}", counts.join(", ")) }
}

fn backend_text(contents: &Contents, backend: &BackendValue) -> String {
    let ip = if backend.ip.is_v4() { backend.ip.to_string() } else { format!("[{}]", backend.ip) };
    let unusual = match (backend.state, backend.weight) {
        (backend_state::ACTIVE, 1) => String::new(),
        (backend_state::TERMINATING, 1) => "(terminating)".to_owned(),
        (state, weight) => format!("(state {state} weight {weight})"),
    };
    format!("{ip}:{}@{}{unusual}", backend.port, node_name(contents, backend.node))
}

/// The slots of a service that are looked up by backend id.
fn slots_by_backend(contents: &Contents, service: u32) -> impl Iterator<Item = (&SlotKey, &SlotValue)> {
    let key = |slot| SlotKey { service, generation: SLOT_BY_BACKEND, slot };
    contents.slot.range(key(0)..=key(u32::MAX))
}

/// Backends that keep their clients and get no new ones.
fn quiescing(contents: &Contents, service: u32) -> String {
    let slots_of =
        slots_by_backend(contents, service).filter(|(_, slot)| slot.flags & slot_flags::QUIESCING != 0);
    let mut quiescing: Vec<String> = slots_of.map(|(_, slot)| slot_text(contents, Some(slot))).collect();
    quiescing.sort();
    if quiescing.is_empty() { String::new() } else { format!(" quiescing {}", quiescing.join(" ")) }
}

fn used_slots(contents: &Contents) -> BTreeSet<SlotKey> {
    let mut used = BTreeSet::new();
    for (service, value) in &contents.service {
        let slots =
            (0..value.slots).map(|slot| SlotKey { service: *service, generation: value.generation, slot });
        used.extend(slots.clone());
        if value.has_slots_by_backend() {
            let in_slots: BTreeSet<u32> =
                slots.filter_map(|key| Some(contents.slot.get(&key)?.backend)).collect();
            let slots_of = slots_by_backend(contents, *service).filter(|(key, slot)| {
                slot.flags & slot_flags::QUIESCING != 0 && contents.backend.contains_key(&key.slot)
                    || in_slots.contains(&key.slot)
            });
            used.extend(slots_of.map(|(key, _)| *key));
        }
    }
    used
}

fn orphans(
    contents: &Contents,
    referenced: &BTreeSet<u32>,
    used: &BTreeSet<SlotKey>,
    lines: &mut Vec<String>,
) {
    for id in contents.service.keys().filter(|id| !referenced.contains(id)) {
        lines.push(format!("orphan service {id}"));
    }
    for key in contents.slot.keys().filter(|key| !used.contains(key)) {
        lines.push(format!(
            "orphan slot {} of generation {} of service {}",
            key.slot, key.generation, key.service
        ));
    }
    for key in contents.maglev.keys() {
        let current = contents.service.get(&key.service).is_some_and(|of| {
            of.maglev_generation == key.generation
                && key.slot < of.maglev_size.div_ceil(MAGLEV_SEGMENT_SIZE as u32)
        });
        if !current {
            lines.push(format!("orphan Maglev segment {key:?}"));
        }
    }
    let sets: BTreeSet<u32> = contents.frontend.values().map(|value| value.source_ranges).collect();
    for key in contents.source_range.keys().filter(|key| !sets.contains(&key.set)) {
        lines.push(format!("orphan source range {}/{} of set {}", key.ip, key.prefix_bits, key.set));
    }
}

/// Backends that are in no slot: endpoints that are terminating, not ready, or
/// excluded by hints.
fn unselected(contents: &Contents, lines: &mut Vec<String>) {
    let used: BTreeSet<u32> = contents.slot.values().map(|slot| slot.backend).collect();
    for (_, backend) in contents.backend.iter().filter(|(id, _)| !used.contains(id)) {
        let proto = protocol_name(backend.proto);
        lines.push(format!("unselected {}/{proto}", backend_text(contents, backend)));
    }
}
