//! The values as the programs read them: typed, defaults filled in.

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::Settings;
use crate::schema;

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
/// this has no effect yet and is named in [`crate::ParsedValues::not_built`].
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
    /// `bpf.masquerade`.
    pub bpf_masquerade: bool,
    /// `socketLB.enabled`.
    pub socket_lb_enabled: bool,
    /// `socketLB.hostNamespaceOnly`.
    pub socket_lb_host_only: bool,
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
            bpf_masquerade: get.bool("bpf.masquerade"),
            socket_lb_enabled: get.bool("socketLB.enabled"),
            socket_lb_host_only: get.bool("socketLB.hostNamespaceOnly"),
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
            Some(value) => crate::check::shown(value),
            None => schema::find(name).map(|key| key.default.to_owned()).unwrap_or_default(),
        }
    }

    fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(items)) => items.iter().map(crate::check::shown).collect(),
            _ => Vec::new(),
        }
    }
}
