//! The socket hooks, which translate an address before a packet exists: runs
//! the code of the hooks over the live maps.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use beeline_abi::conntrack::ConntrackKey;
use beeline_abi::counter::{hook, outcome};
use beeline_abi::service::ServiceValue;
use beeline_abi::{DropReason, Ip, Port};
use beeline_datapath::conntrack::key_of;
use beeline_datapath::platform::{Step, Tables};
use beeline_datapath::socket::{self, Action, SocketAddress};

use super::steps::{self, StepDescription};
use super::tables::LiveTables;
use super::{Hop, Node};
use crate::names::socket_address;

/// Maximum number of slots or Maglev table entries that are searched for the
/// backend of an established connection.
const CANDIDATES_MAX: u32 = 4_096;

/// A connect() call.
pub struct ConnectRequest {
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// Local address and port.
    pub from: SocketAddr,
    /// Address and port passed to connect().
    pub to: SocketAddr,
    /// IP protocol.
    pub proto: u8,
}

/// The hook's steps, and the translated address; none if the call is rejected.
pub type Translation = (Hop, Option<SocketAddr>);

/// Runs the hooks of a node; established connections are looked up on `nodes`.
/// None: the hooks do not change the address.
pub fn translate(
    node: &Node<'_>,
    nodes: &[Node<'_>],
    request: &ConnectRequest,
) -> Result<Option<Translation>> {
    let hook_name = if request.to.is_ipv6() { "connect6" } else { "connect4" };
    if !node.live.pinned().attached_sockets().contains(&hook_name) {
        return Ok(None);
    }
    let mut tables = LiveTables::new(node.live.pinned());
    let translation = redirect(node, nodes, request, &mut tables)?;
    tables.failure()?;
    Ok(translation)
}

fn redirect(
    node: &Node<'_>,
    nodes: &[Node<'_>],
    request: &ConnectRequest,
    tables: &mut LiveTables<'_>,
) -> Result<Option<Translation>> {
    // A connection that is translated per packet has an entry with this address.
    if has_live_entry(node, request, request.to)? {
        return Ok(None);
    }
    let asked = SocketAddress {
        cookie: 0,
        netns_cookie: request.netns_cookie,
        ip: Ip::from(request.to.ip()),
        port: Port::new(request.to.port()),
        proto: request.proto,
    };
    let Some(service) = socket::service_of(tables, &asked) else { return Ok(None) };
    let value = service.and_then(|id| tables.service(id)).unwrap_or_default();
    let Some((to, established)) = backend(tables, nodes, request, &asked, &value)? else {
        let reason = if service.is_none() { DropReason::NoServicePort } else { DropReason::NoBackend };
        return Ok(Some((rejected(node, reason), None)));
    };
    let (ip, port) = (Ip::from(to.ip()), Port::new(to.port()));
    let chosen =
        Step::Service { service: service.unwrap_or_default(), slots: value.slots, backend: 0, ip, port };
    let mut chosen = steps::describe(&chosen, &node.names);
    if established {
        chosen.text = format!("{}; an established connection uses this source port", chosen.text);
    }
    let redirect = format!(
        "connect() to {} is redirected to this backend; packets never carry the Service address",
        socket_address(request.to.ip(), request.to.port())
    );
    let steps = vec![chosen, StepDescription { stage: "socket", text: redirect }];
    Ok(Some((hop(node, steps, outcome::SOCKET_TRANSLATED, None), Some(to))))
}

/// The backend of the established connection from the socket's port, or one
/// that a new connection may get, and whether it is established. None: the
/// hooks reject the call.
fn backend(
    tables: &mut LiveTables<'_>,
    nodes: &[Node<'_>],
    request: &ConnectRequest,
    asked: &SocketAddress,
    service: &ServiceValue,
) -> Result<Option<(SocketAddr, bool)>> {
    let mut candidate = None;
    for index in 0..service.slots.max(service.maglev_size).min(CANDIDATES_MAX) {
        tables.random = index;
        let Action::Redirect(ip, port) = socket::connect(tables, asked) else { return Ok(None) };
        let to = SocketAddr::new(IpAddr::from(ip), port.get());
        // A connection from a node's own socket is tracked by the receiving node.
        for node in nodes {
            if has_live_entry(node, request, to)? {
                return Ok(Some((to, true)));
            }
        }
        candidate.get_or_insert(to);
    }
    Ok(candidate.map(|candidate| (candidate, false)))
}

/// Whether a node tracks an unexpired connection of the socket to `to`.
fn has_live_entry(node: &Node<'_>, request: &ConnectRequest, to: SocketAddr) -> Result<bool> {
    let end = |address: SocketAddr| (Ip::from(address.ip()), Port::new(address.port()));
    let ((src, sport), (dst, dport)) = (end(request.from), end(to));
    let mut key = ConntrackKey::default();
    key_of(&mut key, src, sport, dst, dport, request.proto);
    let now = steps::now()?;
    Ok(node.live.pinned().connection(&key)?.is_some_and(|entry| entry.expires > now))
}

fn rejected(node: &Node<'_>, reason: DropReason) -> Hop {
    let text = format!("connect() fails with ECONNREFUSED ({})", reason.name());
    hop(node, vec![StepDescription { stage: "reject", text }], outcome::ANSWERED, Some(reason))
}

fn hop(node: &Node<'_>, steps: Vec<StepDescription>, outcome: u8, reason: Option<DropReason>) -> Hop {
    Hop {
        node: node.target.label.clone(),
        hook: hook::name(hook::SOCKET),
        ifindex: 0,
        steps,
        outcome: Some(outcome::name(outcome)),
        reason: reason.map(DropReason::name),
    }
}
