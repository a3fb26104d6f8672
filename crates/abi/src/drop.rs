//! Why a packet was dropped: one enum for kernel, metrics, CLI and docs.

/// Declares the reasons once; everything else is derived from this list.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $cause:literal, $cure:literal;)*) => {
        /// The reason of a drop. Numbers are part of the ABI: never reused.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $cause] $variant = $number,)*
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<DropReason> {
                match number {
                    $($number => Some(DropReason::$variant),)*
                    _ => None,
                }
            }

            /// The name that metrics, events and the CLI use.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What happened, for a person.
            pub const fn cause(self) -> &'static str {
                match self { $(DropReason::$variant => $cause,)* }
            }

            /// What to do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(DropReason::$variant => $cure,)* }
            }
        }
    };
}

drop_reasons! {
    Malformed = 1, "malformed", "A header is truncated or contradicts itself.",
        "Capture on the sender (`tcpdump -XX`); a broken driver or a fuzzer sends such packets.";
    UnsupportedProtocol = 2, "unsupported_protocol", "The frame is neither IPv4, IPv6 nor ARP.",
        "Pods speak IP; other ethertypes have no way through a Kubernetes network.";
    SpoofedMac = 3, "spoofed_mac", "A pod sent a frame with a source MAC that is not its own.",
        "Look for a bridge, macvlan or virtual machine inside the pod; give it routed addresses instead.";
    SpoofedAddress = 4, "spoofed_address", "A pod sent a packet with a source address that is not its own.",
        "Masquerade inside the pod, or see whether the pod kept addresses of an earlier life.";
    SpoofedNeighbour = 5, "spoofed_neighbour", "A pod sent ARP or neighbour discovery for an address that is not its own.",
        "See spoofed_address; a keepalived or VRRP in the pod needs an address that Kubernetes gave it.";
    NoEndpoint = 6, "no_endpoint", "The destination is in this node's pod range, but no pod has the address.",
        "The pod has gone or is not ready yet; compare `beeline lab status` or `kubectl get pods -o wide`.";
    NoRoute = 7, "no_route", "The node has no route to the destination.",
        "Check `ip route get DESTINATION` on the node; the default route or the peer's route is missing.";
    RouteProhibited = 8, "route_prohibited", "The node's route to the destination is blackhole, unreachable or prohibit.",
        "Check `ip route get DESTINATION` on the node.";
    NoBackend = 9, "no_backend", "The Service has no ready endpoints; the connection was refused.",
        "Check `kubectl get endpointslices`: selector, readiness and the pods' state.";
    NoServicePort = 10, "no_service_port", "The address belongs to a Service that has no such port; the connection was refused.",
        "Compare the port and the protocol with `kubectl get service`.";
    ConntrackFull = 11, "conntrack_full", "The connection table is full; a new connection was refused so that live ones stay.",
        "See beeline_map_entries; raise `bpf.ctTcpMax`, or find who opens so many connections.";
    FragmentUnknown = 12, "fragment_unknown", "A fragment came whose first fragment was never seen.",
        "Fragments were reordered or the first was lost; lower the sender's packet size below the path MTU.";
    TupleClash = 13, "tuple_clash", "The same client port is in use towards the same backend through another address.",
        "Retry from another source port; use the Service address alone, not beside the pod address.";
    PolicyDenied = 14, "policy_denied", "A network policy denies the packet.",
        "Check the policies that select the pods.";
    ServiceInconsistent = 15, "service_inconsistent", "The service tables refer to a slot or backend that is not there.",
        "The agent repairs this and counts it in beeline_drift_total; if it stays, restart the agent and report it.";
    RewriteFailed = 16, "rewrite_failed", "The kernel refused to change the packet.",
        "Report it with `beeline drops -o json` and the kernel's version.";
    NotConfigured = 17, "not_configured", "The agent has not published this node's configuration yet.",
        "Check that the agent runs and reaches the API server: its log, or /readyz.";
    HeaderChainTooLong = 18, "header_chain_too_long", "An IPv6 packet has more extension headers than are followed.",
        "Such packets are not traffic of normal programs; see what sends them.";
    Martian = 19, "martian", "The source or destination address can not stand in a forwarded packet (loopback, multicast or unspecified).",
        "Multicast and broadcast do not leave a pod; loopback addresses are wrong on a wire.";
    SourceRangeDenied = 20, "source_range_denied", "The client is in none of the Service's loadBalancerSourceRanges.",
        "Compare the client's address with `kubectl get service NAME -o yaml`; a load balancer in front may hide it.";
    NatPortsFull = 21, "nat_ports_full", "No port is free for a translated source towards this destination; live connections stay.",
        "Spread the connections over more destinations or nodes, or reuse them; `beeline nat top` names who holds the ports.";
    SctpPortChange = 22, "sctp_port_change", "An SCTP Service has a target port that differs from its port: no checksum of SCTP can be made for that.",
        "Set targetPort (and nodePort) equal to port, or use a headless Service.";
    NoLocalBackend = 23, "no_local_backend", "The Service's traffic policy is Local and this node runs none of its endpoints.",
        "Send to a node that runs one (load balancers ask healthCheckNodePort), or set the policy to Cluster.";
    TooBig = 24, "too_big", "The packet is larger than the MTU of its way; the sender was told so.",
        "Path MTU discovery does the rest; if it stays, see whether a firewall drops ICMP on the way to the sender.";
    TtlExceeded = 25, "ttl_exceeded", "The packet's TTL or hop limit has run out; the sender was told so.",
        "traceroute sends such packets; otherwise look for a loop in the routes.";
    HostBackend = 26, "host_backend", "A program of the node asked a Service past the socket hooks, and the endpoint is in this node's own network: its answer could not be translated back.",
        "Set socketLB.enabled=true, and run the program inside the node's cgroup tree; or give the Service an endpoint elsewhere.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_reasons_fit_their_counters_and_have_distinct_names() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            let number = *reason as u8;
            assert!((1..64).contains(&number), "{reason:?} must fit the counters of a hook");
            assert_eq!(DropReason::from_number(number), Some(*reason));
            assert!(!reason.cause().is_empty() && !reason.cure().is_empty());
            for other in &DropReason::ALL[i + 1..] {
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
