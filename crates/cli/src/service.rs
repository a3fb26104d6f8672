//! `beeline service`: Services as programmed in the datapath.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::service::{
    BackendValue, CLASS_FIRST_EXACT, CLASS_NODE, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    SCOPE_EXTERNAL, SOURCE_SET_BITS, ServiceValue, SlotKey, SlotValue, SourceRangeKey, backend_state,
    service_flags,
};
use clap::Subcommand;
use serde::Serialize;

use crate::gather;
use crate::live::Live;
use crate::names::{Directory, protocol, socket_address};
use crate::output::{self, Format, Row};
use crate::target::Target;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List Service ports with their frontends and number of backends
    List,
    /// Show a Service with its backends
    Describe {
        /// Name (NAMESPACE/NAME or NAMESPACE/NAME:PORT), ID, or address with or without port
        service: String,
    },
}

/// A Service port.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Service {
    node: String,
    id: u32,
    name: Option<String>,
    frontends: Vec<String>,
    /// Traffic policy: `Cluster`, or `Local` for endpoints on this node only.
    policy: &'static str,
    slots: u32,
    generation: u32,
    /// If there are no slots: packets are dropped, because other nodes have endpoints.
    dropped: bool,
    affinity_s: u32,
    /// `maglev`, or `random`.
    algorithm: &'static str,
    /// Size of its Maglev table; 0 if it has none and endpoints have equal weight.
    shares: u32,
    #[serde(skip)]
    value: ServiceValue,
    #[serde(skip)]
    addresses: Vec<IpAddr>,
}

impl Row for Service {
    const HEADER: &'static [&'static str] = &["NODE", "ID", "SERVICE", "FRONTENDS", "BACKENDS"];
    fn cells(&self) -> Vec<String> {
        let name = self.name.clone().unwrap_or_else(|| "-".into());
        let slots = match (self.slots, self.policy) {
            (0, _) if self.dropped => "0 (dropped)".into(),
            (0, _) => "0 (rejected)".into(),
            (slots, "Local") => format!("{slots} (Local)"),
            (slots, _) => slots.to_string(),
        };
        vec![self.node.clone(), self.id.to_string(), name, self.frontends.join(" "), slots]
    }
}

/// A Service port with its backends.
#[derive(Debug, Serialize)]
struct ServiceDescription {
    #[serde(flatten)]
    service: Service,
    backends: Vec<Backend>,
    /// Slots without a backend: packets that select them are dropped.
    broken_slots: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Backend {
    slot: u32,
    id: u32,
    address: String,
    protocol: String,
    state: &'static str,
    /// Entries in the Maglev table.
    shares: u32,
    pod: Option<String>,
    node_id: u32,
}

/// The Service tables as read from the maps.
#[derive(Debug, Default)]
pub struct Tables {
    /// Classes by address.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Frontends.
    pub frontends: Vec<(FrontendKey, FrontendValue)>,
    /// Services.
    pub services: Vec<(u32, ServiceValue)>,
    /// Source ranges.
    pub source_ranges: Vec<SourceRangeKey>,
}

/// `beeline service ...`.
pub fn run(verb: &Verb, targets: &[Target], format: Format) -> Result<ExitCode> {
    match verb {
        Verb::List => {
            let (rows, code) = gather(targets, |target| list(target).map(|(rows, _)| rows));
            output::print(&rows, format, "No services found.")?;
            Ok(code)
        }
        Verb::Describe { service } => describe(service, targets, format),
    }
}

fn list(target: &Target) -> Result<(Vec<Service>, Directory)> {
    let names = Directory::fetch(target);
    let tables = Live::open(target)?.service_tables()?;
    Ok((rows(&target.label, &tables, &names), names))
}

fn rows(node: &str, tables: &Tables, names: &Directory) -> Vec<Service> {
    let mut addresses: HashMap<u32, Vec<IpAddr>> = HashMap::new();
    tables.addresses.iter().for_each(|(ip, class)| addresses.entry(*class).or_default().push(*ip));
    addresses.values_mut().for_each(|list| list.sort());
    let mut frontends: HashMap<u32, FrontendScopes> = HashMap::new();
    for (key, value) in &tables.frontends {
        let service_frontends = frontends.entry(value.service).or_default();
        let scopes = service_frontends.entry((key.class, key.port.get(), key.proto)).or_default();
        scopes[usize::from(key.scope == SCOPE_EXTERNAL)] = Some(value.source_ranges);
    }
    let none = FrontendScopes::new();
    let row = |(id, value): &(u32, ServiceValue)| {
        let service_frontends = frontends.get(id).unwrap_or(&none);
        let of = |class: u32| addresses.get(&class).cloned().unwrap_or_default();
        let mut shown: Vec<String> = service_frontends
            .iter()
            .flat_map(|(key, scopes)| frontend(*key, *scopes, &of(key.0), tables, names))
            .collect();
        shown.sort();
        Service {
            node: node.to_owned(),
            id: *id,
            name: names.service(*id).map(str::to_owned),
            frontends: shown,
            policy: if names.is_local(*id) { "Local" } else { "Cluster" },
            slots: value.slots,
            generation: value.generation,
            dropped: value.flags & service_flags::LOCAL != 0,
            affinity_s: value.affinity_s,
            algorithm: if value.flags & service_flags::MAGLEV != 0 { "maglev" } else { "random" },
            shares: value.maglev_size,
            value: *value,
            addresses: service_frontends
                .keys()
                .filter(|(class, ..)| *class >= CLASS_FIRST_EXACT)
                .flat_map(|(class, ..)| of(*class))
                .collect(),
        }
    };
    let mut rows: Vec<Service> = tables.services.iter().map(row).collect();
    rows.sort_by(|a, b| (a.name.is_none(), &a.name, a.id).cmp(&(b.name.is_none(), &b.name, b.id)));
    rows
}

/// Source range sets by class, port and protocol, for internal and external
/// clients. None: the frontend does not exist in that scope.
type FrontendScopes = BTreeMap<(u32, u16, u8), [Option<u32>; 2]>;

/// Describes a frontend: its kind, scope and source ranges.
fn frontend(
    (class, port, proto): (u32, u16, u8),
    scopes: [Option<u32>; 2],
    addresses: &[IpAddr],
    tables: &Tables,
    names: &Directory,
) -> Vec<String> {
    let scope = match scopes {
        [Some(_), None] => Some("internal"),
        [None, Some(_)] => Some("external"),
        _ => None,
    };
    let set = scopes.into_iter().flatten().max().unwrap_or(0);
    let from = (set != 0).then(|| format!("from {}", ranges(tables, set)));
    let words = |kind: &str| {
        // A ClusterIP is always internal.
        let scope = scope.filter(|scope| kind != "ClusterIP" || *scope == "external");
        let words = [Some(kind.to_owned()), scope.map(str::to_owned), from.clone()];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    };
    let name = protocol(proto);
    if class < CLASS_FIRST_EXACT {
        let node = if class == CLASS_NODE { "NODE" } else { "NODE(IPv6)" };
        return vec![format!("{name} {node}:{port} ({})", words("NodePort"))];
    }
    let kind = |ip: IpAddr| match names.frontend(ip, port, proto) {
        Some(kind) => kind,
        // Without the agent: only ClusterIPs have the internal scope alone.
        None if scope == Some("internal") => "ClusterIP",
        None => "LoadBalancer, ExternalIP or HostPort",
    };
    let shown = |ip: &IpAddr| format!("{name} {} ({})", socket_address(*ip, port), words(kind(*ip)));
    addresses.iter().map(shown).collect()
}

fn ranges(tables: &Tables, set: u32) -> String {
    let of_set = tables.source_ranges.iter().filter(|key| key.set == set);
    let mut ranges: Vec<String> = of_set
        .map(|key| {
            let bits = key.prefix_bits.saturating_sub(SOURCE_SET_BITS);
            let bits = if key.ip.is_v4() && bits >= 96 { bits - 96 } else { bits };
            format!("{}/{bits}", key.ip)
        })
        .collect();
    ranges.sort();
    if ranges.is_empty() { "no address".to_owned() } else { ranges.join(" ") }
}

fn describe(query: &str, targets: &[Target], format: Format) -> Result<ExitCode> {
    let (found, code) = gather(targets, |target| {
        let live = Live::open(target)?;
        let (services, names) = list(target)?;
        let matching = services.into_iter().filter(|service| service.matches(query));
        matching.map(|service| with_backends(service, &live, &names)).collect()
    });
    if found.is_empty() {
        anyhow::bail!(
            "Service `{query}` is not programmed; `beeline service list` shows the programmed Services"
        );
    }
    match format {
        Format::Json => output::json(&found)?,
        Format::Text => found.iter().try_for_each(|described| output::line(&described.text()))?,
    }
    Ok(code)
}

fn with_backends(service: Service, live: &Live, names: &Directory) -> Result<ServiceDescription> {
    let (mut backends, mut broken_slots) = (Vec::new(), Vec::new());
    let maglev_entries = live.maglev_entries(service.id, &service.value)?;
    for slot in 0..service.slots {
        let key = SlotKey { service: service.id, generation: service.generation, slot };
        let value: Option<SlotValue> = live.slot(&key)?;
        let backend = match value {
            Some(value) => live.backend(value.backend)?.map(|backend| (value.backend, backend)),
            None => None,
        };
        // New connections use the address in the slot, so it must match the backend.
        let backend = backend.filter(|(id, backend)| value == Some(SlotValue::of(*id, backend)));
        match backend {
            Some((id, value)) => {
                let shares = maglev_entries.get(&id).copied().unwrap_or(0);
                backends.push(Backend { shares, ..Backend::new(slot, id, &value, names) });
            }
            None => broken_slots.push(slot),
        }
    }
    Ok(ServiceDescription { service, backends, broken_slots })
}

impl Service {
    /// Whether a name, id or address given by the user refers to this Service.
    fn matches(&self, query: &str) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        let without_port = name.rsplit_once(':').map_or(name, |(name, _)| name);
        let by_address = query.parse().is_ok_and(|ip: IpAddr| self.addresses.contains(&ip));
        let by_frontend = self.frontends.iter().any(|f| f.split(' ').nth(1) == Some(query));
        name == query || without_port == query || by_address || by_frontend || query.parse() == Ok(self.id)
    }
}

impl Backend {
    fn new(slot: u32, id: u32, value: &BackendValue, names: &Directory) -> Backend {
        let ip = IpAddr::from(value.ip);
        Backend {
            slot,
            id,
            address: socket_address(ip, value.port.get()),
            protocol: protocol(value.proto),
            state: match value.state {
                backend_state::ACTIVE => "active",
                backend_state::TERMINATING => "terminating",
                backend_state::GONE => "gone",
                _ => "unknown",
            },
            shares: 0,
            pod: names.pod_or_node(ip).map(str::to_owned),
            node_id: value.node,
        }
    }
}

impl ServiceDescription {
    fn text(&self) -> String {
        let s = &self.service;
        let mut lines = vec![format!(
            "{} on {} (ID {})",
            s.name.as_deref().unwrap_or("Service without a known name"),
            s.node,
            s.id
        )];
        if s.policy == "Local" {
            lines.push("  Traffic policy:    Local (endpoints on this node only)".into());
        }
        if s.affinity_s != 0 {
            lines.push(format!("  Session affinity:  ClientIP, timeout {} s", s.affinity_s));
        }
        if s.shares != 0 {
            lines.push(format!(
                "  Load balancing:    {}, {} table entries{}",
                s.algorithm,
                s.shares,
                maglev_memory(s.shares)
            ));
        }
        lines.extend(s.frontends.iter().map(|frontend| format!("  Frontend:          {frontend}")));
        if s.slots == 0 && s.dropped {
            lines.push("  Backend:           none on this node; packets are dropped".into());
        } else if s.slots == 0 {
            lines.push("  Backend:           none ready; connections are rejected".into());
        }
        for b in &self.backends {
            let pod = b.pod.as_deref().map(|pod| format!("  {pod}")).unwrap_or_default();
            let share = match s.shares {
                0 => String::new(),
                all => format!("  {:.1} %", 100.0 * f64::from(b.shares) / f64::from(all)),
            };
            lines.push(format!("  Backend:           {} {} {}{share}{pod}", b.protocol, b.address, b.state));
        }
        if !self.broken_slots.is_empty() {
            lines.push(format!(
                "  Error:             slots {:?} have no backend (service_inconsistent)",
                self.broken_slots
            ));
        }
        lines.join("\n")
    }
}

/// Kernel memory of a Maglev table: hash elements, each rounded up to 256 bytes.
fn maglev_memory(entries: u32) -> String {
    let elements = entries.div_ceil(MAGLEV_SEGMENT_SIZE as u32);
    format!(" ({} KiB)", elements.div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::Port;
    use beeline_abi::service::SCOPE_INTERNAL;
    use beeline_api::{FrontendName, Names};

    fn tables() -> Tables {
        let frontend =
            |class, port| FrontendKey { class, port: Port::new(port), proto: 6, scope: SCOPE_INTERNAL };
        let external = |class, port| FrontendKey { scope: SCOPE_EXTERNAL, ..frontend(class, port) };
        let frontend_value = |service| FrontendValue { service, ..Default::default() };
        Tables {
            addresses: vec![
                ("10.96.0.7".parse().unwrap(), 16),
                ("fd00:10:96::7".parse().unwrap(), 17),
                ("192.0.2.1".parse().unwrap(), 18),
                ("172.30.0.11".parse().unwrap(), CLASS_NODE),
            ],
            frontends: vec![
                (frontend(16, 80), frontend_value(3)),
                (frontend(17, 80), frontend_value(3)),
                (frontend(CLASS_NODE, 30080), frontend_value(3)),
                (external(CLASS_NODE, 30080), frontend_value(3)),
                (frontend(18, 80), FrontendValue { service: 3, source_ranges: 1, ..Default::default() }),
                (external(18, 80), FrontendValue { service: 5, source_ranges: 1, ..Default::default() }),
                (external(2, 30080), FrontendValue { service: 5, source_ranges: 2, ..Default::default() }),
            ],
            services: vec![
                (3, ServiceValue { slots: 2, ..Default::default() }),
                (4, ServiceValue::default()),
                (5, ServiceValue { flags: service_flags::LOCAL, ..Default::default() }),
            ],
            source_ranges: vec![SourceRangeKey {
                prefix_bits: SOURCE_SET_BITS + 104,
                set: 1,
                ip: "10.0.0.0".parse::<IpAddr>().unwrap().into(),
            }],
        }
    }

    #[test]
    fn unit_services_are_listed_and_found_by_name_id_and_address() {
        let kind = |kind: &str| FrontendName {
            ip: "192.0.2.1".parse().unwrap(),
            port: 80,
            proto: 6,
            kind: kind.to_owned(),
        };
        let names = Directory::new(Names {
            services: vec![(3, "shop/web:http".into())],
            local_services: vec![5],
            frontends: vec![kind("LoadBalancer")],
            ..Default::default()
        });
        let rows = rows("node-1", &tables(), &names);
        let shown = [
            "TCP 10.96.0.7:80 (ClusterIP)",
            "TCP 192.0.2.1:80 (LoadBalancer, internal, from 10.0.0.0/8)",
            "TCP NODE:30080 (NodePort)",
            "TCP [fd00:10:96::7]:80 (ClusterIP)",
        ];
        assert_eq!(rows[0].frontends, shown);
        let shown = [
            "TCP 192.0.2.1:80 (LoadBalancer, external, from 10.0.0.0/8)",
            "TCP NODE(IPv6):30080 (NodePort, external, from no address)",
        ];
        let local = rows.iter().find(|row| row.id == 5).unwrap();
        assert_eq!((local.frontends.as_slice(), local.policy), (shown.map(String::from).as_slice(), "Local"));
        assert_eq!(local.cells()[4], "0 (dropped)");
        for query in [
            "shop/web",
            "shop/web:http",
            "3",
            "10.96.0.7",
            "10.96.0.7:80",
            "fd00:10:96::7",
            "[fd00:10:96::7]:80",
        ] {
            assert!(rows[0].matches(query), "{query}");
            assert!(!rows[1].matches(query), "{query}");
        }
        assert_eq!(rows[1].cells()[4], "0 (rejected)");
    }
}
