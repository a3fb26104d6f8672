//! The steps of a packet in words.

use std::net::IpAddr;

use anyhow::{Context, Result};
use beeline_abi::Ip;
use beeline_abi::conntrack::tick;
use beeline_datapath::Verdict;
use beeline_datapath::platform::{Route, Step};
use nix::libc;
use serde::Serialize;

use crate::names::{Directory, protocol, socket_address};

/// One step.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The stage of the packet path.
    pub stage: &'static str,
    /// What it found.
    pub text: String,
}

/// The present tick of the connection table.
pub fn now() -> Result<u32> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (result == 0).then_some(()).context("the monotonic clock cannot be read")?;
    Ok(tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
}

/// A step in words.
pub fn tell(step: &Step, names: &Directory) -> Told {
    let (stage, text) = match *step {
        Step::Parsed { src, dst, proto } => {
            ("parse", format!("{}, {} to {}", protocol(proto), host(src, names), host(dst, names)))
        }
        Step::GuardPassed => ("guard", "source address and MAC are the pod's own".to_owned()),
        Step::ConntrackHit { origin, service } => ("conntrack", connection(origin, service, names)),
        Step::ConntrackNew => ("conntrack", "a new connection".to_owned()),
        Step::Service { service, slots, ip, port, .. } => {
            let to = socket_address(ip.into(), port.get());
            let name = service_name(service, names);
            ("service", format!("{name}: {to} ({}), {}", host_name(ip, names), chosen(slots)))
        }
        Step::Snat { ip, port } => {
            ("source", format!("becomes {} of this node", socket_address(ip.into(), port.get())))
        }
        Step::Rewritten { src, dst } => {
            ("rewrite", format!("now {} to {}", host(src, names), host(dst, names)))
        }
        Step::LocalPod { ifindex } => ("route", format!("a pod of this node, behind link {ifindex}")),
        Step::Routed { route, ifindex, next_hop } => ("route", routed(route, ifindex, next_hop)),
        Step::Rejected(reason) => ("refuse", reason.cause().to_owned()),
        Step::Verdict(verdict) => ("verdict", told_verdict(verdict)),
    };
    Told { stage, text }
}

fn chosen(slots: u32) -> String {
    match slots {
        1 => "the only endpoint".to_owned(),
        slots => format!("one of {slots} endpoints, drawn at random for each connection"),
    }
}

fn connection(origin: bool, service: u32, names: &Directory) -> String {
    let direction = if origin { "request" } else { "reply" };
    match service {
        0 => format!("{direction} of a connection that runs"),
        service => format!("{direction} of a connection that runs, of {}", service_name(service, names)),
    }
}

fn service_name(id: u32, names: &Directory) -> String {
    names.service(id).map_or_else(|| format!("service {id}"), str::to_owned)
}

fn host_name(ip: Ip, names: &Directory) -> String {
    names.host(ip.into()).unwrap_or("outside the cluster").to_owned()
}

fn host(ip: Ip, names: &Directory) -> String {
    let ip = IpAddr::from(ip);
    names.host(ip).map_or_else(|| ip.to_string(), |name| format!("{ip} ({name})"))
}

fn routed(route: Route, ifindex: u32, next_hop: Ip) -> String {
    match route {
        Route::Found => format!("by the node's routes: link {ifindex}, next hop {}", IpAddr::from(next_hop)),
        Route::TooBig => format!("larger than the MTU of link {ifindex}"),
        Route::Host => "the node itself decides".to_owned(),
        Route::Prohibited => "a route that forbids it".to_owned(),
        Route::None => "no route".to_owned(),
    }
}

fn told_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::ToHost => "to the node's network stack".to_owned(),
        Verdict::ToHostError => "to the node's network stack, which answers or fragments".to_owned(),
        Verdict::ToPod { ifindex } => format!("straight into the pod behind link {ifindex}"),
        Verdict::Forward { ifindex, next_hop } => {
            format!("straight out of link {ifindex} to {}", IpAddr::from(next_hop))
        }
        Verdict::Reject { reason } => format!("refused at once ({})", reason.name()),
        Verdict::Drop { reason } => format!("dropped ({})", reason.name()),
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
        let told = tell(&step, &names);
        assert_eq!(told.stage, "service");
        assert!(told.text.starts_with("shop/cart:80: 10.0.0.5:8080 (shop/cart), one of 2"), "{}", told.text);
        let told = tell(&Step::ConntrackHit { origin: false, service: 8 }, &names);
        assert_eq!(told.text, "reply of a connection that runs, of service 8");
        let refused = tell(&Step::Verdict(Verdict::Reject { reason: DropReason::NoBackend }), &names);
        assert!(refused.text.contains("no_backend"), "{}", refused.text);
    }
}
