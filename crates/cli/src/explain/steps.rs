//! Descriptions of the steps of a packet.

use std::net::IpAddr;

use anyhow::{Context, Result};
use beeline_abi::Ip;
use beeline_abi::conntrack::tick;
use beeline_datapath::Verdict;
use beeline_datapath::platform::{Route, Step};
use nix::libc;
use serde::Serialize;

use crate::names::{Directory, protocol, socket_address};

/// A described step.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StepDescription {
    /// The datapath stage.
    pub stage: &'static str,
    /// Its result.
    pub text: String,
}

/// The present tick of the connection tracking table.
pub fn now() -> Result<u32> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill in.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (result == 0).then_some(()).context("cannot read CLOCK_MONOTONIC")?;
    Ok(tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
}

/// Describes a step.
pub fn describe(step: &Step, names: &Directory) -> StepDescription {
    let (stage, text) = match *step {
        Step::Parsed { src, dst, proto } => (
            "parse",
            format!(
                "{}, {} to {}",
                protocol(proto),
                address_with_name(src, names),
                address_with_name(dst, names)
            ),
        ),
        Step::GuardPassed => ("guard", "source IP and MAC address belong to the pod".to_owned()),
        Step::ConntrackHit { origin, service } => ("conntrack", connection(origin, service, names)),
        Step::ConntrackNew => ("conntrack", "new connection".to_owned()),
        Step::Service { service, slots, ip, port, .. } => {
            let to = socket_address(ip.into(), port.get());
            let name = service_name(service, names);
            ("service", format!("{name}: {to} ({}), {}", host_name(ip, names), chosen(slots)))
        }
        Step::Snat { ip, port } => {
            ("snat", format!("source translated to {} (this node)", socket_address(ip.into(), port.get())))
        }
        Step::Rewritten { src, dst } => (
            "rewrite",
            format!("packet is now {} to {}", address_with_name(src, names), address_with_name(dst, names)),
        ),
        Step::LocalPod { ifindex } => ("route", format!("pod on this node, ifindex {ifindex}")),
        Step::Routed { route, ifindex, next_hop } => ("route", describe_route(route, ifindex, next_hop)),
        Step::Rejected(reason) => ("reject", reason.cause().to_owned()),
        Step::Verdict(verdict) => ("verdict", describe_verdict(verdict)),
    };
    StepDescription { stage, text }
}

fn chosen(slots: u32) -> String {
    match slots {
        1 => "the only endpoint".to_owned(),
        slots => format!("one of {slots} endpoints, selected for each connection"),
    }
}

fn connection(origin: bool, service: u32, names: &Directory) -> String {
    let direction = if origin { "request" } else { "reply" };
    match service {
        0 => format!("{direction} of an established connection"),
        service => format!("{direction} of an established connection of {}", service_name(service, names)),
    }
}

fn service_name(id: u32, names: &Directory) -> String {
    names.service(id).map_or_else(|| format!("service {id}"), str::to_owned)
}

fn host_name(ip: Ip, names: &Directory) -> String {
    names.pod_or_node(ip.into()).unwrap_or("outside the cluster").to_owned()
}

fn address_with_name(ip: Ip, names: &Directory) -> String {
    let ip = IpAddr::from(ip);
    names.pod_or_node(ip).map_or_else(|| ip.to_string(), |name| format!("{ip} ({name})"))
}

fn describe_route(route: Route, ifindex: u32, next_hop: Ip) -> String {
    match route {
        Route::Found => format!("node routing table: ifindex {ifindex}, next hop {}", IpAddr::from(next_hop)),
        Route::TooBig => format!("packet exceeds the MTU of ifindex {ifindex}"),
        Route::Host => "local to the node, or no route: left to its network stack".to_owned(),
        Route::Prohibited => "blackhole, unreachable or prohibit route".to_owned(),
        Route::None => "no route".to_owned(),
    }
}

fn describe_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::ToHost => "pass to the node's network stack".to_owned(),
        Verdict::ToHostError => {
            "pass to the node's network stack, which fragments it or sends an ICMP error".to_owned()
        }
        Verdict::ToPod { ifindex } => format!("redirect to the pod, ifindex {ifindex}"),
        Verdict::Forward { ifindex, next_hop } => {
            format!("redirect to ifindex {ifindex}, next hop {}", IpAddr::from(next_hop))
        }
        Verdict::Reject { reason } => format!("reject ({})", reason.name()),
        Verdict::Drop { reason } => format!("drop ({})", reason.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::{DropReason, Port};
    use beeline_api::Names;

    #[test]
    fn unit_steps_name_pods_and_services() {
        let names = Directory::new(Names {
            pods: vec![("10.0.0.5".parse().unwrap(), "shop/cart".into())],
            services: vec![(3, "shop/cart:80".into())],
            ..Names::default()
        });
        let cart = Ip::from_v4([10, 0, 0, 5]);
        let step = Step::Service { service: 3, slots: 2, backend: 9, ip: cart, port: Port::new(8080) };
        let described = describe(&step, &names);
        assert_eq!(described.stage, "service");
        assert!(
            described.text.starts_with("shop/cart:80: 10.0.0.5:8080 (shop/cart), one of 2"),
            "{}",
            described.text
        );
        let described = describe(&Step::ConntrackHit { origin: false, service: 8 }, &names);
        assert_eq!(described.text, "reply of an established connection of service 8");
        let rejected = describe(&Step::Verdict(Verdict::Reject { reason: DropReason::NoBackend }), &names);
        assert!(rejected.text.contains("no_backend"), "{}", rejected.text);
    }
}
