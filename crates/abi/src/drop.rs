//! Drop reasons: one enum for eBPF, metrics, CLI and docs.

/// Declares each reason once; the enum and its methods derive from this list.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $cause:literal, $cure:literal;)*) => {
        /// The reason of a drop. Numbers are part of the ABI and are never reused.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $cause] $variant = $number,)*
        }

        impl DropReason {
            /// All reasons, ordered by number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The reason with this number; `None` if there is none.
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

            /// What happened, for an operator.
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
    Malformed = 1, "malformed", "A header is truncated or inconsistent.",
        "Capture the packet on the sender (`tcpdump -XX`). Broken drivers and fuzzers send such packets.";
    UnsupportedProtocol = 2, "unsupported_protocol", "The frame is neither IPv4, IPv6 nor ARP.",
        "Find out what sends the other EtherType. Only IP and ARP are forwarded.";
    SpoofedMac = 3, "spoofed_mac", "A pod sent a frame with a source MAC that is not its own.",
        "Look for a bridge, macvlan device or virtual machine in the pod. Use routed addresses there instead.";
    SpoofedAddress = 4, "spoofed_address", "A pod sent a packet with a source address that is not its own.",
        "Masquerade in the pod, or check whether the pod still uses an address that it no longer has.";
    SpoofedNeighbour = 5, "spoofed_neighbour", "A pod sent ARP or neighbour discovery for an address that is not its own.",
        "See spoofed_address. VRRP (keepalived) in a pod works only with an address that Kubernetes assigned to the pod.";
    NoEndpoint = 6, "no_endpoint", "The destination is in this node's pod CIDR, but no pod has the address.",
        "The pod was deleted or is not ready yet. Compare with `kubectl get pods -o wide` or `beeline lab status`.";
    NoRoute = 7, "no_route", "The node has no route to the destination.",
        "Check `ip route get DESTINATION` on the node. The default route or the route to the other node is missing.";
    RouteProhibited = 8, "route_prohibited", "The node's route to the destination is blackhole, unreachable or prohibit.",
        "Check `ip route get DESTINATION` on the node.";
    NoBackend = 9, "no_backend", "The Service has no ready endpoints. The connection was refused.",
        "Check `kubectl get endpointslices`, the Service's selector, and whether its pods are ready.";
    NoServicePort = 10, "no_service_port", "The address belongs to a Service that does not have this port. The connection was refused.",
        "Compare the port and the protocol with `kubectl get service`.";
    ConntrackFull = 11, "conntrack_full", "The connection table is full. The new connection was dropped; established connections are not affected.",
        "Find the client that opens so many connections with `beeline conntrack top`. The capacity of the table is fixed.";
    FragmentUnknown = 12, "fragment_unknown", "A fragment arrived before, or without, its first fragment.",
        "Fragments were reordered or the first one was lost. Lower the sender's packet size below the path MTU.";
    TupleClash = 13, "tuple_clash", "The client's port is already in use to the same backend through another address.",
        "Retry from another source port. Use the Service address only, not both the Service address and the pod address.";
    PolicyDenied = 14, "policy_denied", "A network policy denies the packet.",
        "Check the NetworkPolicies that select the pods.";
    ServiceInconsistent = 15, "service_inconsistent", "The service maps refer to a slot or backend that does not exist.",
        "The agent repairs this and counts it in beeline_drift_total. If it persists, restart the agent and report it.";
    RewriteFailed = 16, "rewrite_failed", "A kernel helper failed to modify the packet.",
        "Report it with the output of `beeline drops -o json` and the kernel version.";
    NotConfigured = 17, "not_configured", "The agent has not published this node's configuration yet.",
        "Check that the agent is running and can reach the API server: see its log or /readyz.";
    HeaderChainTooLong = 18, "header_chain_too_long", "An IPv6 packet has too many or too long extension headers.",
        "Find out what sends these packets. They are not normal traffic.";
    Martian = 19, "martian", "The source or destination address is not valid in a forwarded packet (loopback, multicast or unspecified).",
        "Multicast and broadcast are not forwarded from pods. Loopback addresses are valid only inside a host.";
    SourceRangeDenied = 20, "source_range_denied", "The client's address is not in the Service's loadBalancerSourceRanges.",
        "Compare the client's address with `kubectl get service NAME -o yaml`. An external load balancer may replace the client's address.";
    NatPortsFull = 21, "nat_ports_full", "No SNAT port is free for this destination. Established connections are not affected.",
        "Spread the connections over more destinations or nodes, or reuse them. `beeline nat top` shows which clients use the ports.";
    SctpPortChange = 22, "sctp_port_change", "An SCTP Service has a target port that differs from its port. The SCTP checksum cannot be updated for that.",
        "Set targetPort (and nodePort) equal to port, or use a headless Service.";
    NoLocalBackend = 23, "no_local_backend", "The Service's traffic policy is Local and none of its endpoints is on this node.",
        "Send to a node that has one (load balancers check healthCheckNodePort), or set the traffic policy to Cluster.";
    TooBig = 24, "too_big", "The packet is larger than the MTU of its route. The sender gets an ICMP error.",
        "Path MTU discovery normally handles this. If it persists, check whether a firewall drops ICMP on the path to the sender.";
    TtlExceeded = 25, "ttl_exceeded", "The packet's TTL or hop limit has expired. The sender gets an ICMP error.",
        "traceroute sends such packets. Otherwise look for a routing loop.";
    HostBackend = 26, "host_backend", "A process on the node connected to a Service without passing the socket hooks, and the endpoint is in the node's own network namespace. Its reply could not be translated back.",
        "Set socketLB.enabled=true and run the process inside the node's cgroup tree, or give the Service an endpoint on another node.";
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
