//! One way through the network: taken, told, counted and measured.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Lab;
use super::cast::{Pod, list};
use crate::{paths, process};

/// Datagrams of one measurement, and how often it alternates with the plain
/// veth.
const DATAGRAMS: &str = "500";
const ROUNDS: usize = 3;

/// A sender, and the address and port that it asks.
pub struct Scene {
    title: String,
    /// Where the command runs: `exec POD --` or `client --`.
    place: Vec<String>,
    /// As `beeline explain --from` takes it; none = the client's own address.
    from: Option<String>,
    to: String,
    port: u16,
}

/// What was seen on a way.
struct Seen {
    /// Median round trips of the way and of the plain veth, microseconds.
    way_us: f64,
    veth_us: f64,
    /// Datagrams of the last measurement, and its source port.
    datagrams: u64,
    source_port: u16,
    /// What each hook counted in that measurement.
    counted: Counters,
}

/// Packets by node, hook and outcome.
type Counters = BTreeMap<(String, String, String), u64>;

impl Scene {
    /// From a pod.
    pub fn from_pod(title: &str, pod: &Pod, to: &str, port: u16) -> Self {
        let place = ["exec", &pod.name, "--"].map(str::to_owned).to_vec();
        let from = Some(format!("default/{}", pod.name));
        Self { title: title.to_owned(), place, from, to: to.to_owned(), port }
    }

    /// From the host outside the cluster.
    pub fn from_client(to: &str, port: u16) -> Self {
        let place = ["client", "--"].map(str::to_owned).to_vec();
        let title = "a client outside the cluster to a pod".to_owned();
        Self { title, place, from: None, to: to.to_owned(), port }
    }

    /// Takes the way in front of the reader; false if something is not as it
    /// should be.
    pub fn play(&self, lab: &Lab, out: &mut dyn Write) -> Result<bool> {
        writeln!(out, "\n-- {}: {}", self.title, socket_address(&self.to, self.port))?;
        let told = self.see(lab).and_then(|seen| self.tell(lab, &seen, out));
        if let Err(error) = &told {
            writeln!(out, "   this did not work: {error:#}")?;
        }
        Ok(told.is_ok())
    }

    fn see(&self, lab: &Lab) -> Result<Seen> {
        let (mut ways, mut veths) = (Vec::new(), Vec::new());
        let mut last = None;
        for _ in 0..ROUNDS {
            veths.push(median(&self.plain_veth()?)?);
            let before = counters(lab)?;
            let measured = self.round_trips(lab)?;
            ways.push(median(&measured)?);
            last = Some((measured, difference(&before, &counters(lab)?)));
        }
        let (measured, counted) = last.context("nothing was measured")?;
        let number = |name: &str| measured[name].as_u64().with_context(|| format!("no {name} in {measured}"));
        if number("lost")? > 0 {
            bail!("{} of {} datagrams were lost", measured["lost"], measured["exchanges"]);
        }
        Ok(Seen {
            way_us: middle(ways),
            veth_us: middle(veths),
            datagrams: number("exchanges")?,
            source_port: number("source_port")? as u16,
            counted,
        })
    }

    /// The steps by the live tables, the counters and the cost.
    fn tell(&self, lab: &Lab, seen: &Seen, out: &mut dyn Write) -> Result<()> {
        let explanation = self.explain(lab, seen.source_port)?;
        for hop in list(&explanation["hops"]) {
            writeln!(out, "   {} {}", text(&hop["node"]), text(&hop["hook"]))?;
            for step in list(&hop["steps"]) {
                writeln!(out, "      {:<10} {}", text(&step["stage"]), text(&step["text"]))?;
            }
        }
        writeln!(out, "   {}", text(&explanation["end"]))?;
        let confirmed =
            list(&explanation["hops"]).map(|hop| confirm(hop, seen)).collect::<Result<Vec<_>>>()?;
        writeln!(out, "   counted: {} for {} datagrams", confirmed.join(", "), seen.datagrams)?;
        writeln!(
            out,
            "   cost: {:.1} us there and back, {:.1} us over a plain veth: {:.2} times as much (medians)",
            seen.way_us,
            seen.veth_us,
            seen.way_us / seen.veth_us
        )?;
        if explanation["delivered"] != Value::Bool(true) {
            bail!("the datagrams came back although the tables say: {}", text(&explanation["end"]));
        }
        Ok(())
    }

    /// `beeline explain` for the connection that was measured.
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
        let place: Vec<&str> = self.place.iter().map(String::as_str).collect();
        let mut command = lab.run(&place);
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

/// What a hook on the explained way must have counted, and did.
fn confirm(hop: &Value, seen: &Seen) -> Result<String> {
    let (node, hook, outcome) = (text(&hop["node"]), text(&hop["hook"]), text(&hop["outcome"]));
    let key = (node.to_owned(), hook.to_owned(), outcome.to_owned());
    let counted = seen.counted.get(&key).copied().unwrap_or(0);
    // A socket is translated once, when it connects.
    let expected = if hook == "socket" { 1 } else { seen.datagrams };
    if counted < expected {
        bail!(
            "{node} counted {counted} times {hook}/{outcome}, but {} datagrams took this way; all that moved: {:?}",
            seen.datagrams,
            seen.counted
        );
    }
    Ok(format!("{node} {hook}/{outcome} +{counted}"))
}

fn counters(lab: &Lab) -> Result<Counters> {
    let rows = json(lab.beeline(&["counters"]).args(["-o", "json"]))?;
    let row = |row: &Value| {
        let key = ["node", "hook", "what"].map(|name| text(&row[name]).to_owned());
        let [node, hook, what] = key;
        ((node, hook, what), row["packets"].as_u64().unwrap_or(0))
    };
    Ok(list(&rows).map(row).collect())
}

fn difference(before: &Counters, after: &Counters) -> Counters {
    let moved = |(key, now): (&_, &u64)| {
        let more = now - before.get(key).copied().unwrap_or(0);
        (more > 0).then(|| (Clone::clone(key), more))
    };
    after.iter().filter_map(moved).collect()
}

/// The client's own address, asked of the client.
fn client_address(lab: &Lab, v6: bool) -> Result<String> {
    let mut command = lab.run(&["client", "--", "ip", "-json", "address", "show", "scope", "global"]);
    let links = json(&mut command)?;
    let family = if v6 { "inet6" } else { "inet" };
    let mut addresses = list(&links).flat_map(|link| list(&link["addr_info"]));
    let found = addresses.find(|address| address["family"] == family);
    found.map(|address| text(&address["local"]).to_owned()).context("the client has no address")
}

/// Runs a command that prints JSON.
fn json(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed no JSON"))
}

fn median(measured: &Value) -> Result<f64> {
    measured["p50_us"].as_f64().with_context(|| format!("no median in {measured}"))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn socket_address(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
