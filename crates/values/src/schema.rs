//! The table of values: name, type, default, what it does and whether it is
//! built. Names are Cilium's wherever Cilium has one.

use crate::built;

/// What a value may be.
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
    /// Anything, passed on as it is (chart only).
    Any,
}

/// Whether a value has an effect today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Every setting of it.
    Full,
    /// It has an effect, but not yet everything that its name promises: what
    /// is missing is said whenever it is set.
    Ignored(&'static str),
    /// These settings only; the text says what happens instead of the others.
    Only(&'static [&'static str], &'static str),
    /// By the chart's templates; the agent has nothing to do with it.
    Chart,
}

/// One value of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Default as text, for lists and what may be anything as YAML; empty = not
    /// set.
    pub default: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// Whether it is built.
    pub built: Support,
}

impl Key {
    /// True if every setting of the value has its full effect.
    pub fn is_implemented(&self) -> bool {
        self.built == Support::Full
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    built: Support,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, doc, built }
}

/// Only "off" is built: the feature comes with a later release.
const OFF: Support = Support::Only(&["false"], "the feature stays off");

/// On or off once it is built, until then "off" alone.
const fn switch(is_implemented: bool) -> Support {
    if is_implemented { Support::Full } else { OFF }
}

/// Whole once the feature that it belongs to is built.
const fn part(is_implemented: bool, missing: &'static str) -> Support {
    if is_implemented { Support::Full } else { Support::Ignored(missing) }
}

/// "false" only, until it is built; the text says what happens meanwhile.
const fn meanwhile(is_implemented: bool, instead: &'static str) -> Support {
    if is_implemented { Support::Full } else { Support::Only(&["false"], instead) }
}

/// The default of what is on as soon as it is built.
const fn on(is_implemented: bool) -> &'static str {
    if is_implemented { "true" } else { "false" }
}

const NO_NODE_PORT: &str = "NodePort is not built yet";
const NO_MASQUERADE: &str = "it says what is not masqueraded, and masquerading is not built yet";
const KEEPS_ADDRESS: &str = "packets to the outside keep the pod's address";
const PORT: Kind = Kind::Integer(1, 65_535);
const TABLE: Kind = Kind::Integer(1_024, 16_777_216);

/// Every value, sorted by subject.
pub const KEYS: &[Key] = &[
    // Routing.
    key(
        "routingMode",
        Kind::Choice(&["native", "tunnel"]),
        "native",
        Support::Only(&["native"], "nodes are reached by native routes"),
        "How pods on other nodes are reached: by the network's own routes, or encapsulated.",
    ),
    key(
        "autoDirectNodeRoutes",
        Kind::Bool,
        "true",
        Support::Full,
        "Give each node a route to every other node's pod ranges (nodes share a network segment).",
    ),
    key(
        "directRoutingSkipUnreachable",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "a route is made for every node"),
        "Leave out the direct route to nodes that are not neighbours.",
    ),
    key(
        "ipv4NativeRoutingCIDR",
        Kind::Ipv4Cidr,
        "",
        part(built::MASQUERADE, NO_MASQUERADE),
        "IPv4 range that the network routes natively: no masquerading towards it.",
    ),
    key(
        "ipv6NativeRoutingCIDR",
        Kind::Ipv6Cidr,
        "",
        part(built::MASQUERADE, NO_MASQUERADE),
        "IPv6 range that the network routes natively: no masquerading towards it.",
    ),
    key(
        "tunnelProtocol",
        Kind::Choice(&["vxlan", "geneve"]),
        "vxlan",
        Support::Ignored("it matters with routingMode=tunnel only, which is not built yet"),
        "Encapsulation of routingMode=tunnel.",
    ),
    key(
        "tunnelPort",
        PORT,
        "",
        Support::Ignored("it matters with routingMode=tunnel only, which is not built yet"),
        "UDP port of the encapsulation.",
    ),
    key(
        "endpointRoutes.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "every pod has a route of its own"),
        "A route per pod on its node.",
    ),
    key(
        "devices",
        Kind::List,
        "",
        Support::Full,
        "Uplink devices of the node; not set = those with a default route or a node address.",
    ),
    key(
        "directRoutingDevice",
        Kind::Text,
        "",
        Support::Ignored("the kernel's route lookup chooses the device"),
        "Device that connects the nodes.",
    ),
    key("MTU", Kind::Integer(0, 65_535), "0", Support::Full, "MTU of pods; 0 = taken from the uplink."),
    key(
        "pmtuDiscovery.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "too-big answers are always sent"),
        "Answer packets that are too big, so that senders learn the path MTU.",
    ),
    // Families and addresses.
    key(
        "ipv4.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "IPv4 stays on"),
        "IPv4 for pods and services.",
    ),
    key(
        "ipv6.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "IPv6 stays on"),
        "IPv6 for pods and services.",
    ),
    key(
        "ipam.mode",
        Kind::Choice(&["kubernetes", "cluster-pool", "multi-pool", "eni", "azure", "crd"]),
        "kubernetes",
        Support::Only(&["kubernetes"], "addresses come from the node's podCIDRs"),
        "Where pod addresses come from: `kubernetes` = the node's spec.podCIDRs.",
    ),
    key(
        "ipam.operator.clusterPoolIPv4PodCIDRList",
        Kind::List,
        "",
        Support::Ignored("it matters with ipam.mode=cluster-pool only, which is not built yet"),
        "Pod ranges of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv4MaskSize",
        Kind::Integer(1, 32),
        "24",
        Support::Ignored("it matters with ipam.mode=cluster-pool only, which is not built yet"),
        "Prefix length per node of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv6PodCIDRList",
        Kind::List,
        "",
        Support::Ignored("it matters with ipam.mode=cluster-pool only, which is not built yet"),
        "IPv6 pod ranges of ipam.mode=cluster-pool.",
    ),
    key(
        "ipam.operator.clusterPoolIPv6MaskSize",
        Kind::Integer(1, 128),
        "120",
        Support::Ignored("it matters with ipam.mode=cluster-pool only, which is not built yet"),
        "IPv6 prefix length per node of ipam.mode=cluster-pool.",
    ),
    key(
        "k8s.requireIPv4PodCIDR",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "the node's podCIDRs decide"),
        "Wait for an IPv4 podCIDR.",
    ),
    key(
        "k8s.requireIPv6PodCIDR",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "the node's podCIDRs decide"),
        "Wait for an IPv6 podCIDR.",
    ),
    // The API server.
    key(
        "k8sServiceHost",
        Kind::Text,
        "",
        Support::Full,
        "Host of the API server, reachable without a Service; not set = from the kubeconfig or the pod's environment.",
    ),
    key("k8sServicePort", PORT, "", Support::Full, "Port of the API server at k8sServiceHost."),
    key(
        "k8s.apiServerURLs",
        Kind::Text,
        "",
        Support::Full,
        "API server URLs separated by blanks, tried in turn.",
    ),
    // Services.
    key(
        "kubeProxyReplacement",
        Kind::Bool,
        "true",
        part(
            built::NODE_PORT && built::EXTERNAL_IPS && built::HOST_PORT,
            "ClusterIP services are built (TCP and UDP); NodePort, LoadBalancer, external IPs and hostPort are not yet",
        ),
        "Serve Services in eBPF, without kube-proxy.",
    ),
    key(
        "kubeProxyReplacementHealthzBindAddr",
        Kind::Text,
        "",
        Support::Full,
        "Address and port at which /healthz and /livez answer as kube-proxy's do, such as 0.0.0.0:10256; not set = nowhere.",
    ),
    key(
        "socketLB.enabled",
        Kind::Bool,
        "true",
        Support::Full,
        "Translate Services when a socket connects. Without it what the nodes ask of Services is translated packet by packet on its way out, and NodePorts on loopback are not served.",
    ),
    key(
        "socketLB.hostNamespaceOnly",
        Kind::Bool,
        "false",
        Support::Full,
        "Translate sockets of the host's network alone; what pods send is translated packet by packet. One pod asks for that by the annotation beeline.io/socket-lb: \"false\".",
    ),
    key(
        "loadBalancer.mode",
        Kind::Choice(&["snat", "dsr", "hybrid"]),
        "snat",
        Support::Only(&["snat"], "services use per-packet translation"),
        "How requests from outside reach a backend on another node.",
    ),
    key(
        "loadBalancer.dsrDispatch",
        Kind::Choice(&["opt", "ipip", "geneve"]),
        "opt",
        Support::Ignored("it matters with loadBalancer.mode=dsr only, which is not built yet"),
        "How loadBalancer.mode=dsr tells the backend the service address.",
    ),
    key(
        "loadBalancer.acceleration",
        Kind::Choice(&["disabled", "native", "best-effort"]),
        "disabled",
        Support::Only(&["disabled"], "services are translated at tc"),
        "Serve requests from outside in XDP.",
    ),
    key(
        "loadBalancer.algorithm",
        Kind::Choice(&["random", "maglev"]),
        "random",
        Support::Full,
        "How a backend is chosen for clients outside: by chance, or by consistent hashing of the client's address and ports, the same on every node. A Service chooses by itself with the annotation service.beeline.io/lb-algorithm.",
    ),
    key(
        "loadBalancer.serviceTopology",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "every zone's endpoints are used"),
        "Prefer endpoints of the own zone.",
    ),
    key(
        "maglev.tableSize",
        Kind::Integer(0, 131_071),
        "0",
        Support::Full,
        "Smallest size of a Service's consistent-hash table: with one well above 100 places for each endpoint the size stays the same when endpoints come and go; 0 = by the number of endpoints.",
    ),
    key(
        "maglev.hashSeed",
        Kind::Text,
        "",
        Support::Full,
        "Seed of the consistent hash, equal on every node.",
    ),
    key(
        "sessionAffinity",
        Kind::Bool,
        on(built::SESSION_AFFINITY),
        meanwhile(built::SESSION_AFFINITY, "backends are chosen at random"),
        "Honour sessionAffinity: ClientIP.",
    ),
    key(
        "nodePort.enabled",
        Kind::Bool,
        on(built::NODE_PORT),
        switch(built::NODE_PORT),
        "Serve NodePorts, and the addresses of LoadBalancers.",
    ),
    key(
        "nodePort.range",
        Kind::Ports,
        "30000-32767",
        Support::Full,
        "Range of NodePorts, as the API server's --service-node-port-range has it: translated sources keep out of it. A nodePort outside is served as well.",
    ),
    key(
        "nodePort.addresses",
        Kind::Cidrs,
        "",
        part(built::NODE_PORT, NO_NODE_PORT),
        "Ranges of the node addresses at which NodePorts are served and healthCheckNodePorts answered; not set = all addresses of the Node objects.",
    ),
    key(
        "nodePort.enableHealthCheck",
        Kind::Bool,
        "true",
        part(built::NODE_PORT, NO_NODE_PORT),
        "Answer load balancers at healthCheckNodePort.",
    ),
    key(
        "nodePort.directRoutingDevice",
        Kind::Text,
        "",
        Support::Ignored("the kernel's route lookup chooses the device"),
        "Device that connects the nodes.",
    ),
    key(
        "hostPort.enabled",
        Kind::Bool,
        on(built::HOST_PORT),
        switch(built::HOST_PORT),
        "Serve hostPorts of pods.",
    ),
    key(
        "externalIPs.enabled",
        Kind::Bool,
        "false",
        switch(built::EXTERNAL_IPS),
        "Serve spec.externalIPs of Services, as far as externalIPs.allowedCIDRs contains them.",
    ),
    key(
        "externalIPs.allowedCIDRs",
        Kind::Cidrs,
        "",
        part(built::EXTERNAL_IPS, "external IPs are not built yet"),
        "Ranges of which whoever may write Services may take addresses; not set = none.",
    ),
    key(
        "l2announcements.enabled",
        Kind::Bool,
        "false",
        OFF,
        "Announce LoadBalancer addresses on the local segment.",
    ),
    key("bgpControlPlane.enabled", Kind::Bool, "false", OFF, "Announce addresses by BGP."),
    key("localRedirectPolicy", Kind::Bool, "false", OFF, "Redirect services to pods of the own node."),
    // Tables and masquerading.
    key(
        "bpf.natPortRange",
        Kind::Ports,
        "",
        Support::Full,
        "Ports of the node that translated sources get; not set = the last range that neither net.ipv4.ip_local_port_range nor nodePort.range holds.",
    ),
    key(
        "bpf.masquerade",
        Kind::Bool,
        "false",
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Masquerade in eBPF what leaves the cluster.",
    ),
    key(
        "enableIPv4Masquerade",
        Kind::Bool,
        on(built::MASQUERADE),
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Masquerade IPv4 that leaves the cluster.",
    ),
    key(
        "enableIPv6Masquerade",
        Kind::Bool,
        on(built::MASQUERADE),
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Masquerade IPv6 that leaves the cluster.",
    ),
    key(
        "ipMasqAgent.enabled",
        Kind::Bool,
        "false",
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Exempt the ranges of ipMasqAgent.config from masquerading.",
    ),
    key(
        "ipMasqAgent.config.nonMasqueradeCIDRs",
        Kind::Cidrs,
        "",
        part(built::MASQUERADE, NO_MASQUERADE),
        "Ranges that pods reach with their own address; not set = the ranges that are not routed on the Internet.",
    ),
    key(
        "ipMasqAgent.config.masqLinkLocal",
        Kind::Bool,
        "false",
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Masquerade towards 169.254.0.0/16 as well.",
    ),
    key(
        "ipMasqAgent.config.masqLinkLocalIPv6",
        Kind::Bool,
        "false",
        meanwhile(built::MASQUERADE, KEEPS_ADDRESS),
        "Masquerade towards fe80::/10 as well.",
    ),
    key(
        "bpf.enableTCX",
        Kind::Bool,
        "true",
        Support::Full,
        "Attach programs by TCX links where the kernel has them (6.6); false = by classifiers on clsact.",
    ),
    key(
        "bpf.ctTcpMax",
        TABLE,
        "262144",
        Support::Full,
        "Capacity of the connection table (one table for every protocol).",
    ),
    key(
        "bpf.ctAnyMax",
        TABLE,
        "",
        Support::Ignored("there is one connection table for every protocol, sized by bpf.ctTcpMax"),
        "Capacity for connections that are not TCP.",
    ),
    key(
        "bpf.natMax",
        TABLE,
        "",
        Support::Ignored("masquerading is not built yet"),
        "Capacity of the NAT table.",
    ),
    key(
        "bpf.lbMapMax",
        TABLE,
        "",
        Support::Ignored("the service tables have fixed capacities; see docs/operate.md"),
        "Capacity of the service tables.",
    ),
    key(
        "bpf.policyMapMax",
        TABLE,
        "",
        Support::Ignored("network policy is not built yet"),
        "Capacity of a policy table.",
    ),
    key(
        "bpf.preallocateMaps",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "tables grow on demand"),
        "Allocate whole tables at start.",
    ),
    key(
        "bpf.mapDynamicSizeRatio",
        Kind::Any,
        "",
        Support::Ignored("tables have fixed capacities"),
        "Size tables by the machine's memory.",
    ),
    key(
        "bpf.hostLegacyRouting",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "packets bypass the host's netfilter"),
        "Send pod packets through the host's stack.",
    ),
    key(
        "bpf.datapathMode",
        Kind::Choice(&["veth", "netkit", "netkit-l2"]),
        "veth",
        Support::Only(&["veth"], "pods sit behind veth"),
        "Kind of pod device.",
    ),
    key("bpf.tproxy", Kind::Bool, "false", OFF, "Redirect to the proxy in eBPF."),
    key(
        "bpf.lbSourceRangeAllTypes",
        Kind::Bool,
        "false",
        switch(built::NODE_PORT),
        "Apply loadBalancerSourceRanges to NodePorts and external IPs, too.",
    ),
    key(
        "bpf.lbExternalClusterIP",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "ClusterIPs serve the cluster only"),
        "Serve ClusterIPs to clients outside the cluster.",
    ),
    key(
        "bpf.monitorAggregation",
        Kind::Text,
        "",
        Support::Ignored("drops are sampled, flows are not recorded yet"),
        "How much of the traffic becomes events.",
    ),
    key(
        "bpf.events.drop.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "drops are always counted and sampled"),
        "Events of drops.",
    ),
    key(
        "installNoConntrackIptablesRules",
        Kind::Bool,
        "false",
        Support::Only(&["false"], "pod packets do not meet netfilter anyway"),
        "Exempt pod traffic from netfilter's conntrack.",
    ),
    // Further features, off today.
    key("bandwidthManager.enabled", Kind::Bool, "false", OFF, "Pace pods by their bandwidth annotation."),
    key("bandwidthManager.bbr", Kind::Bool, "false", OFF, "BBR for pods."),
    key("enableIPv4BIGTCP", Kind::Bool, "false", OFF, "Segments above 64 KiB, IPv4."),
    key("enableIPv6BIGTCP", Kind::Bool, "false", OFF, "Segments above 64 KiB, IPv6."),
    key("encryption.enabled", Kind::Bool, "false", OFF, "Encrypt between nodes."),
    key(
        "encryption.type",
        Kind::Choice(&["ipsec", "wireguard", "ztunnel"]),
        "ipsec",
        Support::Ignored("encryption is not built yet"),
        "Kind of encryption.",
    ),
    key("hostFirewall.enabled", Kind::Bool, "false", OFF, "Policies for nodes."),
    key(
        "policyEnforcementMode",
        Kind::Choice(&["default", "always", "never"]),
        "default",
        Support::Ignored("network policy is not built yet, every packet is allowed"),
        "When policies are enforced.",
    ),
    key("l7Proxy", Kind::Bool, "false", OFF, "Policies on the application layer."),
    key("gatewayAPI.enabled", Kind::Bool, "false", OFF, "Gateway API."),
    key("ingressController.enabled", Kind::Bool, "false", OFF, "Ingress."),
    key("egressGateway.enabled", Kind::Bool, "false", OFF, "Leave the cluster through chosen nodes."),
    key("clustermesh.useAPIServer", Kind::Bool, "false", OFF, "Several clusters as one."),
    key(
        "cluster.name",
        Kind::Text,
        "default",
        Support::Ignored("several clusters as one are not built yet"),
        "Name of the cluster.",
    ),
    key(
        "cluster.id",
        Kind::Integer(0, 511),
        "0",
        Support::Ignored("several clusters as one are not built yet"),
        "Number of the cluster.",
    ),
    key(
        "identityAllocationMode",
        Kind::Choice(&["crd", "kvstore"]),
        "crd",
        Support::Ignored("identities are numbers of the node alone"),
        "Where identities are kept.",
    ),
    key("healthChecking", Kind::Bool, "false", OFF, "Probe between nodes."),
    key("endpointHealthChecking.enabled", Kind::Bool, "false", OFF, "Probe pods."),
    // Plugin.
    key("cni.exclusive", Kind::Bool, "true", Support::Chart, "Move other plugins' configurations aside."),
    key("cni.install", Kind::Bool, "true", Support::Chart, "Install plugin and configuration on the node."),
    key(
        "cni.confPath",
        Kind::Text,
        "/etc/cni/net.d",
        Support::Chart,
        "Folder of the runtime's network configurations.",
    ),
    key("cni.binPath", Kind::Text, "/opt/cni/bin", Support::Chart, "Folder of the runtime's plugins."),
    key(
        "cni.chainingMode",
        Kind::Text,
        "none",
        Support::Only(&["none"], "the plugin makes the interface itself"),
        "Work behind another plugin.",
    ),
    key("cni.customConf", Kind::Bool, "false", OFF, "Leave the network configuration to the administrator."),
    // Seeing.
    key("debug.enabled", Kind::Bool, "false", Support::Full, "Detailed log of the agent."),
    key(
        "prometheus.enabled",
        Kind::Bool,
        "true",
        Support::Only(&["true"], "/metrics is served on loopback"),
        "Serve metrics.",
    ),
    key("prometheus.port", PORT, "9962", Support::Full, "Port of /metrics, /healthz and /readyz."),
    key(
        "prometheus.serviceMonitor.enabled",
        Kind::Bool,
        "false",
        Support::Only(
            &["false"],
            "/metrics is on the node's loopback, where only the node's own Prometheus reaches it",
        ),
        "Make a ServiceMonitor.",
    ),
    key("hubble.enabled", Kind::Bool, "false", OFF, "Record flows and serve Hubble's observer API."),
    key(
        "hubble.listenAddress",
        Kind::Text,
        "",
        Support::Ignored("Hubble's API is not built yet"),
        "Address of Hubble's API.",
    ),
    key(
        "hubble.metrics.enabled",
        Kind::Any,
        "",
        Support::Ignored("flow metrics are not built yet"),
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
        "The image of agent and plugin; without a tag, that of the chart's appVersion.",
    ),
    key("imagePullSecrets", Kind::Any, "[]", Support::Chart, "Secrets to pull images."),
    key("operator", Kind::Any, "", Support::Ignored("Beeline has no operator"), "Cilium's operator."),
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
        "Priority of the agent's pod.",
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
    key("extraEnv", Kind::Any, "[]", Support::Chart, "Further environment of the agent."),
    key(
        "extraConfig",
        Kind::Any,
        "{}",
        Support::Chart,
        "Further values for the agent's configuration alone; these win.",
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
