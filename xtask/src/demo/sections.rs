//! The sections of the demo, in order.

use std::io::Write;

use anyhow::Result;

use super::devices::Devices;
use super::flow::Flow;
use super::objects::{Objects, Pod};
use super::{Lab, agent, http};

/// Where the pods of the example echo datagrams, and where their Service does.
const ECHO_PORT: u16 = 7000;
const SERVICE_PORT: u16 = 7;

/// Shows every section; returns how many failed.
pub fn show(lab: &Lab, objects: &Objects, out: &mut dyn Write) -> Result<usize> {
    let devices = Devices::of(lab)?;
    let mut failed = 0;
    failed += section(out, "an HTTP request by the DNS name of a Service", |out| {
        http::show_request(lab, objects, out)
    })?;
    for flow in flows(objects) {
        failed += section(out, &flow.title(), |out| flow.show(lab, &devices, out))?;
    }
    failed +=
        section(out, "a connection that is refused", |out| http::show_refusal(lab, objects, &devices, out))?;
    failed += section(out, "an agent that is killed under traffic", |out| {
        agent::show_kill(lab, objects, SERVICE_PORT, out)
    })?;
    Ok(failed)
}

/// Shows one section; returns 1 if it failed.
fn section(
    out: &mut dyn Write,
    title: &str,
    show: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<usize> {
    writeln!(out, "\n-- {title}")?;
    let shown = show(out);
    if let Err(error) = &shown {
        writeln!(out, "   FAILED: {error:#}")?;
    }
    Ok(usize::from(shown.is_err()))
}

fn flows(objects: &Objects) -> Vec<Flow> {
    let client = &objects.client;
    let to = |title: &'static str, pod: &Pod| -> Vec<Flow> {
        pod.addresses.iter().map(|to| Flow::from_pod(title, client, to, ECHO_PORT)).collect()
    };
    let mut flows = to("UDP from pod to pod on one node", &objects.same_node);
    flows.extend(to("UDP from pod to pod across nodes", &objects.other_node));
    let to_service =
        objects.service.iter().map(|to| Flow::from_pod("UDP from pod to Service", client, to, SERVICE_PORT));
    flows.extend(to_service);
    flows.extend(objects.other_node.addresses.iter().map(|to| Flow::from_outside(to, ECHO_PORT)));
    flows
}
