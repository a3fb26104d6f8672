//! Computes the response to a DNS query. Pure.

use std::net::IpAddr;

use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::facts::{EndpointFacts, Facts, Key, PortFacts};
use crate::names::{DOMAIN, NAMESPACE, SERVICE};
use crate::question::{Question, question};

/// TTL of records in seconds.
const TTL_S: u32 = 5;

/// TTL of the version record in seconds.
const VERSION_TTL_S: u32 = 28800;

/// The implemented version of the specification.
const VERSION: &str = "1.1.0";

/// Maximum length of a CNAME chain.
const ALIASES_MAX: usize = 8;

/// Content of a DNS response.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Whether the name exists (no NXDOMAIN).
    pub code: ResponseCode,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Additional section.
    pub additionals: Vec<Record>,
    /// Authority section (SOA) of negative responses.
    pub start_of_authority: Option<Record>,
    /// Whether the name is in a zone of this cluster.
    pub authoritative: bool,
}

/// Records of a name: none if it does not exist, otherwise all records of the
/// requested type.
type Found = Option<Vec<RData>>;

/// Answers a query. `name` keeps the case of the query.
pub fn answer(facts: &Facts, name: &Name, kind: RecordType) -> Answer {
    let mut answer = Answer { authoritative: true, ..Answer::default() };
    let mut owner = name.clone();
    for _ in 0..ALIASES_MAX {
        let asked = question(&LowerName::from(&owner));
        if asked == Question::Outside {
            return outside(answer);
        }
        let Some(found) = find(facts, &asked, kind) else {
            answer.code = ResponseCode::NXDomain;
            break;
        };
        let ttl = if asked == Question::Version { VERSION_TTL_S } else { TTL_S };
        let wanted = found.iter().filter(|data| data.record_type() == kind).cloned();
        answer.answers.extend(wanted.map(|data| Record::from_rdata(owner.clone(), ttl, data)));
        match found.into_iter().next() {
            Some(RData::CNAME(CNAME(target))) if kind != RecordType::CNAME => {
                let alias = RData::CNAME(CNAME(target.clone()));
                answer.answers.push(Record::from_rdata(owner, TTL_S, alias));
                owner = target;
            }
            _ => break,
        }
    }
    let has_it = answer.answers.iter().any(|record| record.record_type() == kind);
    if !has_it {
        answer.start_of_authority = start_of_authority(&owner);
    }
    if kind == RecordType::SRV {
        answer.additionals = targets(facts, &answer.answers);
    }
    answer
}

/// A name outside the cluster does not exist; the CNAME that leads to it is
/// still returned.
fn outside(mut answer: Answer) -> Answer {
    if answer.answers.is_empty() {
        answer.authoritative = false;
        answer.code = ResponseCode::NXDomain;
    }
    answer
}

fn find(facts: &Facts, question: &Question, kind: RecordType) -> Found {
    let found = match question {
        Question::Domain => vec![soa(DOMAIN), RData::NS(NS(service_name(&dns_service())))],
        Question::Version => vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))],
        Question::Branch => Vec::new(),
        Question::Namespace(name) => return facts.has_namespace(name).then(Vec::new),
        Question::Pod { namespace, address } => {
            return facts.has_namespace(namespace).then(|| vec![address_record(address)]);
        }
        Question::Address(address) => return owners(facts, address),
        Question::Service { namespace, name } => {
            return service(facts, &(namespace.clone(), name.clone()), kind);
        }
        Question::Protocol { namespace, service, protocol } => {
            let key = (namespace.clone(), service.clone());
            return ports(facts, &key, &|port| port.protocol == *protocol).map(|_| Vec::new());
        }
        Question::Port { namespace, service, port: name, protocol } => {
            let key = (namespace.clone(), service.clone());
            return ports(facts, &key, &|port| port.name == *name && port.protocol == *protocol);
        }
        Question::Endpoint { namespace, service, hostname } => {
            let key = (namespace.clone(), service.clone());
            return some(endpoint_addresses(facts, &key, |name| name == hostname));
        }
        Question::Nothing | Question::Outside => return None,
    };
    Some(found)
}

fn service(facts: &Facts, key: &Key, kind: RecordType) -> Found {
    let service = facts.service(key)?;
    if let Some(target) = &service.external_name {
        // A name that is not valid in DNS has no records.
        let alias = Name::from_ascii(format!("{}.", target.trim_end_matches('.')));
        return Some(alias.into_iter().map(|name| RData::CNAME(CNAME(name))).collect());
    }
    let addresses = if service.is_headless() {
        some(endpoint_addresses(facts, key, |_| true))?
    } else {
        service.cluster_ips.iter().map(address_record).collect()
    };
    // All ports, for clients that do not know their names.
    let all_ports = Some(()).filter(|()| kind == RecordType::SRV);
    let all_ports = all_ports.and_then(|()| ports(facts, key, &|_| true)).into_iter().flatten();
    Some(addresses.into_iter().chain(all_ports).collect())
}

/// None if it is empty.
fn some(found: Vec<RData>) -> Found {
    Some(found).filter(|found| !found.is_empty())
}

fn endpoint_addresses(facts: &Facts, key: &Key, wanted: impl Fn(&str) -> bool) -> Vec<RData> {
    if facts.service(key).is_none() {
        return Vec::new();
    }
    let all = facts.endpoints(key).flat_map(|(endpoint, _)| named(endpoint));
    let mut addresses: Vec<&IpAddr> =
        all.filter(|(name, _)| wanted(name)).map(|(_, address)| address).collect();
    addresses.sort();
    addresses.dedup();
    addresses.into_iter().map(address_record).collect()
}

/// An endpoint's addresses with their names.
fn named(endpoint: &EndpointFacts) -> impl Iterator<Item = (String, &IpAddr)> {
    endpoint.addresses.iter().map(|address| (endpoint.name_of(address), address))
}

/// The SRV records of a Service's matching named ports; none if there is no
/// such port.
fn ports(facts: &Facts, key: &Key, wanted: &dyn Fn(&PortFacts) -> bool) -> Found {
    let service = facts.service(key)?;
    let wanted = |port: &&PortFacts| !port.name.is_empty() && wanted(port);
    if !service.is_headless() {
        let target = service_name(key);
        return some(service.ports.iter().filter(wanted).map(|port| srv(port, target.clone())).collect());
    }
    let mut found = Vec::new();
    for (endpoint, ports) in facts.endpoints(key) {
        for port in ports.iter().filter(wanted) {
            found.extend(named(endpoint).map(|(name, _)| srv(port, below_service(&name, key))));
        }
    }
    // Both address families of a hostname share one target.
    found.sort_by_cached_key(ToString::to_string);
    found.dedup();
    some(found)
}

fn srv(port: &PortFacts, target: Name) -> RData {
    RData::SRV(SRV::new(0, 100, port.number, target))
}

/// PTR records of an address.
fn owners(facts: &Facts, address: &IpAddr) -> Found {
    if let Some(key) = facts.service_at(address) {
        return Some(vec![RData::PTR(PTR(service_name(key)))]);
    }
    let names = facts.names_at(address);
    some(names.iter().map(|(name, key)| RData::PTR(PTR(below_service(name, key)))).collect())
}

/// The addresses of SRV targets, for the additional section.
fn targets(facts: &Facts, answers: &[Record]) -> Vec<Record> {
    let mut names: Vec<&Name> = answers
        .iter()
        .filter_map(|record| match record.data {
            RData::SRV(ref srv) => Some(&srv.target),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    let both = |name: &Name| {
        let found = [RecordType::A, RecordType::AAAA].map(|kind| answer(facts, name, kind).answers);
        found.into_iter().flatten()
    };
    names.into_iter().flat_map(both).collect()
}

fn address_record(address: &IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(*address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
    }
}

fn dns_service() -> Key {
    (NAMESPACE.to_owned(), SERVICE.to_owned())
}

fn service_name((namespace, name): &Key) -> Name {
    domain_name(&format!("{name}.{namespace}.svc.{DOMAIN}."))
}

fn below_service(label: &str, (namespace, name): &Key) -> Name {
    domain_name(&format!("{label}.{name}.{namespace}.svc.{DOMAIN}."))
}

/// Object names become DNS labels; invalid ones have no records.
fn domain_name(text: &str) -> Name {
    Name::from_ascii(text).unwrap_or_else(|_| Name::root())
}

/// The zone of a name: the cluster domain or a reverse zone.
fn start_of_authority(name: &Name) -> Option<Record> {
    let zones = [DOMAIN, "in-addr.arpa", "ip6.arpa"];
    let zone = zones.into_iter().find(|zone| domain_name(&format!("{zone}.")).zone_of(name))?;
    Some(Record::from_rdata(domain_name(&format!("{zone}.")), TTL_S, soa(zone)))
}

fn soa(zone: &str) -> RData {
    let (server, master) = (service_name(&dns_service()), domain_name(&format!("hostmaster.{zone}.")));
    RData::SOA(SOA::new(server, master, 1, 7200, 1800, 86400, TTL_S))
}
