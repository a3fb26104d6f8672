//! The values as the programs read them: typed, with defaults.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

use crate::Settings;
use crate::schema;

/// Private and special-purpose IPv4 ranges (RFC 1918, RFC 6598, RFC 6890):
/// ip-masq-agent does not masquerade traffic to them by default.
const NON_MASQUERADE: [&str; 11] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
];

/// What a program of Beeline reads; a test checks that every field is read. A
/// value of the schema that is not here has no effect on a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// `autoDirectNodeRoutes`.
    pub auto_direct_node_routes: bool,
    /// `k8sServiceHost`.
    pub k8s_service_host: Option<String>,
    /// `k8sServicePort`.
    pub k8s_service_port: Option<u16>,
    /// `k8s.apiServerURLs`, one URL each.
    pub api_server_urls: Vec<String>,
    /// `loadBalancer.algorithm=maglev`.
    pub maglev: bool,
    /// `maglev.tableSize`, entries: the smallest size; 0 = from the number of endpoints.
    pub maglev_table_size: u32,
    /// `maglev.hashSeed`.
    pub maglev_hash_seed: String,
    /// `socketLB.enabled`.
    pub socket_lb_enabled: bool,
    /// `socketLB.hostNamespaceOnly`.
    pub socket_lb_host_only: bool,
    /// IPv4 that leaves the cluster is masqueraded: `bpf.masquerade` and
    /// `enableIPv4Masquerade`.
    pub masquerade_ipv4: bool,
    /// IPv6 that leaves the cluster is masqueraded: `bpf.masquerade` and
    /// `enableIPv6Masquerade`.
    pub masquerade_ipv6: bool,
    /// Destinations that are never masqueraded: `ipv4NativeRoutingCIDR`,
    /// `ipv6NativeRoutingCIDR` and the ranges of `ipMasqAgent`.
    pub native_ranges: Vec<IpNet>,
    /// `nodePort.enabled`.
    pub node_port: bool,
    /// `nodePort.addresses`; empty = all.
    pub node_port_addresses: Vec<IpNet>,
    /// `nodePort.range`.
    pub node_port_range: RangeInclusive<u16>,
    /// `bpf.natPortRange`; none = the agent chooses.
    pub nat_ports: Option<RangeInclusive<u16>>,
    /// `nodePort.enableHealthCheck`.
    pub node_port_health_check: bool,
    /// `externalIPs.allowedCIDRs`; none = `externalIPs.enabled` is false.
    pub external_ips: Option<Vec<IpNet>>,
    /// `hostPort.enabled`.
    pub host_port: bool,
    /// `sessionAffinity`.
    pub session_affinity: bool,
    /// `bpf.lbSourceRangeAllTypes`.
    pub source_ranges_all_types: bool,
    /// `kubeProxyReplacementHealthzBindAddr`.
    pub healthz_bind_address: Option<String>,
    /// `bpf.enableTCX`.
    pub bpf_enable_tcx: bool,
    /// `devices`; empty = detect.
    pub devices: Vec<String>,
    /// `MTU`, bytes; none = from the uplink.
    pub mtu: Option<u32>,
    /// `debug.enabled`.
    pub debug: bool,
    /// `prometheus.port`.
    pub prometheus_port: u16,
}

impl Default for Values {
    fn default() -> Values {
        Values::from_settings(&Settings::default())
    }
}

impl Values {
    /// Types settings that passed the checks of the schema.
    pub(crate) fn from_settings(settings: &Settings) -> Values {
        let get = Reader(settings);
        Values {
            auto_direct_node_routes: get.bool("autoDirectNodeRoutes"),
            k8s_service_host: Some(get.text("k8sServiceHost")).filter(|host| !host.is_empty()),
            k8s_service_port: get.text("k8sServicePort").parse().ok(),
            api_server_urls: get.text("k8s.apiServerURLs").split_whitespace().map(str::to_owned).collect(),
            maglev: get.text("loadBalancer.algorithm") == "maglev",
            maglev_table_size: get.text("maglev.tableSize").parse().unwrap_or_default(),
            maglev_hash_seed: get.text("maglev.hashSeed"),
            socket_lb_enabled: get.bool("socketLB.enabled"),
            socket_lb_host_only: get.bool("socketLB.hostNamespaceOnly"),
            masquerade_ipv4: get.bool("bpf.masquerade") && get.bool("enableIPv4Masquerade"),
            masquerade_ipv6: get.bool("bpf.masquerade") && get.bool("enableIPv6Masquerade"),
            native_ranges: get.native_ranges(),
            node_port: get.bool("nodePort.enabled"),
            node_port_addresses: get.cidrs("nodePort.addresses"),
            node_port_range: get.ports("nodePort.range").unwrap_or(30_000..=32_767),
            nat_ports: get.ports("bpf.natPortRange"),
            node_port_health_check: get.bool("nodePort.enableHealthCheck"),
            external_ips: get.bool("externalIPs.enabled").then(|| get.cidrs("externalIPs.allowedCIDRs")),
            host_port: get.bool("hostPort.enabled"),
            session_affinity: get.bool("sessionAffinity"),
            source_ranges_all_types: get.bool("bpf.lbSourceRangeAllTypes"),
            healthz_bind_address: Some(get.text("kubeProxyReplacementHealthzBindAddr"))
                .filter(|address| !address.is_empty()),
            bpf_enable_tcx: get.bool("bpf.enableTCX"),
            devices: get.list("devices"),
            mtu: get.text("MTU").parse().ok().filter(|mtu| *mtu != 0),
            debug: get.bool("debug.enabled"),
            prometheus_port: get.text("prometheus.port").parse().unwrap_or_default(),
        }
    }
}

/// Reads a setting, or the schema's default.
struct Reader<'a>(&'a Settings);

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(value) => crate::check::to_text(value),
            None => schema::find(name).map(|key| key.default.to_owned()).unwrap_or_default(),
        }
    }

    fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn ports(&self, name: &str) -> Option<RangeInclusive<u16>> {
        crate::check::port_range(&self.text(name))
    }

    fn cidrs(&self, name: &str) -> Vec<IpNet> {
        self.list(name).iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Destinations that are never masqueraded.
    fn native_ranges(&self) -> Vec<IpNet> {
        let named = ["ipv4NativeRoutingCIDR", "ipv6NativeRoutingCIDR"].map(|name| self.text(name));
        let mut ranges: Vec<IpNet> = named.iter().filter_map(|text| text.parse().ok()).collect();
        if self.bool("ipMasqAgent.enabled") {
            match self.cidrs("ipMasqAgent.config.nonMasqueradeCIDRs") {
                listed if !listed.is_empty() => ranges.extend(listed),
                _ => ranges.extend(NON_MASQUERADE.iter().filter_map(|text| text.parse::<IpNet>().ok())),
            }
            for (name, range) in [("masqLinkLocal", "169.254.0.0/16"), ("masqLinkLocalIPv6", "fe80::/10")] {
                if !self.bool(&format!("ipMasqAgent.config.{name}")) {
                    ranges.extend(range.parse::<IpNet>());
                }
            }
        }
        ranges = ranges.iter().map(IpNet::trunc).collect();
        ranges.sort();
        ranges.dedup();
        ranges
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(items)) => items.iter().map(crate::check::to_text).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_what_is_exempt_from_masquerading() {
        let ranges = |set: &[&str]| -> Vec<String> {
            let settings = Settings::from_set(set).unwrap();
            Reader(&settings).native_ranges().iter().map(ToString::to_string).collect()
        };
        assert!(ranges(&[]).is_empty());
        assert_eq!(
            ranges(&["ipv4NativeRoutingCIDR=10.1.2.3/8", "ipv6NativeRoutingCIDR=fd00::/8"]),
            ["10.0.0.0/8", "fd00::/8"]
        );
        let defaults = ranges(&["ipMasqAgent.enabled=true"]);
        assert_eq!(defaults.len(), NON_MASQUERADE.len() + 2, "{defaults:?}");
        let chosen = [
            "ipMasqAgent.enabled=true",
            "ipMasqAgent.config.nonMasqueradeCIDRs={192.168.0.0/16,10.0.0.0/8}",
            "ipMasqAgent.config.masqLinkLocal=true",
            "ipv4NativeRoutingCIDR=10.0.0.0/8",
        ];
        assert_eq!(ranges(&chosen), ["10.0.0.0/8", "192.168.0.0/16", "fe80::/10"]);
        let error = Settings::from_set(&["nodePort.range=32767-30000"]).unwrap_err().to_string();
        assert!(error.contains("first and last port"), "{error}");
        let settings =
            Settings::from_set(&["nodePort.range=31000-31999", "bpf.natPortRange=50000\\,59999"]).unwrap();
        let values = Values::from_settings(&settings);
        assert_eq!((values.node_port_range, values.nat_ports), (31_000..=31_999, Some(50_000..=59_999)));
        assert_eq!(Values::default().node_port_range, 30_000..=32_767);
        let error = Settings::from_set(&["nodePort.addresses={10.0.0.0/8,x}"]).unwrap_err().to_string();
        assert!(error.contains("a list of prefixes such as"), "{error}");
    }
}
