//! The table of values: name, type, default, meaning, and how far each is
//! implemented. Names are Cilium's wherever Cilium has one.

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in this range, both ends included.
    Integer(u64, u64),
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IPv4 prefix such as `10.0.0.0/8`.
    Ipv4Cidr,
    /// An IPv6 prefix such as `fd00::/8`.
    Ipv6Cidr,
    /// A list of texts.
    List,
    /// A list of prefixes of either family.
    Cidrs,
    /// A range of ports such as `30000-32767`.
    Ports,
    /// Any YAML; only the chart reads it.
    Any,
}

/// How far a value is implemented. This is the only place that says so: the
/// messages, the chart's pages and the defaults follow from it, and a test
/// checks it against what reaches [`crate::Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Every setting has its effect.
    Full,
    /// These settings only. Any other is ignored and the first of these is
    /// used; the text says what that means, or is empty.
    Only(&'static [&'static str], &'static str),
    /// No setting has an effect; the text says why.
    Ignored(&'static str),
    /// The chart's templates read it; the agent ignores it.
    Chart,
}

/// One value of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Default as text, YAML for lists and [`Kind::Any`]; empty = not set.
    pub default: &'static str,
    /// What it does.
    pub description: &'static str,
    /// How far it is implemented.
    pub support: Support,
}

impl Key {
    /// True if every setting of the value has its effect.
    pub fn is_implemented(&self) -> bool {
        self.support == Support::Full
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    description: &'static str,
) -> Key {
    Key { name, kind, default, description, support }
}

/// Only "off" is implemented.
const OFF: Support = Support::Only(&["false"], "");
const TUNNEL_ONLY: Support = Support::Ignored("it applies to routingMode=tunnel, which is not implemented");
const CLUSTER_POOL_ONLY: Support =
    Support::Ignored("it applies to ipam.mode=cluster-pool, which is not implemented");
const ROUTE_LOOKUP: Support = Support::Ignored("the kernel's route lookup chooses the device");
const FIXED_TABLES: Support = Support::Ignored("the capacity of this table is fixed");
const PORT: Kind = Kind::Integer(1, 65_535);
const TABLE: Kind = Kind::Integer(1_024, 16_777_216);

/// Every value, by subject.
pub const KEYS: &[Key] = &[
    // Routing.
    key(
        "routingMode",
        Kind::Choice(&["native", "tunnel"]),
        "native",
        Support::Only(&["native"], ""),
        "How pods on other nodes are reached: `native` = by routes of the nodes and the network, `tunnel` = encapsulated.",
    ),
    key(
        "autoDirectNodeRoutes",
        Kind::Bool,
        "true",
        Support::Full,
        "Add a route to every other node's PodCIDRs on each node; the nodes must share a network segment.",
    ),
    key(
        "directRoutingSkipUnreachable",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "a route is added for every node"),
        "Add no direct route to nodes that are not on the same network segment.",
    ),
    key(
        "ipv4NativeRoutingCIDR",
        Kind::Ipv4Cidr,
        "",
        Support::Full,
        "IPv4 range that the network routes natively: traffic to it is not masqueraded.",
    ),
    key(
        "ipv6NativeRoutingCIDR",
        Kind::Ipv6Cidr,
        "",
        Support::Full,
        "IPv6 range that the network routes natively: traffic to it is not masqueraded.",
    ),
    key(
        "tunnelProtocol",
        Kind::Choice(&["vxlan", "geneve"]),
        "vxlan",
        TUNNEL_ONLY,
        "Encapsulation of routingMode=tunnel.",
    ),
    key("tunnelPort", PORT, "", TUNNEL_ONLY, "UDP port of the encapsulation."),
    key(
        "endpointRoutes.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "every pod has a route of its own"),
        "Add a route for each pod on its node.",
    ),
    key(
        "devices",
        Kind::List,
        "",
        Support::Full,
        "Uplink devices of the node; not set = those that have a default route or an address of the Node object.",
    ),
    key("directRoutingDevice", Kind::Text, "", ROUTE_LOOKUP, "Device that connects the nodes."),
    key("MTU", Kind::Integer(0, 65_535), "0", Support::Full, "MTU of pods; 0 = the MTU of the uplink."),
    key(
        "pmtuDiscovery.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], ""),
        "Send ICMP errors for packets that are too big, so that senders learn the path MTU.",
    ),
    // Address families and addresses.
    key(
        "ipv4.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "IPv4 stays on"),
        "IPv4 for pods and Services.",
    ),
    key(
        "ipv6.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "IPv6 stays on"),
        "IPv6 for pods and Services.",
    ),
    key(
        "ipam.mode",
        Kind::Choice(&["kubernetes", "cluster-pool", "multi-pool", "eni", "azure", "crd"]),
        "kubernetes",
        Support::Only(&["kubernetes"], ""),
        "Where pod addresses come from: `kubernetes` = the Node's spec.podCIDRs.",
    ),
    key(
        "ipam.operator.clusterPoolIPv4PodCIDRList",
        Kind::List,
        "",
        CLUSTER_POOL_ONLY,
        "IPv4 ranges of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv4MaskSize",
        Kind::Integer(1, 32),
        "24",
        CLUSTER_POOL_ONLY,
        "IPv4 prefix length per node of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv6PodCIDRList",
        Kind::List,
        "",
        CLUSTER_POOL_ONLY,
        "IPv6 ranges of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv6MaskSize",
        Kind::Integer(1, 128),
        "120",
        CLUSTER_POOL_ONLY,
        "IPv6 prefix length per node of ipam.mode=cluster-pool.",
    ),
    key(
        "k8s.requireIPv4PodCIDR",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "the agent waits for any of the Node's podCIDRs"),
        "Wait for an IPv4 PodCIDR.",
    ),
    key(
        "k8s.requireIPv6PodCIDR",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "the agent waits for any of the Node's podCIDRs"),
        "Wait for an IPv6 PodCIDR.",
    ),
    // The API server.
    key(
        "k8sServiceHost",
        Kind::Text,
        "",
        Support::Full,
        "Host of the API server, reachable without a Service; not set = from the kubeconfig or the pod's environment.",
    ),
    key(
        "k8sServicePort",
        PORT,
        "",
        Support::Full,
        "Port of the API server at k8sServiceHost; not set = 443.",
    ),
    key(
        "k8s.apiServerURLs",
        Kind::Text,
        "",
        Support::Full,
        "URLs of API servers, separated by spaces; they are tried in turn.",
    ),
    // Services.
    key(
        "kubeProxyReplacement",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "Services are always served in eBPF"),
        "Serve Services in eBPF, without kube-proxy.",
    ),
    key(
        "kubeProxyReplacementHealthzBindAddr",
        Kind::Text,
        "",
        Support::Full,
        "Address and port at which /healthz and /livez answer as kube-proxy's do, such as 0.0.0.0:10256; not set = not served.",
    ),
    key(
        "socketLB.enabled",
        Kind::Bool,
        "true",
        Support::Full,
        "Translate a Service address when a socket connects or sends. Without it, requests of the nodes are translated packet by packet on their way out, and NodePorts on loopback are not served.",
    ),
    key(
        "socketLB.hostNamespaceOnly",
        Kind::Bool,
        "false",
        Support::Full,
        "Translate only sockets of the host network namespace; packets of pods are translated one by one. The annotation beeline.io/socket-lb: \"false\" does the same for one pod.",
    ),
    key(
        "loadBalancer.mode",
        Kind::Choice(&["snat", "dsr", "hybrid"]),
        "snat",
        Support::Only(&["snat"], ""),
        "How requests from outside reach a backend on another node, and replies the client: `snat` = both through the node that received the request.",
    ),
    key(
        "loadBalancer.dsrDispatch",
        Kind::Choice(&["opt", "ipip", "geneve"]),
        "opt",
        Support::Ignored("it applies to loadBalancer.mode=dsr, which is not implemented"),
        "How loadBalancer.mode=dsr carries the Service address to the backend.",
    ),
    key(
        "loadBalancer.acceleration",
        Kind::Choice(&["disabled", "native", "best-effort"]),
        "disabled",
        Support::Only(&["disabled"], "Services are translated at tc"),
        "Serve requests from outside in XDP.",
    ),
    key(
        "loadBalancer.algorithm",
        Kind::Choice(&["random", "maglev"]),
        "random",
        Support::Full,
        "How a backend is chosen for clients outside: `random`, or `maglev` = consistent hashing of the client's address and ports, which chooses the same backend on every node. The annotation service.beeline.io/lb-algorithm sets it for one Service.",
    ),
    key(
        "loadBalancer.serviceTopology",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "topology hints of EndpointSlices are honoured in any case"),
        "Prefer endpoints in the zone of the node.",
    ),
    key(
        "maglev.tableSize",
        Kind::Integer(0, 131_071),
        "0",
        Support::Full,
        "Smallest size of a Service's Maglev table. A size of more than 100 entries per endpoint does not change when endpoints are added or removed; 0 = from the number of endpoints.",
    ),
    key(
        "maglev.hashSeed",
        Kind::Text,
        "",
        Support::Full,
        "Seed of the Maglev hash; all nodes must have the same.",
    ),
    key(
        "sessionAffinity",
        Kind::Bool,
        "true",
        Support::Full,
        "Honour sessionAffinity: ClientIP of Services.",
    ),
    key(
        "nodePort.enabled",
        Kind::Bool,
        "true",
        Support::Full,
        "Serve NodePorts and the addresses of LoadBalancers.",
    ),
    key(
        "nodePort.range",
        Kind::Ports,
        "30000-32767",
        Support::Full,
        "Range of NodePorts, equal to the API server's --service-node-port-range: no SNAT port is taken from it. A nodePort outside of the range is served, too.",
    ),
    key(
        "nodePort.addresses",
        Kind::Cidrs,
        "",
        Support::Full,
        "Ranges of the node addresses that serve NodePorts and healthCheckNodePorts; not set = every address of the Node objects.",
    ),
    key(
        "nodePort.enableHealthCheck",
        Kind::Bool,
        "true",
        Support::Full,
        "Answer health checks of load balancers at healthCheckNodePort.",
    ),
    key("nodePort.directRoutingDevice", Kind::Text, "", ROUTE_LOOKUP, "Device that connects the nodes."),
    key("hostPort.enabled", Kind::Bool, "true", Support::Full, "Serve hostPorts of pods."),
    key(
        "externalIPs.enabled",
        Kind::Bool,
        "false",
        Support::Full,
        "Serve spec.externalIPs of Services if externalIPs.allowedCIDRs contains them.",
    ),
    key(
        "externalIPs.allowedCIDRs",
        Kind::Cidrs,
        "",
        Support::Full,
        "Ranges from which Services may use externalIPs; whoever may write Services may take traffic to these addresses. Not set = none.",
    ),
    key(
        "l2announcements.enabled",
        Kind::Bool,
        "false",
        OFF,
        "Announce LoadBalancer addresses on the local network segment.",
    ),
    key("bgpControlPlane.enabled", Kind::Bool, "false", OFF, "Announce addresses by BGP."),
    key("localRedirectPolicy", Kind::Bool, "false", OFF, "Redirect a Service to pods of the same node."),
    // Masquerading and tables.
    key(
        "bpf.natPortRange",
        Kind::Ports,
        "",
        Support::Full,
        "SNAT ports of the node; not set = the last range that is outside of net.ipv4.ip_local_port_range and nodePort.range.",
    ),
    key(
        "bpf.masquerade",
        Kind::Bool,
        "false",
        Support::Full,
        "Masquerade traffic that leaves the cluster in eBPF.",
    ),
    key(
        "enableIPv4Masquerade",
        Kind::Bool,
        "true",
        Support::Full,
        "Masquerade IPv4 traffic that leaves the cluster; needs bpf.masquerade.",
    ),
    key(
        "enableIPv6Masquerade",
        Kind::Bool,
        "true",
        Support::Full,
        "Masquerade IPv6 traffic that leaves the cluster; needs bpf.masquerade.",
    ),
    key(
        "ipMasqAgent.enabled",
        Kind::Bool,
        "false",
        Support::Full,
        "Do not masquerade traffic to the ranges of ipMasqAgent.config.",
    ),
    key(
        "ipMasqAgent.config.nonMasqueradeCIDRs",
        Kind::Cidrs,
        "",
        Support::Full,
        "Ranges to which traffic is not masqueraded; not set = the private and special-purpose IPv4 ranges.",
    ),
    key(
        "ipMasqAgent.config.masqLinkLocal",
        Kind::Bool,
        "false",
        Support::Full,
        "Masquerade traffic to 169.254.0.0/16, too.",
    ),
    key(
        "ipMasqAgent.config.masqLinkLocalIPv6",
        Kind::Bool,
        "false",
        Support::Full,
        "Masquerade traffic to fe80::/10, too.",
    ),
    key(
        "bpf.enableTCX",
        Kind::Bool,
        "true",
        Support::Full,
        "Attach programs by TCX links where the kernel has them (Linux 6.6); false = by classifiers on clsact.",
    ),
    key(
        "bpf.ctTcpMax",
        TABLE,
        "262144",
        Support::Only(&["262144"], "the capacity of the connection table is fixed"),
        "Capacity of the connection table, which holds every protocol.",
    ),
    key(
        "bpf.ctAnyMax",
        TABLE,
        "",
        Support::Ignored("one connection table holds every protocol"),
        "Capacity for connections that are not TCP.",
    ),
    key(
        "bpf.natMax",
        TABLE,
        "",
        Support::Ignored("SNAT mappings are entries of the connection table"),
        "Capacity of the NAT table.",
    ),
    key("bpf.lbMapMax", TABLE, "", FIXED_TABLES, "Capacity of the Service tables."),
    key(
        "bpf.policyMapMax",
        TABLE,
        "",
        Support::Ignored("network policy is not implemented"),
        "Capacity of a policy table.",
    ),
    key(
        "bpf.preallocateMaps",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "hash tables are allocated on demand"),
        "Allocate whole tables at start.",
    ),
    key(
        "bpf.mapDynamicSizeRatio",
        Kind::Any,
        "",
        Support::Ignored("the capacities of tables are fixed"),
        "Part of the machine's memory from which the capacities of tables follow.",
    ),
    key(
        "bpf.hostLegacyRouting",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "packets do not pass the host's netfilter"),
        "Send packets of pods through the host's network stack.",
    ),
    key(
        "bpf.datapathMode",
        Kind::Choice(&["veth", "netkit", "netkit-l2"]),
        "veth",
        Support::Only(&["veth"], ""),
        "Kind of pod device.",
    ),
    key("bpf.tproxy", Kind::Bool, "false", OFF, "Redirect to the proxy in eBPF."),
    key(
        "bpf.lbSourceRangeAllTypes",
        Kind::Bool,
        "false",
        Support::Full,
        "Apply loadBalancerSourceRanges to NodePorts and externalIPs, too.",
    ),
    key(
        "bpf.lbExternalClusterIP",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "ClusterIPs are served to the cluster only"),
        "Serve ClusterIPs to clients outside the cluster.",
    ),
    key(
        "bpf.monitorAggregation",
        Kind::Text,
        "",
        Support::Ignored("flows are not recorded, and drop events are sampled by rate"),
        "How much of the traffic becomes events.",
    ),
    key(
        "bpf.events.drop.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "drops are always counted and sampled"),
        "Write events of dropped packets.",
    ),
    key(
        "installNoConntrackIptablesRules",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "packets of pods do not pass the host's netfilter"),
        "Exempt traffic of pods from netfilter's connection tracking.",
    ),
    // Features that are not implemented.
    key(
        "bandwidthManager.enabled",
        Kind::Bool,
        "false",
        OFF,
        "Limit pods to the rates of their bandwidth annotations.",
    ),
    key("bandwidthManager.bbr", Kind::Bool, "false", OFF, "Use BBR congestion control in pods."),
    key("enableIPv4BIGTCP", Kind::Bool, "false", OFF, "Segments above 64 KiB, IPv4."),
    key("enableIPv6BIGTCP", Kind::Bool, "false", OFF, "Segments above 64 KiB, IPv6."),
    key("encryption.enabled", Kind::Bool, "false", OFF, "Encrypt traffic between nodes."),
    key(
        "encryption.type",
        Kind::Choice(&["ipsec", "wireguard", "ztunnel"]),
        "ipsec",
        Support::Ignored("encryption is not implemented"),
        "Kind of encryption.",
    ),
    key("hostFirewall.enabled", Kind::Bool, "false", OFF, "Network policies for nodes."),
    key(
        "policyEnforcementMode",
        Kind::Choice(&["default", "always", "never"]),
        "default",
        Support::Ignored("network policy is not implemented, and every packet is allowed"),
        "When network policies are enforced.",
    ),
    key("l7Proxy", Kind::Bool, "false", OFF, "Network policies for the application layer."),
    key("gatewayAPI.enabled", Kind::Bool, "false", OFF, "Gateway API."),
    key("ingressController.enabled", Kind::Bool, "false", OFF, "Ingress."),
    key("egressGateway.enabled", Kind::Bool, "false", OFF, "Leave the cluster through chosen nodes."),
    key("clustermesh.useAPIServer", Kind::Bool, "false", OFF, "Connect several clusters."),
    key(
        "cluster.name",
        Kind::Text,
        "default",
        Support::Ignored("several clusters cannot be connected"),
        "Name of the cluster.",
    ),
    key(
        "cluster.id",
        Kind::Integer(0, 511),
        "0",
        Support::Ignored("several clusters cannot be connected"),
        "Number of the cluster.",
    ),
    key(
        "identityAllocationMode",
        Kind::Choice(&["crd", "kvstore"]),
        "crd",
        Support::Ignored("pods have no identities"),
        "Where identities are stored.",
    ),
    key("healthChecking", Kind::Bool, "false", OFF, "Probe the paths between nodes."),
    key("endpointHealthChecking.enabled", Kind::Bool, "false", OFF, "Probe the paths to pods."),
    // The CNI plugin.
    key(
        "cni.exclusive",
        Kind::Bool,
        "true",
        Support::Chart,
        "Rename other plugins' configurations, so that the runtime uses this one.",
    ),
    key(
        "cni.install",
        Kind::Bool,
        "true",
        Support::Chart,
        "Install the plugin and its configuration on the node.",
    ),
    key(
        "cni.confPath",
        Kind::Text,
        "/etc/cni/net.d",
        Support::Chart,
        "Directory of the runtime's network configurations.",
    ),
    key("cni.binPath", Kind::Text, "/opt/cni/bin", Support::Chart, "Directory of the runtime's plugins."),
    key(
        "cni.chainingMode",
        Kind::Text,
        "none",
        Support::Only(&["none"], "the plugin makes the interface itself"),
        "Run behind another plugin.",
    ),
    key("cni.customConf", Kind::Bool, "false", OFF, "Leave the network configuration to the administrator."),
    // Observability.
    key("debug.enabled", Kind::Bool, "false", Support::Full, "Log in detail."),
    key(
        "prometheus.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "/metrics is served on loopback"),
        "Serve metrics.",
    ),
    key(
        "prometheus.port",
        PORT,
        "9962",
        Support::Full,
        "Port of /metrics, /healthz and /readyz on the loopback address of the node.",
    ),
    key(
        "prometheus.serviceMonitor.enabled",
        Kind::Bool,
        "false",
        Support::Only(
            &["false"],
            "/metrics is on the node's loopback address, which a Prometheus elsewhere does not reach",
        ),
        "Create a ServiceMonitor.",
    ),
    key("hubble.enabled", Kind::Bool, "false", OFF, "Record flows and serve Hubble's observer API."),
    key(
        "hubble.listenAddress",
        Kind::Text,
        "",
        Support::Ignored("Hubble's API is not implemented"),
        "Address of Hubble's API.",
    ),
    key(
        "hubble.metrics.enabled",
        Kind::Any,
        "",
        Support::Ignored("flow metrics are not implemented"),
        "Flow metrics.",
    ),
    key("hubble.relay.enabled", Kind::Bool, "false", OFF, "Hubble for the whole cluster."),
    key("hubble.ui.enabled", Kind::Bool, "false", OFF, "Hubble's user interface."),
    // The installation.
    key(
        "image",
        Kind::Any,
        "{repository: beeline/agent, tag: \"\", pullPolicy: IfNotPresent}",
        Support::Chart,
        "Image of the agent and the plugin; without a tag, the chart's appVersion.",
    ),
    key("imagePullSecrets", Kind::Any, "[]", Support::Chart, "Secrets to pull images with."),
    key(
        "operator",
        Kind::Any,
        "",
        Support::Ignored("Beeline has no operator"),
        "Settings of Cilium's operator.",
    ),
    key("resources", Kind::Any, "{}", Support::Chart, "Resources of the agent's pod."),
    key("tolerations", Kind::Any, "[{operator: Exists}]", Support::Chart, "Tolerations of the agent's pod."),
    key(
        "nodeSelector",
        Kind::Any,
        "{kubernetes.io/os: linux}",
        Support::Chart,
        "Nodes on which the agent runs.",
    ),
    key("affinity", Kind::Any, "{}", Support::Chart, "Affinity of the agent's pod."),
    key(
        "priorityClassName",
        Kind::Text,
        "system-node-critical",
        Support::Chart,
        "Priority class of the agent's pod.",
    ),
    key(
        "updateStrategy",
        Kind::Any,
        "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 2}}",
        Support::Chart,
        "How the DaemonSet is updated.",
    ),
    key("podAnnotations", Kind::Any, "{}", Support::Chart, "Annotations of the agent's pod."),
    key("podLabels", Kind::Any, "{}", Support::Chart, "Labels of the agent's pod."),
    key("extraArgs", Kind::List, "[]", Support::Chart, "Further arguments of the agent."),
    key("extraEnv", Kind::Any, "[]", Support::Chart, "Further environment variables of the agent."),
    key(
        "extraConfig",
        Kind::Any,
        "{}",
        Support::Chart,
        "Further values for the agent's configuration; they override the others.",
    ),
];

/// The value with this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The values below a group name such as `bpf`.
pub fn group(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}
