//! The values as the programs read them: typed, defaults filled in.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::Settings;
use crate::built;
use crate::schema;

/// Ranges that are not routed on the Internet: what ip-masq-agent leaves
/// alone unless it is told otherwise (RFC 6890 and RFC 1918).
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

/// `routingMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingMode {
    /// The network knows the way to every node's pods.
    Native,
    /// Between nodes, packets are encapsulated.
    Tunnel,
}

/// `loadBalancer.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalancerMode {
    /// Answers return through the node that the request entered by.
    Snat,
    /// Answers go from the backend's node to the client.
    Dsr,
    /// TCP by direct return, UDP by the way it came.
    Hybrid,
}

/// Everything that a program of Beeline reads. What the schema knows beyond
/// this has no effect yet and is named in [`crate::ParsedValues::not_implemented`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// `routingMode`.
    pub routing_mode: RoutingMode,
    /// `autoDirectNodeRoutes`.
    pub auto_direct_node_routes: bool,
    /// `ipv4NativeRoutingCIDR`.
    pub ipv4_native_routing_cidr: Option<Ipv4Net>,
    /// `ipv6NativeRoutingCIDR`.
    pub ipv6_native_routing_cidr: Option<Ipv6Net>,
    /// `ipv4.enabled`.
    pub ipv4_enabled: bool,
    /// `ipv6.enabled`.
    pub ipv6_enabled: bool,
    /// `kubeProxyReplacement`.
    pub kube_proxy_replacement: bool,
    /// `k8sServiceHost`.
    pub k8s_service_host: Option<String>,
    /// `k8sServicePort`.
    pub k8s_service_port: Option<u16>,
    /// `k8s.apiServerURLs`, split.
    pub api_server_urls: Vec<String>,
    /// `loadBalancer.mode`.
    pub load_balancer_mode: LoadBalancerMode,
    /// `loadBalancer.algorithm=maglev`.
    pub maglev: bool,
    /// `maglev.tableSize`: the smallest size; 0 = by the backends.
    pub maglev_table_size: u32,
    /// `maglev.hashSeed`.
    pub maglev_hash_seed: String,
    /// `bpf.masquerade`.
    pub bpf_masquerade: bool,
    /// `socketLB.enabled`.
    pub socket_lb_enabled: bool,
    /// `socketLB.hostNamespaceOnly`.
    pub socket_lb_host_only: bool,
    /// IPv4 that leaves the cluster is masqueraded: `bpf.masquerade` and
    /// `enableIPv4Masquerade`, once that is built.
    pub masquerade_ipv4: bool,
    /// The same for IPv6.
    pub masquerade_ipv6: bool,
    /// What is never masqueraded: native-routing ranges and those of
    /// `ipMasqAgent`; empty until masquerading is built.
    pub native_ranges: Vec<IpNet>,
    /// `nodePort.enabled`, once it is built; so are the following.
    pub node_port: bool,
    /// `nodePort.addresses`; empty = all.
    pub node_port_addresses: Vec<IpNet>,
    /// `nodePort.range`.
    pub node_port_range: RangeInclusive<u16>,
    /// `bpf.natPortRange`; none: what the node leaves over.
    pub nat_ports: Option<RangeInclusive<u16>>,
    /// `nodePort.enableHealthCheck`.
    pub node_port_health_check: bool,
    /// `externalIPs.allowedCIDRs`; none: `externalIPs.enabled` is off.
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
    /// `bpf.ctTcpMax`: capacity of the connection table.
    pub conntrack_capacity: u32,
    /// `devices`; empty = detect.
    pub devices: Vec<String>,
    /// `MTU`; none = from the uplink.
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
    /// From settings that passed the checks of the schema.
    pub(crate) fn from_settings(settings: &Settings) -> Values {
        let get = Reader(settings);
        Values {
            routing_mode: match get.text("routingMode").as_str() {
                "tunnel" => RoutingMode::Tunnel,
                _ => RoutingMode::Native,
            },
            auto_direct_node_routes: get.bool("autoDirectNodeRoutes"),
            ipv4_native_routing_cidr: get.text("ipv4NativeRoutingCIDR").parse().ok(),
            ipv6_native_routing_cidr: get.text("ipv6NativeRoutingCIDR").parse().ok(),
            ipv4_enabled: get.bool("ipv4.enabled"),
            ipv6_enabled: get.bool("ipv6.enabled"),
            kube_proxy_replacement: get.bool("kubeProxyReplacement"),
            k8s_service_host: Some(get.text("k8sServiceHost")).filter(|host| !host.is_empty()),
            k8s_service_port: get.text("k8sServicePort").parse().ok(),
            api_server_urls: get.text("k8s.apiServerURLs").split_whitespace().map(str::to_owned).collect(),
            load_balancer_mode: match get.text("loadBalancer.mode").as_str() {
                "dsr" => LoadBalancerMode::Dsr,
                "hybrid" => LoadBalancerMode::Hybrid,
                _ => LoadBalancerMode::Snat,
            },
            maglev: get.text("loadBalancer.algorithm") == "maglev",
            maglev_table_size: get.text("maglev.tableSize").parse().unwrap_or_default(),
            maglev_hash_seed: get.text("maglev.hashSeed"),
            bpf_masquerade: get.bool("bpf.masquerade"),
            socket_lb_enabled: get.bool("socketLB.enabled"),
            socket_lb_host_only: get.bool("socketLB.hostNamespaceOnly"),
            masquerade_ipv4: built::MASQUERADE
                && get.bool("bpf.masquerade")
                && get.bool("enableIPv4Masquerade"),
            masquerade_ipv6: built::MASQUERADE
                && get.bool("bpf.masquerade")
                && get.bool("enableIPv6Masquerade"),
            native_ranges: if built::MASQUERADE { get.native_ranges() } else { Vec::new() },
            node_port: built::NODE_PORT && get.bool("nodePort.enabled"),
            node_port_addresses: get.cidrs("nodePort.addresses"),
            node_port_range: get.ports("nodePort.range").unwrap_or(30_000..=32_767),
            nat_ports: get.ports("bpf.natPortRange"),
            node_port_health_check: get.bool("nodePort.enableHealthCheck"),
            external_ips: (built::EXTERNAL_IPS && get.bool("externalIPs.enabled"))
                .then(|| get.cidrs("externalIPs.allowedCIDRs")),
            host_port: built::HOST_PORT && get.bool("hostPort.enabled"),
            session_affinity: built::SESSION_AFFINITY && get.bool("sessionAffinity"),
            source_ranges_all_types: get.bool("bpf.lbSourceRangeAllTypes"),
            healthz_bind_address: Some(get.text("kubeProxyReplacementHealthzBindAddr"))
                .filter(|address| !address.is_empty()),
            bpf_enable_tcx: get.bool("bpf.enableTCX"),
            conntrack_capacity: get.text("bpf.ctTcpMax").parse().unwrap_or_default(),
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

    /// What pods reach with their own address.
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
