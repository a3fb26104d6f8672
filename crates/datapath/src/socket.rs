//! Socket load balancing: connect() or sendmsg() to a Service address is
//! redirected to a backend, so packets never carry the Service address. One
//! function per hook: [`connect`], [`sendmsg`] (datagrams with a destination) and
//! [`peer`] (recvmsg() and getpeername()).

use beeline_abi::config::flags as config;
use beeline_abi::conntrack::ticks_from_seconds;
use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_abi::service::{
    AffinityKey, AffinityValue, FrontendKey, SCOPE_INTERNAL, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, address_flags,
};
use beeline_abi::socket::{SocketKey, SocketValue, direction};
use beeline_abi::{Ip, Port};

use crate::platform::Tables;
use crate::service::node_class;
use crate::{backend_slots, maglev};

/// Maximum number of slots that are tried. A slot may disappear while a new
/// generation is published.
const TRIES_MAX: u32 = 3;

/// The interface that the socket hooks need.
pub trait Sockets: Tables {
    /// The current tick (`beeline_abi::conntrack::tick`).
    fn tick(&self) -> u32;
    /// A random number.
    fn random(&mut self) -> u32;
    /// The entry of a pod's network namespace, by cookie.
    fn namespace(&self, cookie: u64) -> Option<NamespaceValue>;
    /// The translation of a socket.
    fn socket(&self, key: &SocketKey) -> Option<SocketValue>;
    /// Stores it; best effort.
    fn socket_insert(&mut self, key: &SocketKey, value: &SocketValue);
}

/// The address in a call of a socket. IPv4 is IPv4-mapped (RFC 4291 section
/// 2.5.5.2), also if an IPv6 socket uses the mapped form itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAddress {
    /// Cookie of the socket (`bpf_get_socket_cookie`).
    pub cookie: u64,
    /// Cookie of the socket's network namespace (`bpf_get_netns_cookie`).
    pub netns_cookie: u64,
    /// The remote address.
    pub ip: Ip,
    /// The remote port, network byte order.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
}

/// What a hook does with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keeps the address.
    Keep,
    /// Replaces it with another address and port.
    Redirect(Ip, Port),
    /// Fails the call with `ECONNREFUSED`.
    Refuse,
}

/// connect(2): selects a backend for the whole connection.
#[inline(always)]
pub fn connect<S: Sockets>(env: &mut S, address: &SocketAddress) -> Action {
    let Some(service) = service_of(env, address) else { return Action::Keep };
    match service {
        Some(service) => choose(env, address, service),
        None => Action::Refuse,
    }
}

/// sendmsg(2) with a destination: uses the same backend as the socket's previous
/// datagram to this address while it serves. All datagrams of a flow then reach
/// one backend, as with packet translation.
#[inline(always)]
pub fn sendmsg<S: Sockets>(env: &mut S, address: &SocketAddress) -> Action {
    if let Some(preferred) = env.socket(&key(address, direction::FRONTEND)) {
        let mut key = SlotKey::default();
        if backend_slots::is_serving(
            env,
            &mut key,
            preferred.service,
            preferred.backend,
            &preferred.ip,
            preferred.port,
        ) {
            return Action::Redirect(preferred.ip, preferred.port);
        }
    }
    connect(env, address)
}

/// recvmsg(2) and getpeername(2): the Service address instead of the
/// backend's.
#[inline(always)]
pub fn peer<S: Sockets>(env: &mut S, backend: &SocketAddress) -> Action {
    match env.socket(&key(backend, direction::BACKEND)) {
        Some(known) => Action::Redirect(known.ip, known.port),
        None => Action::Keep,
    }
}

/// The id of the Service at the address. `None`: the address is not translated.
/// `Some(None)`: it is a Service address, but no Service has the port.
#[inline(always)]
pub fn service_of<S: Sockets>(env: &S, address: &SocketAddress) -> Option<Option<u32>> {
    let settings = env.config()?;
    let from_host = address.netns_cookie == settings.netns_cookie;
    if !from_host && (settings.flags & config::SOCKET_PODS == 0 || !is_pod_with_sockets(env, address)) {
        return None;
    }
    let on_loopback =
        from_host && settings.flags & config::NODE_PORT_LOOPBACK != 0 && is_loopback(&address.ip);
    let entry = match env.service_address(&address.ip) {
        Some(entry) => entry,
        None if on_loopback => ServiceAddressValue { class: node_class(&address.ip), flags: 0 },
        None => return None,
    };
    let mut frontend =
        FrontendKey { class: entry.class, port: address.port, proto: address.proto, scope: SCOPE_INTERNAL };
    let mut found = env.frontend(&frontend);
    if found.is_none() && (on_loopback || entry.flags & address_flags::ALSO_NODE != 0) {
        frontend.class = node_class(&address.ip);
        found = env.frontend(&frontend);
    }
    match found {
        // Source ranges of pods are checked on their packets, which have a source
        // address. The node itself is always allowed.
        Some(found) if found.source_ranges != 0 && !from_host => None,
        Some(found) => Some(Some(found.service)),
        None if entry.flags & address_flags::EXCLUSIVE != 0 => Some(None),
        None => None,
    }
}

/// Pods that opted out or are not known yet use packet translation instead.
#[inline(always)]
fn is_pod_with_sockets<S: Sockets>(env: &S, address: &SocketAddress) -> bool {
    env.namespace(address.netns_cookie).is_some_and(|known| known.flags & namespace_flags::SOCKETS != 0)
}

#[inline(always)]
fn is_loopback(ip: &Ip) -> bool {
    if ip.is_v4() {
        return u32::from_be(ip.v4_word()) >> 24 == 127;
    }
    ip.0[0] == 0 && ip.0[1] == 0 && ip.0[2] == 0 && ip.0[3] == 1_u32.to_be()
}

#[inline(always)]
fn choose<S: Sockets>(env: &mut S, address: &SocketAddress, id: u32) -> Action {
    let first = env.random();
    let mut i = 0;
    while i < TRIES_MAX {
        let choice = first.wrapping_add(i);
        let Some(service) = env.service(id) else { return Action::Refuse };
        if service.slots == 0 {
            return Action::Refuse;
        }
        let preferred = if i == 0 { affinity_backend(env, address, id, &service) } else { None };
        i += 1;
        // A random choice is sufficient even with consistent hashing: the socket has
        // no source port yet, and its packets enter at this node only.
        let chosen = match preferred {
            Some(preferred) => Some(preferred),
            None => maglev::select(env, &mut SlotKey::default(), id, &service, choice),
        };
        let Some(backend) = chosen else { continue };
        let backend_id = backend.backend;
        store(
            env,
            address,
            &SocketValue { ip: backend.ip, port: backend.port, flags: 0, service: id, backend: backend_id },
        );
        if service.affinity_s != 0 {
            let used = env.tick();
            env.affinity_insert(&affinity_key(address, id), &AffinityValue { backend: backend_id, used });
        }
        return Action::Redirect(backend.ip, backend.port);
    }
    Action::Refuse
}

/// Stores both directions: datagrams find their backend again, replies their
/// Service address.
#[inline(always)]
fn store<S: Sockets>(env: &mut S, address: &SocketAddress, backend: &SocketValue) {
    env.socket_insert(&key(address, direction::FRONTEND), backend);
    let backend_address = SocketAddress { ip: backend.ip, port: backend.port, ..*address };
    let service = SocketValue { ip: address.ip, port: address.port, ..*backend };
    env.socket_insert(&key(&backend_address, direction::BACKEND), &service);
}

#[inline(always)]
fn key(address: &SocketAddress, direction: u8) -> SocketKey {
    let SocketAddress { cookie, ip, port, proto, .. } = *address;
    SocketKey { cookie, ip, port, proto, direction, reserved: [0; 4] }
}

/// The backend of this network namespace by `ClientIP` session affinity, if it has
/// not expired. The namespace is the client, because a socket has no source
/// address yet.
#[inline(always)]
fn affinity_backend<S: Sockets>(
    env: &S,
    address: &SocketAddress,
    id: u32,
    service: &ServiceValue,
) -> Option<SlotValue> {
    if service.affinity_s == 0 {
        return None;
    }
    let preferred = env.affinity(&affinity_key(address, id))?;
    if env.tick().wrapping_sub(preferred.used) > ticks_from_seconds(service.affinity_s) {
        return None;
    }
    backend_slots::accepting(env, &mut SlotKey::default(), id, preferred.backend)
}

#[inline(always)]
fn affinity_key(address: &SocketAddress, service: u32) -> AffinityKey {
    let cookie = address.netns_cookie;
    let client = Ip([0, 0, (cookie >> 32) as u32, cookie as u32]);
    AffinityKey { client, service, is_cookie: 1 }
}
