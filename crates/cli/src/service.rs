//! `beeline service`: services as the packets see them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::service::{
    BackendValue, CLASS_NODE, FrontendKey, FrontendValue, SCOPE_EXTERNAL, ServiceValue, SlotKey, SlotValue,
    backend_state,
};
use clap::Subcommand;
use serde::Serialize;

use crate::gather;
use crate::live::Live;
use crate::names::{Directory, protocol, socket_address};
use crate::output::{self, Format, Row};
use crate::place::Place;

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Every service port with its addresses and number of backends
    List,
    /// One service with its backends
    Describe {
        /// Name (namespace/name or namespace/name:port), number, or address (with or without port)
        service: String,
    },
}

/// A service port.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Service {
    node: String,
    id: u32,
    name: Option<String>,
    frontends: Vec<String>,
    slots: u32,
    generation: u32,
    #[serde(skip)]
    addresses: Vec<IpAddr>,
}

impl Row for Service {
    const HEADER: &'static [&'static str] = &["NODE", "ID", "SERVICE", "FRONTENDS", "BACKENDS"];
    fn cells(&self) -> Vec<String> {
        let name = self.name.clone().unwrap_or_else(|| "-".into());
        let slots = if self.slots == 0 { "0 (refused)".into() } else { self.slots.to_string() };
        vec![self.node.clone(), self.id.to_string(), name, self.frontends.join(" "), slots]
    }
}

/// A service port with its backends.
#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    service: Service,
    backends: Vec<Backend>,
    /// Slots that lead nowhere: packets that choose them are dropped.
    broken_slots: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Backend {
    slot: u32,
    id: u32,
    address: String,
    protocol: String,
    state: &'static str,
    weight: u16,
    pod: Option<String>,
    node_id: u32,
}

/// The tables of services, as read.
#[derive(Debug, Default)]
pub struct Tables {
    /// Classes by address.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Frontends.
    pub frontends: Vec<(FrontendKey, FrontendValue)>,
    /// Services.
    pub services: Vec<(u32, ServiceValue)>,
}

/// `beeline service ...`.
pub fn run(verb: &Verb, places: &[Place], format: Format) -> Result<ExitCode> {
    match verb {
        Verb::List => {
            let (rows, code) = gather(places, |place| list(place).map(|(rows, _)| rows));
            output::print(&rows, format, "No service is programmed.")?;
            Ok(code)
        }
        Verb::Describe { service } => describe(service, places, format),
    }
}

fn list(place: &Place) -> Result<(Vec<Service>, Directory)> {
    let names = Directory::ask(place);
    let tables = Live::open(place)?.service_tables()?;
    Ok((rows(&place.label, &tables, &names), names))
}

fn rows(node: &str, tables: &Tables, names: &Directory) -> Vec<Service> {
    let mut addresses: HashMap<u32, Vec<IpAddr>> = HashMap::new();
    tables.addresses.iter().for_each(|(ip, class)| addresses.entry(*class).or_default().push(*ip));
    addresses.values_mut().for_each(|list| list.sort());
    let mut frontends: HashMap<u32, Vec<&FrontendKey>> = HashMap::new();
    tables.frontends.iter().for_each(|(key, value)| frontends.entry(value.service).or_default().push(key));
    let row = |(id, value): &(u32, ServiceValue)| {
        let keys = frontends.get(id).map(Vec::as_slice).unwrap_or_default();
        let of = |key: &FrontendKey| addresses.get(&key.class).cloned().unwrap_or_default();
        let mut shown: Vec<String> = keys.iter().flat_map(|key| frontend(key, &of(key))).collect();
        shown.sort();
        Service {
            node: node.to_owned(),
            id: *id,
            name: names.service(*id).map(str::to_owned),
            frontends: shown,
            slots: value.slots,
            generation: value.generation,
            addresses: keys.iter().flat_map(|key| of(key)).collect(),
        }
    };
    let mut rows: Vec<Service> = tables.services.iter().map(row).collect();
    rows.sort_by(|a, b| (a.name.is_none(), &a.name, a.id).cmp(&(b.name.is_none(), &b.name, b.id)));
    rows
}

fn frontend(key: &FrontendKey, addresses: &[IpAddr]) -> Vec<String> {
    let scope = if key.scope == SCOPE_EXTERNAL { " (external)" } else { "" };
    let (proto, port) = (protocol(key.proto), key.port.get());
    match key.class {
        CLASS_NODE => vec![format!("{proto} NODE:{port}{scope}")],
        _ => addresses.iter().map(|ip| format!("{proto} {}{scope}", socket_address(*ip, port))).collect(),
    }
}

fn describe(wanted: &str, places: &[Place], format: Format) -> Result<ExitCode> {
    let (found, code) = gather(places, |place| {
        let live = Live::open(place)?;
        let (services, names) = list(place)?;
        let matching = services.into_iter().filter(|service| service.is(wanted));
        matching.map(|service| with_backends(service, &live, &names)).collect()
    });
    if found.is_empty() {
        anyhow::bail!("no service `{wanted}` is programmed; `beeline service list` shows those that are");
    }
    match format {
        Format::Json => output::json(&found)?,
        Format::Text => found.iter().try_for_each(|described| output::line(&described.text()))?,
    }
    Ok(code)
}

fn with_backends(service: Service, live: &Live, names: &Directory) -> Result<Described> {
    let (mut backends, mut broken_slots) = (Vec::new(), Vec::new());
    for slot in 0..service.slots {
        let key = SlotKey { service: service.id, generation: service.generation, slot };
        let value: Option<SlotValue> = live.slot(&key)?;
        let backend = match value {
            Some(value) => live.backend(value.backend)?.map(|backend| (value.backend, backend)),
            None => None,
        };
        match backend {
            Some((id, value)) => backends.push(Backend::new(slot, id, &value, names)),
            None => broken_slots.push(slot),
        }
    }
    Ok(Described { service, backends, broken_slots })
}

impl Service {
    /// Does a user's word mean this service?
    fn is(&self, wanted: &str) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        let unported = name.rsplit_once(':').map_or(name, |(name, _)| name);
        let by_address = wanted.parse().is_ok_and(|ip: IpAddr| self.addresses.contains(&ip));
        let by_frontend = self.frontends.iter().any(|f| f.split(' ').nth(1) == Some(wanted));
        name == wanted || unported == wanted || by_address || by_frontend || wanted.parse() == Ok(self.id)
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
            weight: value.weight,
            pod: names.host(ip).map(str::to_owned),
            node_id: value.node,
        }
    }
}

impl Described {
    fn text(&self) -> String {
        let s = &self.service;
        let mut lines =
            vec![format!("{} on {} (id {})", s.name.as_deref().unwrap_or("unnamed service"), s.node, s.id)];
        lines.extend(s.frontends.iter().map(|frontend| format!("  frontend  {frontend}")));
        if s.slots == 0 {
            lines.push("  no ready endpoints: connections are refused at once".into());
        }
        for b in &self.backends {
            let pod = b.pod.as_deref().map(|pod| format!("  {pod}")).unwrap_or_default();
            lines.push(format!("  backend   {} {} {}{pod}", b.protocol, b.address, b.state));
        }
        if !self.broken_slots.is_empty() {
            lines.push(format!(
                "  BROKEN    slots {:?} lead to no backend (service_inconsistent)",
                self.broken_slots
            ));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::Port;
    use beeline_abi::service::SCOPE_INTERNAL;
    use beeline_api::Names;

    fn tables() -> Tables {
        let frontend =
            |class, port| FrontendKey { class, port: Port::new(port), proto: 6, scope: SCOPE_INTERNAL };
        let leads_to = |service| FrontendValue { service, ..Default::default() };
        Tables {
            addresses: vec![("10.96.0.7".parse().unwrap(), 16), ("fd00:10:96::7".parse().unwrap(), 17)],
            frontends: vec![
                (frontend(16, 80), leads_to(3)),
                (frontend(17, 80), leads_to(3)),
                (frontend(CLASS_NODE, 30080), leads_to(3)),
            ],
            services: vec![
                (3, ServiceValue { slots: 2, ..Default::default() }),
                (4, ServiceValue::default()),
            ],
        }
    }

    #[test]
    fn unit_tables_become_rows_that_answer_to_every_name() {
        let names =
            Directory::new(Names { services: vec![(3, "shop/web:http".into())], ..Default::default() });
        let rows = rows("node-1", &tables(), &names);
        assert_eq!(rows[0].frontends, ["TCP 10.96.0.7:80", "TCP NODE:30080", "TCP [fd00:10:96::7]:80"]);
        for word in [
            "shop/web",
            "shop/web:http",
            "3",
            "10.96.0.7",
            "10.96.0.7:80",
            "fd00:10:96::7",
            "[fd00:10:96::7]:80",
        ] {
            assert!(rows[0].is(word), "{word}");
            assert!(!rows[1].is(word), "{word}");
        }
        assert_eq!(rows[1].cells()[4], "0 (refused)");
    }
}
