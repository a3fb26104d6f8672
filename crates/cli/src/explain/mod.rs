//! `beeline explain`: runs the datapath code natively on a simulated packet,
//! with the pinned maps and the node's routing table. No packet is sent.

mod routes;
mod socket;
mod steps;
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use beeline_abi::counter::{hook, outcome};
use beeline_abi::ip::proto;
use beeline_abi::{Ip, Mac};
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport};
use beeline_datapath::native::{Native, NativeFrame};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::live::Live;
use crate::names::{Directory, socket_address};
use crate::output::{self, Format};
use crate::target::Target;
use routes::Routes;
use steps::StepDescription;
use tables::LiveTables;

/// Maximum number of hooks that a packet is traced through.
const HOPS_MAX: usize = 4;
/// TCP's SYN (RFC 9293).
const SYN: u8 = 2;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Source: a pod (NAMESPACE/NAME) or an IP address
    #[arg(long, value_name = "POD|ADDRESS")]
    from: String,
    /// Destination: a pod (NAMESPACE/NAME) or an IP address, including Service addresses
    #[arg(long, value_name = "POD|ADDRESS")]
    to: String,
    /// Destination port
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Source port; the port of an established connection selects that connection
    #[arg(long, default_value_t = 40_000)]
    source_port: u16,
    /// Protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// Payload size in bytes
    #[arg(long, default_value_t = 0)]
    size: u16,
    /// Skip the socket hooks, as for raw sockets, gVisor and Kata guests, and NFS
    #[arg(long)]
    no_socket_lb: bool,
    /// Use the IPv6 addresses of dual-stack pods
    #[arg(short = '6', long)]
    ipv6: bool,
}

/// Protocol of the simulated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// TCP SYN
    Tcp,
    /// UDP datagram
    Udp,
    /// ICMP or ICMPv6 echo request
    Icmp,
}

/// The trace.
#[derive(Debug, Serialize)]
struct Explanation {
    from: String,
    to: String,
    hops: Vec<Hop>,
    /// The packet reaches a receiver or leaves the selected nodes.
    delivered: bool,
    /// Where the trace ends.
    end: String,
}

/// A hook on the path of the packet. The first one is the socket hook, if it
/// translated the address.
#[derive(Debug, Serialize)]
struct Hop {
    node: String,
    hook: &'static str,
    /// Interface index of the hook; 0 for the socket hook.
    ifindex: u32,
    steps: Vec<StepDescription>,
    /// The outcome that is counted, as `beeline counters` names it.
    outcome: Option<&'static str>,
    /// Drop reason, if any.
    reason: Option<&'static str>,
}

/// A node with its maps opened.
struct Node<'a> {
    target: &'a Target,
    live: Live,
    names: Directory,
}

/// Runs `beeline explain`.
pub fn run(arguments: &ExplainArguments, targets: &[Target], format: Format) -> Result<ExitCode> {
    let nodes = targets.iter().map(Node::open).collect::<Result<Vec<_>>>()?;
    let explanation = explain(arguments, &nodes)?;
    match format {
        Format::Json => output::json(&explanation)?,
        Format::Text => output::line(&explanation.to_string())?,
    }
    Ok(ExitCode::SUCCESS)
}

impl<'a> Node<'a> {
    fn open(target: &'a Target) -> Result<Node<'a>> {
        Ok(Node { target, live: Live::open(target)?, names: Directory::fetch(target) })
    }

    /// Device of a pod on this node.
    fn endpoint(&self, ip: IpAddr) -> Result<Option<u32>> {
        let found = self.live.pinned().tables().endpoint.get(&Ip::from(ip))?;
        Ok(found.map(|endpoint| endpoint.ifindex))
    }

    /// The pod of this node that has the address, or the node itself.
    fn sender(&self, ip: IpAddr) -> Result<Option<Sender>> {
        let pinned = self.live.pinned();
        if let Some(pod) = pinned.tables().endpoint.get(&Ip::from(ip))? {
            let (netns_cookie, ifindex, mac) = (pod.netns_cookie, pod.ifindex, pod.pod_mac);
            return Ok(Some(Sender::Pod { netns_cookie, ifindex, mac }));
        }
        let netns_cookie = pinned.config()?.netns_cookie;
        Ok(self.is_own(ip)?.then_some(Sender::Node { netns_cookie }))
    }

    /// Whether the address is the node's own.
    fn is_own(&self, ip: IpAddr) -> Result<bool> {
        let config = self.live.pinned().config()?;
        Ok([config.node_ipv4, config.node_ipv6].contains(&Ip::from(ip)))
    }

    /// Interface index of an uplink.
    fn uplink(&self) -> Result<u32> {
        let attached = self.live.pinned().attached();
        let uplink = attached.iter().find(|one| one.program == beeline_abi::maps::programs::FROM_UPLINK);
        Ok(uplink
            .with_context(|| format!("{} has no uplink with an attached program", self.target.label))?
            .ifindex)
    }
}

/// The first node for which `probe` returns a value.
fn find<'a, 'n, T>(
    nodes: &'n [Node<'a>],
    mut probe: impl FnMut(&Node<'a>) -> Result<Option<T>>,
) -> Result<Option<(&'n Node<'a>, T)>> {
    for node in nodes {
        if let Some(found) = probe(node)? {
            return Ok(Some((node, found)));
        }
    }
    Ok(None)
}

/// Parses an address or resolves a pod name.
fn address(word: &str, v6: Option<bool>, nodes: &[Node<'_>]) -> Result<IpAddr> {
    if let Ok(address) = word.parse() {
        return Ok(address);
    }
    let of_family = |ip: &IpAddr| v6.is_none_or(|v6| ip.is_ipv6() == v6);
    let found = nodes.iter().find_map(|node| node.names.address_of(word, of_family));
    found.with_context(|| {
        format!("`{word}` is neither an IP address nor a known pod (write pods as namespace/name; see `beeline endpoint list`)")
    })
}

fn explain(arguments: &ExplainArguments, nodes: &[Node<'_>]) -> Result<Explanation> {
    // An explicit address determines the address family.
    let given = [&arguments.from, &arguments.to].into_iter().find_map(|word| word.parse::<IpAddr>().ok());
    let v6 = given.map_or(arguments.ipv6, |ip| ip.is_ipv6());
    let (from, to) = (address(&arguments.from, Some(v6), nodes)?, address(&arguments.to, Some(v6), nodes)?);
    if from.is_ipv6() != to.is_ipv6() {
        bail!("{from} and {to} belong to different address families");
    }
    let mut explanation = Explanation {
        from: label(nodes, from, arguments.source_port(), arguments.protocol),
        to: label(nodes, to, arguments.port(), arguments.protocol),
        hops: Vec::new(),
        delivered: false,
        end: String::new(),
    };
    let sender = find(nodes, |node| node.sender(from))?;
    let (mut to, mut port) = (to, arguments.port);
    if let Some((node, sender)) = &sender
        && let Some(request) = arguments.connect_request(sender, from, to)
        && let Some((hop, translated)) = socket::translate(node, nodes, &request)?
    {
        let reason = hop.reason;
        explanation.hops.push(hop);
        let Some(translated) = translated else {
            explanation.end =
                format!("connect() fails and no packet is sent ({})", reason.unwrap_or_default());
            return Ok(explanation);
        };
        (to, port) = (translated.ip(), translated.port());
        if to == from || node.is_own(to)? && matches!(sender, Sender::Node { .. }) {
            let name = label(nodes, to, port, arguments.protocol);
            (explanation.delivered, explanation.end) = (
                true,
                format!("delivered to {name} over the loopback interface: the sender is the receiver"),
            );
            return Ok(explanation);
        }
    }
    follow(start(arguments, nodes, sender, (from, to, port))?, nodes, &mut explanation)?;
    Ok(explanation)
}

/// A node, a hook and its device there, a frame.
type Start<'a, 'n> = (&'n Node<'a>, u8, u32, Vec<u8>);

/// The first hook of a packet from an address to another one and its port.
fn start<'a, 'n>(
    arguments: &ExplainArguments,
    nodes: &'n [Node<'a>],
    sender: Option<(&'n Node<'a>, Sender)>,
    (from, to, port): (IpAddr, IpAddr, u16),
) -> Result<Start<'a, 'n>> {
    let build = arguments.packet(from, to, port);
    let receiver = find(nodes, |node| node.endpoint(to))?;
    match (sender, receiver) {
        (Some((node, Sender::Pod { ifindex, mac, .. })), _) => {
            Ok((node, hook::FROM_POD, ifindex, Build { mac_src: mac, ..build }.frame()))
        }
        (Some((node, Sender::Node { .. })), Some((other, ifindex))) if std::ptr::eq(node, other) => {
            Ok((node, hook::TO_POD, ifindex, build.frame()))
        }
        (Some((node, Sender::Node { .. })), _) => Ok((node, hook::TO_UPLINK, node.uplink()?, build.frame())),
        (None, Some((node, _))) => Ok((node, hook::FROM_UPLINK, node.uplink()?, build.frame())),
        (None, None) => bail!(
            "the sender must be a pod or node of the selected nodes, or the receiver one of their pods; {from} and {to} are not (see `beeline endpoint list` and `beeline node list`)"
        ),
    }
}

/// A sender on one of the selected nodes, with its network namespace cookie.
enum Sender {
    Pod { netns_cookie: u64, ifindex: u32, mac: Mac },
    Node { netns_cookie: u64 },
}

/// Follows the packet from hook to hook until it leaves the selected nodes.
fn follow<'a, 'n>(mut at: Start<'a, 'n>, nodes: &'n [Node<'a>], explanation: &mut Explanation) -> Result<()> {
    for _ in 0..HOPS_MAX {
        let (node, hook, ifindex, frame) = at;
        let (hop, verdict, frame, to) = pass(node, hook, ifindex, frame)?;
        explanation.hops.push(hop);
        let leaves = matches!(verdict, Verdict::Forward { .. })
            || (hook == hook::TO_UPLINK && verdict == Verdict::ToHost);
        let next = if leaves { find(nodes, |node| node.endpoint(to))? } else { None };
        let Some((next, _)) = next else {
            (explanation.delivered, explanation.end) = end(node, hook, verdict, to);
            return Ok(());
        };
        at = (next, hook::FROM_UPLINK, next.uplink()?, frame);
    }
    explanation.end = format!("forwarding loop: more than {HOPS_MAX} hooks");
    Ok(())
}

/// Runs one hook natively on a frame.
fn pass(node: &Node<'_>, at: u8, ifindex: u32, frame: Vec<u8>) -> Result<(Hop, Verdict, Vec<u8>, IpAddr)> {
    let mut tables = LiveTables::new(node.live.pinned());
    let mut routes = Routes::open(node.target)?;
    let mut lookup = |context: &_, bytes| routes.lookup(context, bytes);
    let mut native = Native::new(NativeFrame::new(frame), &mut tables, &mut lookup, steps::now()?);
    native.from_host = at == hook::TO_UPLINK;
    let outcome = native.run(at, ifindex);
    let (steps, frame) = (std::mem::take(&mut native.steps), std::mem::take(&mut native.frame.bytes));
    drop(native);
    routes.failure()?;
    tables.failure()?;
    let hop = Hop {
        node: node.target.label.clone(),
        hook: hook::name(at),
        ifindex,
        steps: steps.iter().map(|step| steps::describe(step, &node.names)).collect(),
        outcome: outcome.verdict.outcome().map(outcome::name),
        reason: outcome.verdict.reason().map(beeline_abi::DropReason::name),
    };
    Ok((hop, outcome.verdict, frame, outcome.context.dst_after.into()))
}

/// Whether the packet is delivered, and where it ends.
fn end(node: &Node<'_>, at: u8, verdict: Verdict, to: IpAddr) -> (bool, String) {
    let name = node.names.pod_or_node(to).map_or_else(|| to.to_string(), |name| format!("{name} ({to})"));
    let label = &node.target.label;
    match verdict {
        Verdict::ToPod { .. } => (true, format!("delivered to {name} on {label}")),
        Verdict::ToHost if at == hook::TO_POD => (true, format!("delivered to {name} on {label}")),
        Verdict::ToHost if at == hook::TO_UPLINK => {
            (true, format!("leaves {label} for {name}, not traced further"))
        }
        Verdict::ToHost => (true, format!("passed to the network stack of {label} for {name}")),
        Verdict::ToHostError => (
            false,
            format!("passed to the network stack of {label}, which fragments it or sends an ICMP error"),
        ),
        Verdict::Forward { next_hop, .. } => {
            (true, format!("leaves {label} for next hop {}, not traced further", IpAddr::from(next_hop)))
        }
        Verdict::Reject { reason } => (false, format!("rejected: {}", reason.cause())),
        Verdict::Drop { reason } => (false, format!("dropped: {}", reason.cause())),
    }
}

fn label(nodes: &[Node<'_>], ip: IpAddr, port: u16, protocol: Protocol) -> String {
    let address = socket_address(ip, port);
    let name = nodes.iter().find_map(|node| node.names.pod_or_node(ip));
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Icmp => "ICMP echo",
    };
    match name {
        Some(name) => format!("{name} ({protocol} {address})"),
        None => format!("{protocol} {address}"),
    }
}

impl ExplainArguments {
    fn source_port(&self) -> u16 {
        if self.protocol == Protocol::Icmp { 0 } else { self.source_port }
    }

    fn port(&self) -> u16 {
        if self.protocol == Protocol::Icmp { 0 } else { self.port }
    }

    /// The connect() call of the sender; none for ICMP and if socket hooks are skipped.
    fn connect_request(&self, sender: &Sender, from: IpAddr, to: IpAddr) -> Option<socket::ConnectRequest> {
        let proto = match self.protocol {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Icmp => return None,
        };
        let (Sender::Pod { netns_cookie, .. } | Sender::Node { netns_cookie }) = *sender;
        let (from, to) = (SocketAddr::new(from, self.source_port), SocketAddr::new(to, self.port));
        (!self.no_socket_lb).then_some(socket::ConnectRequest { netns_cookie, from, to, proto })
    }

    fn packet(&self, from: IpAddr, to: IpAddr, dport: u16) -> Build {
        let sport = self.source_port;
        let transport = match self.protocol {
            Protocol::Tcp => Transport::Tcp { sport, dport, flags: SYN, sequence: 1, acknowledged: 0 },
            Protocol::Udp => Transport::Udp { sport, dport },
            Protocol::Icmp => Transport::Echo { reply: false, id: sport },
        };
        Build { payload: vec![0; usize::from(self.size)], ..Build::new(from.into(), to.into(), transport) }
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} -> {}", self.from, self.to)?;
        for hop in &self.hops {
            match hop.ifindex {
                0 => writeln!(f, "{}: hook {}", hop.node, hop.hook)?,
                ifindex => writeln!(f, "{}: hook {}, ifindex {ifindex}", hop.node, hop.hook)?,
            }
            for step in &hop.steps {
                writeln!(f, "  {:<10} {}", step.stage, step.text)?;
            }
        }
        write!(f, "Result: {}.", self.end.trim_end_matches('.'))
    }
}
