//! What the socket hooks make of an address before a packet exists: the hooks'
//! own code, over the live tables.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use beeline_abi::conntrack::ConntrackKey;
use beeline_abi::counter::{hook, outcome};
use beeline_abi::service::ServiceValue;
use beeline_abi::{DropReason, Ip, Port};
use beeline_datapath::conntrack::key_of;
use beeline_datapath::platform::{Step, Tables};
use beeline_datapath::socket::{self, Action, SocketAddress};

use super::steps::{self, Told};
use super::tables::LiveTables;
use super::{Hop, Node};
use crate::names::socket_address;

/// Places of a Service's table that are searched for the backend of a
/// connection that runs.
const PLACES_MAX: u32 = 4_096;

/// A socket and what it asks for.
pub struct Socket {
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// Its own address and port.
    pub from: SocketAddr,
    /// The address that it names.
    pub to: SocketAddr,
    /// IP protocol.
    pub proto: u8,
}

/// What a hook did, and where the socket's packets go; nowhere if the call is
/// refused.
pub type Translation = (Hop, Option<SocketAddr>);

/// Asks the hooks of a node, and `nodes` for connections that run. None: they
/// leave the address as it is.
pub fn translate(node: &Node<'_>, nodes: &[Node<'_>], asking: &Socket) -> Result<Option<Translation>> {
    let hook_name = if asking.to.is_ipv6() { "connect6" } else { "connect4" };
    if !node.live.pinned().attached_sockets().contains(&hook_name) {
        return Ok(None);
    }
    let mut tables = LiveTables::new(node.live.pinned());
    let answer = ask(node, nodes, asking, &mut tables)?;
    tables.failure()?;
    Ok(answer)
}

fn ask(
    node: &Node<'_>,
    nodes: &[Node<'_>],
    asking: &Socket,
    tables: &mut LiveTables<'_>,
) -> Result<Option<Translation>> {
    // Packets that are translated one by one have an entry under this address.
    if is_live(node, asking, asking.to)? {
        return Ok(None);
    }
    let asked = SocketAddress {
        cookie: 0,
        netns_cookie: asking.netns_cookie,
        ip: Ip::from(asking.to.ip()),
        port: Port::new(asking.to.port()),
        proto: asking.proto,
    };
    let Some(service) = socket::service_of(tables, &asked) else { return Ok(None) };
    let value = service.and_then(|id| tables.service(id)).unwrap_or_default();
    let Some((to, runs)) = backend(tables, nodes, asking, &asked, &value)? else {
        let reason = if service.is_none() { DropReason::NoServicePort } else { DropReason::NoBackend };
        return Ok(Some((refused(node, reason), None)));
    };
    let (ip, port) = (Ip::from(to.ip()), Port::new(to.port()));
    let chosen =
        Step::Service { service: service.unwrap_or_default(), slots: value.slots, backend: 0, ip, port };
    let mut chosen = steps::tell(&chosen, &node.names);
    if runs {
        chosen.text = format!("{}; a connection from this port runs", chosen.text);
    }
    let instead = format!(
        "the socket gets it in the place of {} when it connects: no packet bears that",
        socket_address(asking.to.ip(), asking.to.port())
    );
    let told = vec![chosen, Told { stage: "socket", text: instead }];
    Ok(Some((hop(node, told, outcome::SOCKET_TRANSLATED, None), Some(to))))
}

/// The backend of the connection that runs from the socket's port, or one that
/// a new connection may get; whether it is the former. None: the hooks refuse.
fn backend(
    tables: &mut LiveTables<'_>,
    nodes: &[Node<'_>],
    asking: &Socket,
    asked: &SocketAddress,
    service: &ServiceValue,
) -> Result<Option<(SocketAddr, bool)>> {
    let mut first = None;
    for place in 0..service.slots.max(service.maglev_size).min(PLACES_MAX) {
        tables.chance = place;
        let Action::Redirect(ip, port) = socket::connect(tables, asked) else { return Ok(None) };
        let to = SocketAddr::new(IpAddr::from(ip), port.get());
        // What a node's own sockets send is known to the node where it arrives.
        for node in nodes {
            if is_live(node, asking, to)? {
                return Ok(Some((to, true)));
            }
        }
        first.get_or_insert(to);
    }
    Ok(first.map(|first| (first, false)))
}

/// Whether a node's connection table has a live entry of the socket with `to`.
fn is_live(node: &Node<'_>, asking: &Socket, to: SocketAddr) -> Result<bool> {
    let end = |address: SocketAddr| (Ip::from(address.ip()), Port::new(address.port()));
    let ((src, sport), (dst, dport)) = (end(asking.from), end(to));
    let mut key = ConntrackKey::default();
    key_of(&mut key, src, sport, dst, dport, asking.proto);
    let now = steps::now()?;
    Ok(node.live.pinned().connection(&key)?.is_some_and(|entry| entry.expires > now))
}

fn refused(node: &Node<'_>, reason: DropReason) -> Hop {
    let text = format!("connect fails with ECONNREFUSED ({})", reason.name());
    hop(node, vec![Told { stage: "refuse", text }], outcome::ANSWERED, Some(reason))
}

fn hop(node: &Node<'_>, steps: Vec<Told>, outcome: u8, reason: Option<DropReason>) -> Hop {
    Hop {
        node: node.place.label.clone(),
        hook: hook::name(hook::SOCKET),
        ifindex: 0,
        steps,
        outcome: Some(outcome::name(outcome)),
        reason: reason.map(DropReason::name),
    }
}
