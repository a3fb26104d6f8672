//! Converts Kubernetes objects to the model. Conversion never fails: an invalid
//! part is left out and reported as a problem.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use beeline_model as model;
use beeline_model::{Kind, Object, ObjectName, Problem, Protocol, Reason};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ContainerPort, Namespace, Node, Pod, PodSpec, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::core::ObjectMeta;

/// The label with the Service name of an EndpointSlice.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label of a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Labels of Services that are handled by other proxies; kube-proxy ignores
/// them, too.
const FOREIGN_LABELS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// The annotation with the load balancing algorithm of a Service.
const ALGORITHM_ANNOTATION: &str = "service.beeline.io/lb-algorithm";
/// The annotation of an EndpointSlice with the weight of its endpoints.
const WEIGHT_ANNOTATION: &str = "service.beeline.io/weight";
/// The maximum weight.
const WEIGHT_MAX: u16 = 1_000;
/// The taint of a node that the cluster autoscaler is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_S: i32 = 10_800;
/// The maximum affinity timeout that Kubernetes allows: one day.
const AFFINITY_MAX_S: i32 = 86_400;

/// Namespace and name.
pub fn object_name(meta: &ObjectMeta) -> ObjectName {
    ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// A node.
pub fn node(node: &Node, problems: &mut Vec<Problem>) -> Object {
    let mut reporter = ProblemReporter::of(Kind::Node, &node.metadata, problems);
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let of_type =
        |kind: &'static str| addresses.clone().filter(move |a| a.type_ == kind).map(|a| a.address.as_str());
    let internal_ips = reporter.parse_all(of_type("InternalIP"), "status.addresses");
    let external_ips = reporter.parse_all(of_type("ExternalIP"), "status.addresses");
    let spec = node.spec.as_ref();
    let mut taints = spec.into_iter().flat_map(|s| s.taints.iter().flatten());
    let leaving =
        node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == TO_BE_DELETED_TAINT);
    let list = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
    let mut cidrs: Vec<&str> = list.map(String::as_str).collect();
    if cidrs.is_empty() {
        cidrs.extend(spec.and_then(|s| s.pod_cidr.as_deref()));
    }
    let pod_cidrs = reporter.parse_all(cidrs.into_iter(), "spec.podCIDRs");
    Object::Node(model::Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        internal_ips,
        pod_cidrs,
        zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL).cloned()),
        external_ips,
        leaving,
    })
}

/// A namespace.
pub fn namespace(namespace: &Namespace, _: &mut Vec<Problem>) -> Object {
    Object::Namespace(model::Namespace {
        name: namespace.metadata.name.clone().unwrap_or_default(),
        labels: namespace.metadata.labels.clone().unwrap_or_default(),
    })
}

/// A pod.
pub fn pod(pod: &Pod, problems: &mut Vec<Problem>) -> Object {
    let mut reporter = ProblemReporter::of(Kind::Pod, &pod.metadata, problems);
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let mut ips: Vec<&str> =
        status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str()).collect();
    if ips.is_empty() {
        ips.extend(status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty()));
    }
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    Object::Pod(model::Pod {
        name: object_name(&pod.metadata),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: spec.and_then(|s| s.node_name.clone()).filter(|name| !name.is_empty()),
        ips: reporter.parse_all(ips.into_iter(), "status.podIPs"),
        host_network,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        finished: matches!(phase, "Succeeded" | "Failed"),
        host_ports: spec.map(|spec| host_ports(spec, &mut reporter)).unwrap_or_default(),
        packets_only: packets_only(pod, &mut reporter),
    })
}

/// Reads the annotation `beeline.io/socket-lb`. With `false`, the pod's packets
/// are translated and its sockets are not: for a proxy that needs to see the
/// Service address (service mesh), or a pod with its own kernel (sandbox).
fn packets_only(pod: &Pod, reporter: &mut ProblemReporter<'_>) -> bool {
    match annotation(&pod.metadata, SOCKET_LB) {
        None | Some("true") => false,
        Some("false") => true,
        Some(other) => {
            reporter.report(Reason::AnnotationInvalid, format!(
                "annotation {SOCKET_LB}: invalid value `{other}`, expected `true` or `false`: using `true`"
            ));
            false
        }
    }
}

/// The annotation that disables socket load balancing for a pod.
const SOCKET_LB: &str = "beeline.io/socket-lb";

/// The pod's host ports. Init containers count only if they are sidecars
/// (`restartPolicy: Always`).
fn host_ports(spec: &PodSpec, reporter: &mut ProblemReporter<'_>) -> Vec<model::HostPort> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| host_port(port, reporter)).collect()
}

fn host_port(port: &ContainerPort, reporter: &mut ProblemReporter<'_>) -> Option<model::HostPort> {
    let number = port.host_port.filter(|number| *number != 0)?;
    let field = format!("hostPort {number}");
    let host_ip = match port.host_ip.as_deref().unwrap_or_default() {
        "" => None,
        text => Some(reporter.parse::<IpAddr>(text, &format!("hostIP of {field}"))?),
    };
    Some(model::HostPort {
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: reporter.port(number, &field)?,
        container_port: reporter.port(port.container_port, &field)?,
        protocol: reporter.protocol(port.protocol.as_deref(), &field)?,
    })
}

/// A Service.
pub fn service(service: &Service, problems: &mut Vec<Problem>) -> Object {
    let mut reporter = ProblemReporter::of(Kind::Service, &service.metadata, problems);
    let spec = service.spec.clone().unwrap_or_default();
    let mut cluster_ips = spec.cluster_ips.unwrap_or_default();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip);
    }
    let assigned = cluster_ips.iter().map(String::as_str).filter(|ip| !ip.is_empty() && *ip != "None");
    let service_type = service_type(spec.type_.as_deref(), &mut reporter);
    let ingress = service.status.iter().flat_map(|s| s.load_balancer.iter());
    let ingress = ingress.flat_map(|lb| lb.ingress.iter().flatten());
    // Addresses with `ipMode: Proxy` are not handled on the node: the load
    // balancer may use its own protocol towards the nodes.
    let ingress_ips =
        ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref());
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
    let is_external = matches!(service_type, model::ServiceType::NodePort | model::ServiceType::LoadBalancer)
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let labels = service.metadata.labels.as_ref();
    Object::Service(model::Service {
        name: object_name(&service.metadata),
        service_type,
        cluster_ips: reporter.parse_all(assigned, "spec.clusterIPs"),
        ports: spec.ports.iter().flatten().filter_map(|port| service_port(port, &mut reporter)).collect(),
        affinity_s: affinity
            .then(|| configured.unwrap_or(AFFINITY_DEFAULT_S).clamp(1, AFFINITY_MAX_S).unsigned_abs()),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        load_balancer_ips: reporter.parse_all(ingress_ips, "status.loadBalancer.ingress"),
        external_ips: reporter
            .parse_all(spec.external_ips.iter().flatten().map(String::as_str), "spec.externalIPs"),
        external_local: is_external && spec.external_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(0),
        source_ranges: source_ranges(
            spec.load_balancer_source_ranges.as_deref().unwrap_or_default(),
            &mut reporter,
        ),
        foreign: labels.is_some_and(|labels| FOREIGN_LABELS.iter().any(|label| labels.contains_key(*label))),
        algorithm: algorithm(&service.metadata, &mut reporter),
    })
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    Some(meta.annotations.as_ref()?.get(name)?.trim())
}

fn algorithm(meta: &ObjectMeta, reporter: &mut ProblemReporter<'_>) -> Option<model::Algorithm> {
    match annotation(meta, ALGORITHM_ANNOTATION)? {
        "random" => Some(model::Algorithm::Random),
        "maglev" => Some(model::Algorithm::Maglev),
        other => {
            reporter.report(
                Reason::AnnotationInvalid,
                format!(
                    "annotation {ALGORITHM_ANNOTATION}: invalid value `{other}`, expected `random` or `maglev`: \
                 using loadBalancer.algorithm"
                ),
            );
            None
        }
    }
}

fn weight(meta: &ObjectMeta, reporter: &mut ProblemReporter<'_>) -> u16 {
    let Some(text) = annotation(meta, WEIGHT_ANNOTATION) else { return 1 };
    match text.parse() {
        Ok(weight) if weight <= WEIGHT_MAX => weight,
        _ => {
            reporter.report(Reason::AnnotationInvalid, format!(
                "annotation {WEIGHT_ANNOTATION}: invalid value `{text}`, expected a weight from 0 to {WEIGHT_MAX}: using 1"
            ));
            1
        }
    }
}

/// Kubernetes allows white space around a range.
fn source_ranges(texts: &[String], reporter: &mut ProblemReporter<'_>) -> model::SourceRanges {
    let mut read = model::SourceRanges::default();
    for text in texts {
        match text.trim().parse::<IpNet>() {
            Ok(range) => read.ranges.push(range.trunc()),
            Err(error) => {
                read.malformed = true;
                reporter.report(Reason::SourceRangeInvalid, format!(
                    "spec.loadBalancerSourceRanges: invalid value `{text}` ({error}): it allows no client, and an \
                 address family without a valid range allows no client at all; correct it"
                ));
            }
        }
    }
    read
}

fn service_type(name: Option<&str>, reporter: &mut ProblemReporter<'_>) -> model::ServiceType {
    match name.unwrap_or("ClusterIP") {
        "ClusterIP" | "" => model::ServiceType::ClusterIp,
        "NodePort" => model::ServiceType::NodePort,
        "LoadBalancer" => model::ServiceType::LoadBalancer,
        "ExternalName" => model::ServiceType::ExternalName,
        other => {
            reporter.report(
                Reason::TypeUnknown,
                format!("spec.type `{other}` is unknown: the Service is handled as ClusterIP"),
            );
            model::ServiceType::ClusterIp
        }
    }
}

fn service_port(port: &ServicePort, reporter: &mut ProblemReporter<'_>) -> Option<model::ServicePort> {
    let name = port.name.clone().unwrap_or_default();
    let field =
        format!("port {} of spec.ports", if name.is_empty() { port.port.to_string() } else { name.clone() });
    Some(model::ServicePort {
        protocol: reporter.protocol(port.protocol.as_deref(), &field)?,
        port: reporter.port(port.port, &field)?,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        name,
    })
}

/// An EndpointSlice.
pub fn endpoint_slice(slice: &EndpointSlice, problems: &mut Vec<Problem>) -> Object {
    let mut reporter = ProblemReporter::of(Kind::EndpointSlice, &slice.metadata, problems);
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).cloned().unwrap_or_default();
    let ipv6 = slice.address_type == "IPv6";
    let addresses_usable = ipv6 || slice.address_type == "IPv4";
    if !addresses_usable {
        reporter.report(
            Reason::TypeUnknown,
            format!("addressType `{}` is not supported: the slice is ignored", slice.address_type),
        );
    }
    let ports = slice.ports.iter().flatten().filter_map(|port| endpoint_port(port, &mut reporter)).collect();
    let usable = slice.endpoints.iter().flatten().filter(|_| addresses_usable);
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let endpoints = usable.filter_map(|e| endpoint(e, ipv6, namespace, &mut reporter)).collect();
    Object::EndpointSlice(model::EndpointSlice {
        name: object_name(&slice.metadata),
        service,
        ipv6,
        weight: weight(&slice.metadata, &mut reporter),
        ports,
        endpoints,
    })
}

fn endpoint_port(port: &EndpointPort, reporter: &mut ProblemReporter<'_>) -> Option<model::EndpointPort> {
    let name = port.name.clone().unwrap_or_default();
    let field = format!("port `{name}` of ports");
    Some(model::EndpointPort {
        protocol: reporter.protocol(port.protocol.as_deref(), &field)?,
        port: match port.port {
            Some(number) => Some(reporter.port(number, &field)?),
            None => None,
        },
        name,
    })
}

fn endpoint(
    endpoint: &Endpoint,
    ipv6: bool,
    namespace: &str,
    reporter: &mut ProblemReporter<'_>,
) -> Option<model::Endpoint> {
    let address = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
    let ip: IpAddr = reporter.parse(address, "endpoints[].addresses")?;
    if ip.is_ipv6() != ipv6 {
        reporter.report(
            Reason::AddressUnusable,
            format!("endpoint {ip} does not match the slice's addressType: ignored"),
        );
        return None;
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        reporter
            .report(Reason::AddressUnusable, format!("endpoint {ip} is not a unicast host address: ignored"));
        return None;
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    Some(model::Endpoint {
        ip,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        pod: target.and_then(|target| {
            let namespace = target.namespace.clone().unwrap_or_else(|| namespace.to_owned());
            target.name.clone().map(|name| ObjectName::new(namespace, name))
        }),
        zone_hints: hints.iter().flat_map(|h| h.for_zones.iter().flatten()).map(|h| h.name.clone()).collect(),
        node_hints: hints.iter().flat_map(|h| h.for_nodes.iter().flatten()).map(|h| h.name.clone()).collect(),
    })
}

/// Collects the problems of one object.
struct ProblemReporter<'a> {
    kind: Kind,
    name: ObjectName,
    list: &'a mut Vec<Problem>,
}

impl<'a> ProblemReporter<'a> {
    fn of(kind: Kind, meta: &ObjectMeta, list: &'a mut Vec<Problem>) -> ProblemReporter<'a> {
        ProblemReporter { kind, name: object_name(meta), list }
    }

    fn report(&mut self, reason: Reason, message: String) {
        self.list.push(Problem { kind: self.kind, name: self.name.clone(), reason, message });
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, text: &str, field: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(Reason::AddressUnusable, format!(
                    "{field}: invalid value `{text}` ({error}): ignored, the rest of the object is used; correct it"
                ));
                None
            }
        }
    }

    fn parse_all<'t, T: FromStr<Err: Display>>(
        &mut self,
        texts: impl Iterator<Item = &'t str>,
        field: &str,
    ) -> Vec<T> {
        texts.filter_map(|text| self.parse(text, field)).collect()
    }

    fn port(&mut self, number: i32, field: &str) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.report(
                Reason::PortInvalid,
                format!("{field}: {number} is not a valid port (1 to 65535): ignored; correct it"),
            );
        }
        port
    }

    fn protocol(&mut self, name: Option<&str>, field: &str) -> Option<Protocol> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => {
                self.report(
                    Reason::PortInvalid,
                    format!("{field}: protocol `{other}` is unknown: ignored; correct it"),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
