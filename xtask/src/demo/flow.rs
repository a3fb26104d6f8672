//! One flow through the network: measured, explained, and compared with the
//! counters.

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::counters::{self, Counters};
use super::devices::Devices;
use super::objects::Pod;
use super::{Lab, json, list, text};
use crate::{paths, process};

/// Datagrams of one measurement.
const DATAGRAMS: &str = "500";
/// Measurements; each is preceded by one of a plain veth pair.
const ROUNDS: usize = 3;

/// A sender, and the address and port that it sends to.
pub struct Flow {
    kind: String,
    /// Where the command runs: `exec POD --` or `client --`.
    run_in: Vec<String>,
    /// The argument of `beeline explain --from`; none is the client's own address.
    from: Option<String>,
    to: String,
    port: u16,
}

/// The measurements of a flow.
struct Measured {
    /// Median round trips of the flow and of a plain veth pair, microseconds.
    flow_us: f64,
    veth_us: f64,
    /// Datagrams of the last measurement, and its source port.
    datagrams: u64,
    source_port: u16,
    /// What the hooks counted in that measurement.
    counted: Counters,
}

impl Flow {
    /// From a pod.
    pub fn from_pod(kind: &str, pod: &Pod, to: &str, port: u16) -> Self {
        let run_in = ["exec", &pod.name, "--"].map(str::to_owned).to_vec();
        let from = Some(format!("default/{}", pod.name));
        Self { kind: kind.to_owned(), run_in, from, to: to.to_owned(), port }
    }

    /// From the host outside of the cluster.
    pub fn from_outside(to: &str, port: u16) -> Self {
        let run_in = ["client", "--"].map(str::to_owned).to_vec();
        let kind = "UDP from outside of the cluster to a pod".to_owned();
        Self { kind, run_in, from: None, to: to.to_owned(), port }
    }

    /// Kind and destination.
    pub fn title(&self) -> String {
        format!("{}: {}", self.kind, socket_address(&self.to, self.port))
    }

    /// Measures the flow and shows its path, its counters and its latency.
    pub fn show(&self, lab: &Lab, devices: &Devices, out: &mut dyn Write) -> Result<()> {
        let measured = self.measure(lab)?;
        let explanation = self.explain(lab, measured.source_port)?;
        for hop in list(&explanation["hops"]) {
            show_hop(hop, devices, out)?;
        }
        writeln!(out, "   {}", text(&explanation["end"]))?;
        writeln!(out, "   counters for {} datagrams:", measured.datagrams)?;
        for hop in list(&explanation["hops"]) {
            writeln!(out, "      {}", confirm(hop, &measured)?)?;
        }
        let Measured { flow_us, veth_us, .. } = measured;
        writeln!(
            out,
            "   round trip: {flow_us:.1} us, {:.2} times that of a plain veth pair ({veth_us:.1} us; medians)",
            flow_us / veth_us
        )?;
        if explanation["delivered"] != Value::Bool(true) {
            bail!("the datagrams were answered, but `beeline explain` says: {}", text(&explanation["end"]));
        }
        Ok(())
    }

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let (mut flows, mut veths) = (Vec::new(), Vec::new());
        let mut last = None;
        for _ in 0..ROUNDS {
            veths.push(median(&self.plain_veth()?)?);
            let before = counters::read(lab)?;
            let measured = self.round_trips(lab)?;
            flows.push(median(&measured)?);
            last = Some((measured, counters::increase(&before, &counters::read(lab)?)));
        }
        let (measured, counted) = last.context("nothing was measured")?;
        let number = |name: &str| measured[name].as_u64().with_context(|| format!("no {name} in {measured}"));
        if number("lost")? > 0 {
            bail!("{} of {} datagrams were lost", measured["lost"], measured["exchanges"]);
        }
        Ok(Measured {
            flow_us: middle(flows),
            veth_us: middle(veths),
            datagrams: number("exchanges")?,
            source_port: number("source_port")? as u16,
            counted,
        })
    }

    /// `beeline explain` for the datagrams that were measured.
    fn explain(&self, lab: &Lab, source_port: u16) -> Result<Value> {
        let from = match &self.from {
            Some(pod) => pod.clone(),
            None => client_address(lab, self.to.contains(':'))?,
        };
        let (port, source_port) = (self.port.to_string(), source_port.to_string());
        let mut command = lab.beeline(&["explain"]);
        command.args(["--from", &from, "--to", &self.to, "--port", &port]);
        command.args(["--source-port", &source_port, "--protocol", "udp", "-o", "json"]);
        json(&mut command)
    }

    fn round_trips(&self, lab: &Lab) -> Result<Value> {
        let run_in: Vec<&str> = self.run_in.iter().map(String::as_str).collect();
        let mut command = lab.run(&run_in);
        command.arg(paths::binary("beeline-lab")).args(["round-trip", "--count", DATAGRAMS]);
        command.args(["--to", &socket_address(&self.to, self.port)]);
        json(&mut command)
    }

    fn plain_veth(&self) -> Result<Value> {
        let mut command = process::as_root(paths::binary("beeline-lab"));
        command.args(["round-trip", "--plain-veth", "--count", DATAGRAMS]);
        if self.to.contains(':') {
            command.arg("--ipv6");
        }
        json(&mut command)
    }
}

/// Shows a hook and the steps of the packet there.
pub fn show_hop(hop: &Value, devices: &Devices, out: &mut dyn Write) -> Result<()> {
    let node = text(&hop["node"]);
    let device = hop["ifindex"].as_u64().and_then(|ifindex| devices.name(node, ifindex));
    let device = device.map_or(String::new(), |name| format!(" of device {name}"));
    writeln!(out, "   {node}, hook {}{device}", text(&hop["hook"]))?;
    for step in list(&hop["steps"]) {
        writeln!(out, "      {:<10} {}", text(&step["stage"]), devices.name_all(node, text(&step["text"])))?;
    }
    Ok(())
}

/// The counter of a hook on the explained path, which must have counted every
/// datagram.
fn confirm(hop: &Value, measured: &Measured) -> Result<String> {
    let [node, hook, outcome] = ["node", "hook", "outcome"].map(|name| text(&hop[name]).to_owned());
    // A socket is translated once, when it connects.
    let expected = if hook == "socket" { 1 } else { measured.datagrams };
    let key = (node, hook, outcome);
    let counted = measured.counted.get(&key).copied().unwrap_or(0);
    if counted < expected {
        bail!(
            "the counter {} grew by {counted}, not by {expected} or more; all that grew: {:?}",
            [key.0, key.1, key.2].join(" "),
            measured.counted
        );
    }
    Ok(counters::describe(&key, counted))
}

/// The address of the host outside of the cluster.
fn client_address(lab: &Lab, v6: bool) -> Result<String> {
    let mut command = lab.run(&["client", "--", "ip", "-json", "address", "show", "scope", "global"]);
    let links = json(&mut command)?;
    let family = if v6 { "inet6" } else { "inet" };
    let mut addresses = list(&links).flat_map(|link| list(&link["addr_info"]));
    let found = addresses.find(|address| address["family"] == family);
    found.map(|address| text(&address["local"]).to_owned()).context("the client has no address")
}

fn median(measured: &Value) -> Result<f64> {
    measured["p50_us"].as_f64().with_context(|| format!("no median in {measured}"))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `10.96.0.7:80` or `[fd00::7]:80`.
pub fn socket_address(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
