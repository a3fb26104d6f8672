//! Allocators of Services: cluster IPs from one range per family, and node ports.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use beeline_apiserver_objects::{Cause, ObjectKey, object, service};
use ipnet::IpNet;
use serde_json::{Value, json};

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Node ports below this offset are used for dynamic allocation only when all others are allocated.
const NODE_PORTS_STATIC: u16 = 86;

/// The largest number of addresses of a range that are used; the rest of a larger range is ignored.
const TRIES_MAX: u128 = 1 << 20;

/// Allocated addresses and node ports, with the service that holds each.
#[derive(Clone, Debug)]
pub(crate) struct Allocators {
    ranges: Vec<Range>,
    ports: BTreeMap<u16, ObjectKey>,
    next_port: u16,
}

#[derive(Clone, Debug)]
struct Range {
    net: IpNet,
    used: HashMap<IpAddr, ObjectKey>,
    next: u128,
}

impl Allocators {
    /// One range per family. The family of the first range is the primary family of the cluster.
    pub fn new(service_cidrs: &[IpNet]) -> Self {
        let range = |net: &IpNet| {
            let mut range = Range { net: *net, used: HashMap::new(), next: 1 };
            range.next = range.static_addresses();
            range
        };
        Self {
            ranges: service_cidrs.iter().map(range).collect(),
            ports: BTreeMap::new(),
            next_port: *NODE_PORTS.start() + NODE_PORTS_STATIC,
        }
    }

    /// Allocates what the spec asks for and releases what `before` had and the new spec does not
    /// need. Changes nothing on failure.
    pub fn assign(&mut self, service: &mut Value, before: Option<&Value>) -> Result<(), Vec<Cause>> {
        let undo = self.ports.clone();
        let undo_used: Vec<_> = self.ranges.iter().map(|range| (range.next, Vec::<IpAddr>::new())).collect();
        let mut taken = undo_used;
        let result = self.try_assign(service, before, &mut taken);
        if result.is_err() {
            self.ports = undo;
            for (range, (next, addresses)) in self.ranges.iter_mut().zip(taken) {
                range.next = next;
                addresses.iter().for_each(|address| {
                    range.used.remove(address);
                });
            }
        }
        result
    }

    /// Releases everything that the service holds.
    pub fn release(&mut self, key: &ObjectKey) {
        self.ports.retain(|_, owner| owner != key);
        for range in &mut self.ranges {
            range.used.retain(|_, owner| owner != key);
        }
    }

    fn try_assign(
        &mut self,
        service: &mut Value,
        before: Option<&Value>,
        taken: &mut [(u128, Vec<IpAddr>)],
    ) -> Result<(), Vec<Cause>> {
        let key = ObjectKey::of(service);
        patch_allocated_values(service, before);
        if object::str_at(service, "/spec/type") == "ExternalName" {
            let spec = object::child_mut(service, "spec");
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        } else {
            let families = self.families(service)?;
            self.assign_addresses(service, &key, &families, taken)?;
        }
        self.assign_ports(service, &key)?;
        self.release_unused(service, &key);
        Ok(())
    }

    /// Families of the service in order. Also sets its `ipFamilies` and `ipFamilyPolicy`.
    fn families(&self, service: &mut Value) -> Result<Vec<bool>, Vec<Cause>> {
        let given_ips = object::strs_at(service, "/spec/clusterIPs");
        let headless = given_ips.first() == Some(&"None");
        let of_ips: Vec<bool> =
            given_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv6()).collect();
        let named: Vec<bool> =
            object::strs_at(service, "/spec/ipFamilies").iter().map(|family| *family == "IPv6").collect();
        let selectorless = object::array_at(service, "/spec/selector").is_empty()
            && service["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        let policy = match object::str_at(service, "/spec/ipFamilyPolicy") {
            "" if named.len() > 1 || of_ips.len() > 1 => "RequireDualStack",
            "" if headless && selectorless && named.is_empty() => "RequireDualStack",
            "" => "SingleStack",
            policy => policy,
        }
        .to_owned();
        let available: Vec<bool> = self.ranges.iter().map(|range| range.net.addr().is_ipv6()).collect();
        let mut families = if named.is_empty() { of_ips } else { named };
        if let Some(missing) = families.iter().find(|family| !available.contains(family)) {
            let family = json!(family_name(*missing));
            return Err(vec![Cause::invalid(
                "spec.ipFamilies[0]",
                &family,
                "not configured on this cluster",
            )]);
        }
        if policy == "RequireDualStack" && available.len() < 2 && !(headless && selectorless) {
            let why = "this cluster is not configured for dual-stack services";
            return Err(vec![Cause::invalid("spec.ipFamilyPolicy", &json!(policy), why)]);
        }
        let rest: Vec<bool> = available.iter().copied().filter(|family| !families.contains(family)).collect();
        families.extend(rest);
        if policy == "SingleStack" {
            families.truncate(1);
        }
        let spec = object::child_mut(service, "spec");
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        spec.insert("ipFamilies".to_owned(), families.iter().map(|family| family_name(*family)).collect());
        Ok(families)
    }

    fn assign_addresses(
        &mut self,
        service: &mut Value,
        key: &ObjectKey,
        families: &[bool],
        taken: &mut [(u128, Vec<IpAddr>)],
    ) -> Result<(), Vec<Cause>> {
        let given: Vec<String> =
            object::strs_at(service, "/spec/clusterIPs").into_iter().map(str::to_owned).collect();
        if given.first().is_some_and(|first| first == "None") {
            set_cluster_ips(service, &["None".to_owned()]);
            return Ok(());
        }
        let mut addresses = Vec::new();
        for (index, family) in families.iter().enumerate() {
            let at = self.ranges.iter().position(|range| range.net.addr().is_ipv6() == *family);
            let at = at.ok_or_else(|| vec![Cause::forbidden("spec.ipFamilies", "no such range")])?;
            let given = given.get(index).map(String::as_str).filter(|text| !text.is_empty());
            let range = &mut self.ranges[at];
            let address = match given {
                Some(text) => range.take(text, index, key, &mut taken[at].1)?,
                None => range.allocate(key, &mut taken[at].1)?,
            };
            addresses.push(address.to_string());
        }
        set_cluster_ips(service, &addresses);
        Ok(())
    }

    fn assign_ports(&mut self, service: &mut Value, key: &ObjectKey) -> Result<(), Vec<Cause>> {
        let kind = object::str_at(service, "/spec/type").to_owned();
        let (has_node_ports, checked) =
            (service::has_node_ports(service), service::has_health_check_port(service));
        let ports = object::child_mut(service, "spec").get_mut("ports").and_then(Value::as_array_mut);
        let mut mine: Vec<u16> = Vec::new();
        for (index, port) in ports.into_iter().flatten().enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            let given = port["nodePort"].as_i64().filter(|given| *given != 0);
            let number = match given {
                Some(_) if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") => {
                    let why = format!("may not be used when `type` is '{kind}'");
                    return Err(vec![Cause::forbidden(field, why)]);
                }
                Some(given) => self.take_port(given, &field, key)?,
                None if has_node_ports => self.allocate_port(key, &field)?,
                None => continue,
            };
            mine.push(number);
            port["nodePort"] = json!(number);
        }
        if checked {
            let field = "spec.healthCheckNodePort";
            let number =
                match object::i64_at(service, "/spec/healthCheckNodePort").filter(|given| *given != 0) {
                    Some(given) => self.take_port(given, field, key)?,
                    None => self.allocate_port(key, field)?,
                };
            mine.push(number);
            object::child_mut(service, "spec").insert("healthCheckNodePort".to_owned(), json!(number));
        }
        self.ports.retain(|number, owner| owner != key || mine.contains(number));
        Ok(())
    }

    fn take_port(&mut self, given: i64, field: &str, key: &ObjectKey) -> Result<u16, Vec<Cause>> {
        let number =
            u16::try_from(given).ok().filter(|number| NODE_PORTS.contains(number)).ok_or_else(|| {
                let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                vec![Cause::invalid(field, &json!(given), why)]
            })?;
        match self.ports.get(&number) {
            Some(owner) if owner != key => {
                let why = format!("provided port is already allocated, to the service {owner}");
                Err(vec![Cause::invalid(field, &json!(given), why)])
            }
            _ => {
                self.ports.insert(number, key.clone());
                Ok(number)
            }
        }
    }

    fn allocate_port(&mut self, key: &ObjectKey, field: &str) -> Result<u16, Vec<Cause>> {
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let low = first + NODE_PORTS_STATIC;
        let next = self.next_port.clamp(low, last);
        for number in (next..=last).chain(low..next).chain(first..low) {
            self.next_port = number + 1;
            if let Entry::Vacant(free) = self.ports.entry(number) {
                free.insert(key.clone());
                return Ok(number);
            }
        }
        Err(vec![Cause::forbidden(
            field,
            "every node port (30000-32767) is allocated: delete a service that has one",
        )])
    }

    fn release_unused(&mut self, service: &Value, key: &ObjectKey) {
        let kept = object::strs_at(service, "/spec/clusterIPs");
        let kept: Vec<IpAddr> = kept.iter().filter_map(|ip| ip.parse().ok()).collect();
        for range in &mut self.ranges {
            range.used.retain(|address, owner| owner != key || kept.contains(address));
        }
    }
}

impl Range {
    fn take(
        &mut self,
        text: &str,
        index: usize,
        key: &ObjectKey,
        taken: &mut Vec<IpAddr>,
    ) -> Result<IpAddr, Vec<Cause>> {
        let refuse =
            |why: String| Err(vec![Cause::invalid(format!("spec.clusterIPs[{index}]"), &json!(text), why)]);
        let Ok(address) = text.parse::<IpAddr>() else {
            return refuse("must be a valid IP address".to_owned());
        };
        if !self.net.contains(&address) || self.is_reserved(address) {
            return refuse(format!(
                "failed to allocate IP {text}: the provided IP is not in the valid range {}",
                self.net
            ));
        }
        match self.used.get(&address) {
            Some(owner) if owner != key => {
                return refuse(format!(
                    "failed to allocate IP {text}: provided IP is already allocated, to the service {owner}"
                ));
            }
            Some(_) => {}
            None => {
                self.used.insert(address, key.clone());
                taken.push(address);
            }
        }
        Ok(address)
    }

    fn allocate(&mut self, key: &ObjectKey, taken: &mut Vec<IpAddr>) -> Result<IpAddr, Vec<Cause>> {
        let size = self.size();
        let low = self.static_addresses();
        let next = self.next.clamp(low, size);
        for offset in (next..size).chain(low..next).chain(1..low) {
            let address = self.at(offset);
            self.next = offset + 1;
            if !self.is_reserved(address) && !self.used.contains_key(&address) {
                self.used.insert(address, key.clone());
                taken.push(address);
                return Ok(address);
            }
        }
        let why = format!(
            "failed to allocate an IP: range {} is full; delete services or use a larger range",
            self.net
        );
        Err(vec![Cause::forbidden("spec.clusterIPs", why)])
    }

    /// Addresses at the start of the range that are reserved for explicit requests, as in Kubernetes
    /// (KEP-3070): one sixteenth, at least 16 and at most 256. They are used when all others are
    /// allocated.
    fn static_addresses(&self) -> u128 {
        match self.size() {
            size if size <= 16 => 1,
            size => (size / 16).clamp(16, 256),
        }
    }

    fn size(&self) -> u128 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        1_u128.checked_shl(bits).unwrap_or(u128::MAX).min(TRIES_MAX)
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset)))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(offset))),
        }
    }

    /// The network address, and the broadcast address of IPv4.
    fn is_reserved(&self, address: IpAddr) -> bool {
        address == self.net.network() || (address.is_ipv4() && address == self.net.broadcast())
    }
}

fn family_name(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}

fn set_cluster_ips(service: &mut Value, addresses: &[String]) {
    let spec = object::child_mut(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(addresses.first()));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
}

/// Fills in `clusterIP` from `clusterIPs` and the reverse, and keeps values that were allocated
/// before.
fn patch_allocated_values(service: &mut Value, before: Option<&Value>) {
    let external = |service: &Value| object::str_at(service, "/spec/type") == "ExternalName";
    if let Some(before) = before.filter(|before| !external(before) && !external(service)) {
        patch_allocated_addresses(service, before);
        patch_allocated_ports(service, before);
    }
    let single = object::str_at(service, "/spec/clusterIP").to_owned();
    if !single.is_empty() && object::array_at(service, "/spec/clusterIPs").is_empty() {
        object::child_mut(service, "spec").insert("clusterIPs".to_owned(), json!([single]));
    }
}

fn patch_allocated_addresses(service: &mut Value, before: &Value) {
    let before_ips: Vec<String> =
        object::strs_at(before, "/spec/clusterIPs").into_iter().map(str::to_owned).collect();
    let single = object::str_at(service, "/spec/clusterIP").to_owned();
    let list_empty = object::array_at(service, "/spec/clusterIPs").is_empty();
    let same_primary = single.is_empty() || before_ips.first() == Some(&single);
    let policy_stays = service["spec"]["ipFamilyPolicy"].is_null()
        || service["spec"]["ipFamilyPolicy"] == before["spec"]["ipFamilyPolicy"];
    let spec = object::child_mut(service, "spec");
    if list_empty && same_primary {
        let single_stack = spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack");
        let keep = if single_stack { before_ips.len().min(1) } else { before_ips.len() };
        spec.insert("clusterIPs".to_owned(), json!(before_ips[..keep]));
    }
    if policy_stays {
        for field in ["ipFamilyPolicy", "ipFamilies"] {
            if let Some(value) = before["spec"].get(field).filter(|value| !value.is_null()) {
                object::set_default(spec, field, value.clone());
            }
        }
    } else if spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack") {
        // The change from dual-stack to single-stack keeps the first family.
        for field in ["clusterIPs", "ipFamilies"] {
            if let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut) {
                list.truncate(1);
            }
        }
    }
}

/// Keeps the node ports of existing ports as long as the type has node ports.
fn patch_allocated_ports(service: &mut Value, before: &Value) {
    let has_ports = matches!(object::str_at(service, "/spec/type"), "NodePort" | "LoadBalancer");
    let health = object::i64_at(before, "/spec/healthCheckNodePort");
    let checked = service::has_health_check_port(service);
    let before_ports = object::array_at(before, "/spec/ports").to_vec();
    let spec = object::child_mut(service, "spec");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let Some(had) = before_ports.iter().find(same).and_then(|other| other["nodePort"].as_i64()) else {
            continue;
        };
        let Some(port) = port.as_object_mut() else { continue };
        if port.get("nodePort").is_some_and(|given| *given == 0) {
            port.remove("nodePort");
        }
        if has_ports {
            object::set_default(port, "nodePort", had);
        }
    }
    if let Some(health) = health.filter(|_| checked) {
        if spec.get("healthCheckNodePort").is_some_and(|given| *given == 0) {
            spec.remove("healthCheckNodePort");
        }
        object::set_default(spec, "healthCheckNodePort", health);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocators() -> Allocators {
        Allocators::new(&["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()])
    }

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
    }

    fn field(service: &Value, field: &str) -> Value {
        service["spec"][field].clone()
    }

    #[test]
    fn unit_single_stack_is_the_default_and_the_primary_family() {
        let mut web = service("web", json!({"type": "ClusterIP", "selector": {"a": "b"}}));
        allocators().assign(&mut web, None).unwrap();
        assert_eq!(field(&web, "clusterIPs"), json!(["10.96.1.0"]));
        assert_eq!(field(&web, "ipFamilies"), json!(["IPv4"]));
        assert_eq!(field(&web, "ipFamilyPolicy"), "SingleStack");
    }

    #[test]
    fn unit_dual_stack_takes_one_of_each_and_keeps_order() {
        let mut web = service(
            "web",
            json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}),
        );
        allocators().assign(&mut web, None).unwrap();
        assert_eq!(field(&web, "clusterIPs"), json!(["fd00:10:96::100", "10.96.1.0"]));
        assert_eq!(field(&web, "clusterIP"), "fd00:10:96::100");
        assert_eq!(field(&web, "ipFamilies"), json!(["IPv6", "IPv4"]));
    }

    #[test]
    fn unit_dual_stack_is_refused_where_there_is_one_range() {
        let mut single = Allocators::new(&["10.96.0.0/16".parse().unwrap()]);
        let mut web = service(
            "web",
            json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "selector": {"a": "b"}}),
        );
        assert_eq!(single.assign(&mut web, None).unwrap_err()[0].field, "spec.ipFamilyPolicy");
        let mut web = service("web", json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}));
        single.assign(&mut web, None).unwrap();
        assert_eq!(field(&web, "clusterIPs"), json!(["10.96.1.0"]));
    }

    #[test]
    fn unit_requested_addresses_are_allocated_or_refused() {
        let mut all = allocators();
        all.assign(&mut service("dns", json!({"clusterIP": "10.96.0.10"})), None).unwrap();
        let taken = all.assign(&mut service("other", json!({"clusterIP": "10.96.0.10"})), None).unwrap_err();
        assert!(taken[0].message.contains("default/dns"), "{taken:?}");
        let outside =
            all.assign(&mut service("other", json!({"clusterIP": "10.97.0.10"})), None).unwrap_err();
        assert_eq!(outside[0].field, "spec.clusterIPs[0]");
        all.release(&ObjectKey::new("default", "dns"));
        all.assign(&mut service("other", json!({"clusterIP": "10.96.0.10"})), None).unwrap();
    }

    #[test]
    fn unit_updates_keep_addresses_and_node_ports() {
        let mut all = allocators();
        let spec = json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80, "protocol": "TCP"}]});
        let mut web = service("web", spec.clone());
        all.assign(&mut web, None).unwrap();
        let mut again = service("web", spec);
        all.assign(&mut again, Some(&web)).unwrap();
        assert_eq!(again, web);
    }

    #[test]
    fn unit_a_policy_change_adds_and_releases_the_second_address() {
        let mut all = allocators();
        let mut web = service("web", json!({"type": "ClusterIP"}));
        all.assign(&mut web, None).unwrap();
        let mut dual = web.clone();
        dual["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        all.assign(&mut dual, Some(&web)).unwrap();
        assert_eq!(field(&dual, "clusterIPs"), json!(["10.96.1.0", "fd00:10:96::100"]));
        let mut single = dual.clone();
        single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        all.assign(&mut single, Some(&dual)).unwrap();
        assert_eq!(field(&single, "clusterIPs"), json!(["10.96.1.0"]));
        all.assign(&mut service("other", json!({"clusterIP": "fd00:10:96::100"})), None).unwrap();
    }

    #[test]
    fn unit_headless_services_get_no_address() {
        let mut web =
            service("web", json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}));
        allocators().assign(&mut web, None).unwrap();
        assert_eq!(field(&web, "clusterIPs"), json!(["None"]));
        assert_eq!(field(&web, "ipFamilies"), json!(["IPv4"]));
    }

    #[test]
    fn unit_node_ports_follow_the_type() {
        let mut all = allocators();
        let mut web = service("web", json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        all.assign(&mut web, None).unwrap();
        assert_eq!(web["spec"]["ports"][0]["nodePort"], 30086);
        let mut plain = web.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        beeline_apiserver_objects::service::drop_type_dependent_fields(&mut plain, &web);
        all.assign(&mut plain, Some(&web)).unwrap();
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        let mut other =
            service("other", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30086}]}));
        all.assign(&mut other, None).unwrap();
        let mut outside =
            service("third", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
        assert_eq!(all.assign(&mut outside, None).unwrap_err()[0].field, "spec.ports[0].nodePort");
    }

    #[test]
    fn unit_low_addresses_and_ports_are_reserved_for_explicit_requests() {
        let mut small = Allocators::new(&["10.96.0.0/26".parse().unwrap()]);
        let mut given: Vec<String> = Vec::new();
        for index in 0..62 {
            let mut one = service(&format!("s{index}"), json!({"type": "NodePort", "ports": [{"port": 80}]}));
            small.assign(&mut one, None).unwrap();
            given.push(field(&one, "clusterIP").as_str().unwrap().to_owned());
        }
        assert_eq!((given[0].as_str(), given[47].as_str()), ("10.96.0.16", "10.96.0.1"), "{given:?}");
        assert!(small.assign(&mut service("more", json!({"type": "ClusterIP"})), None).is_err());
    }

    #[test]
    fn unit_a_full_range_is_an_error_and_a_failure_allocates_nothing() {
        let mut tiny = Allocators::new(&["10.96.0.0/30".parse().unwrap(), "fd00::/112".parse().unwrap()]);
        for name in ["a", "b"] {
            tiny.assign(&mut service(name, json!({"type": "ClusterIP"})), None).unwrap();
        }
        let mut dual = service(
            "c",
            json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
        );
        assert!(tiny.assign(&mut dual, None).unwrap_err()[0].message.contains("full"));
        assert!(tiny.ranges[1].used.is_empty());
    }
}
