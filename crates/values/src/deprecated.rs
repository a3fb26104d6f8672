//! Deprecated names and words: those of earlier Cilium releases, flags of
//! Cilium's agent, and common misspellings. Each is accepted with a notice.

use serde_json::Value;

/// Deprecated name, current name.
const RENAMED: &[(&str, &str)] = &[
    ("ipv4.nativeRoutingCIDR", "ipv4NativeRoutingCIDR"),
    ("ipv6.nativeRoutingCIDR", "ipv6NativeRoutingCIDR"),
    ("nativeRoutingCIDR", "ipv4NativeRoutingCIDR"),
    ("native-routing-cidr", "ipv4NativeRoutingCIDR"),
    ("ipv4-native-routing-cidr", "ipv4NativeRoutingCIDR"),
    ("ipv6-native-routing-cidr", "ipv6NativeRoutingCIDR"),
    ("routing-mode", "routingMode"),
    ("tunnel-protocol", "tunnelProtocol"),
    ("tunnel-port", "tunnelPort"),
    ("auto-direct-node-routes", "autoDirectNodeRoutes"),
    ("enable-endpoint-routes", "endpointRoutes.enabled"),
    ("endpointRoutes", "endpointRoutes.enabled"),
    ("kube-proxy-replacement", "kubeProxyReplacement"),
    ("kube-proxy-replacement-healthz-bind-address", "kubeProxyReplacementHealthzBindAddr"),
    ("masquerade", "enableIPv4Masquerade"),
    ("enable-ipv4-masquerade", "enableIPv4Masquerade"),
    ("enable-ipv6-masquerade", "enableIPv6Masquerade"),
    ("enable-bpf-masquerade", "bpf.masquerade"),
    ("bpf-ct-global-tcp-max", "bpf.ctTcpMax"),
    ("bpf-ct-global-any-max", "bpf.ctAnyMax"),
    ("bpf-nat-global-max", "bpf.natMax"),
    ("bpf-lb-map-max", "bpf.lbMapMax"),
    ("bpf-policy-map-max", "bpf.policyMapMax"),
    ("bpf-map-dynamic-size-ratio", "bpf.mapDynamicSizeRatio"),
    ("preallocate-bpf-maps", "bpf.preallocateMaps"),
    ("enable-host-legacy-routing", "bpf.hostLegacyRouting"),
    ("datapath-mode", "bpf.datapathMode"),
    ("bpf-lb-mode", "loadBalancer.mode"),
    ("nodePort.mode", "loadBalancer.mode"),
    ("bpf-lb-acceleration", "loadBalancer.acceleration"),
    ("nodePort.acceleration", "loadBalancer.acceleration"),
    ("bpf-lb-algorithm", "loadBalancer.algorithm"),
    ("nodePort.algorithm", "loadBalancer.algorithm"),
    ("bpf-lb-dsr-dispatch", "loadBalancer.dsrDispatch"),
    ("enable-node-port", "nodePort.enabled"),
    ("node-port-range", "nodePort.range"),
    ("direct-routing-device", "directRoutingDevice"),
    ("nodePort.device", "devices"),
    ("device", "devices"),
    ("hostServices.enabled", "socketLB.enabled"),
    ("hostServices.hostNamespaceOnly", "socketLB.hostNamespaceOnly"),
    ("bpf-lb-sock", "socketLB.enabled"),
    ("bpf-lb-sock-hostns-only", "socketLB.hostNamespaceOnly"),
    ("ipam.operator.clusterPoolIPv4PodCIDR", "ipam.operator.clusterPoolIPv4PodCIDRList"),
    ("ipam.operator.clusterPoolIPv6PodCIDR", "ipam.operator.clusterPoolIPv6PodCIDRList"),
    ("ipam", "ipam.mode"),
    ("ipv4", "ipv4.enabled"),
    ("ipv6", "ipv6.enabled"),
    ("enable-ipv4", "ipv4.enabled"),
    ("enable-ipv6", "ipv6.enabled"),
    ("mtu", "MTU"),
    ("debug", "debug.enabled"),
    ("hubble", "hubble.enabled"),
    ("enable-hubble", "hubble.enabled"),
    ("bandwidthManager", "bandwidthManager.enabled"),
    ("enable-bandwidth-manager", "bandwidthManager.enabled"),
    ("encryption", "encryption.enabled"),
    ("sockops.enabled", "socketLB.enabled"),
    ("bgp.enabled", "bgpControlPlane.enabled"),
];

/// Name of a value, deprecated word, current word.
const WORDS: &[(&str, &str, &str)] = &[
    ("kubeProxyReplacement", "strict", "true"),
    ("kubeProxyReplacement", "probe", "true"),
    ("kubeProxyReplacement", "partial", "true"),
    ("kubeProxyReplacement", "disabled", "false"),
    ("loadBalancer.acceleration", "none", "disabled"),
    ("ipam.mode", "hostscope-legacy", "kubernetes"),
    ("ipam.mode", "hostscope", "kubernetes"),
];

/// The current names and values of a deprecated setting.
pub struct Translation {
    /// Current names and values.
    pub values: Vec<(String, Value)>,
    /// The message for the user.
    pub notice: String,
}

/// The current setting for a deprecated name; none if the name is not
/// deprecated. A mapping (`ipv4: {...}`) is a group and never deprecated.
pub fn name(name: &str, value: &Value) -> Option<Translation> {
    if value.is_object() {
        return None;
    }
    match name {
        "tunnel" => return Some(tunnel(value)),
        "k8s-api-server" | "k8sApiServer" => {
            return Some(renamed(name, "k8s.apiServerURLs", value.clone()));
        }
        _ => {}
    }
    let (_, current) = RENAMED.iter().find(|(old, _)| *old == name)?;
    Some(renamed(name, current, value.clone()))
}

/// The current word for a deprecated one.
pub fn value(name: &str, value: &Value) -> Option<(Value, String)> {
    let text = value.as_str()?;
    let (_, _, current) = WORDS.iter().find(|(of, old, _)| *of == name && *old == text)?;
    let notice = format!("{name}={text} is deprecated: use {name}={current}");
    Some((Value::String((*current).to_owned()), notice))
}

/// The deprecated words of a value.
pub fn words(name: &str) -> impl Iterator<Item = &'static str> {
    WORDS.iter().filter(move |(of, _, _)| *of == name).map(|(_, old, _)| *old)
}

/// Every deprecated name, for the chart's schema.
pub fn dotted_names() -> impl Iterator<Item = &'static str> {
    names().chain(["tunnel", "k8s-api-server", "k8sApiServer"])
}

/// Every deprecated name, for suggestions.
pub fn names() -> impl Iterator<Item = &'static str> {
    RENAMED.iter().map(|(old, _)| *old)
}

/// `tunnel=disabled|vxlan|geneve` set both routing mode and protocol.
fn tunnel(value: &Value) -> Translation {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text_value = |s: &str| Value::String(s.to_owned());
    let values = match text.as_str() {
        "disabled" | "false" => vec![("routingMode".to_owned(), text_value("native"))],
        protocol => vec![
            ("routingMode".to_owned(), text_value("tunnel")),
            ("tunnelProtocol".to_owned(), text_value(protocol)),
        ],
    };
    let current: Vec<String> =
        values.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    Translation { notice: format!("tunnel={text} is deprecated: use {}", current.join(" ")), values }
}

fn renamed(old: &str, current: &str, value: Value) -> Translation {
    Translation {
        notice: format!("{old} is deprecated: use {current}"),
        values: vec![(current.to_owned(), value)],
    }
}
