//! The Maglev table of a service, in which each backend has entries in proportion
//! to its weight. A connection uses a random entry (weighted choice), or the one
//! given by a hash of the client, which is the same on every node (consistent
//! hashing).

use beeline_abi::context::Context;
use beeline_abi::service::{MAGLEV_SEGMENT_SIZE, ServiceValue, SlotKey, SlotValue, service_flags};

use crate::platform::Tables;

/// The hash that selects the Maglev entry of a client: over its address only with
/// `ClientIP` affinity, else over the ports too. The destination address is left
/// out, because an external load balancer may send packets of one connection to
/// any node's address.
#[inline(always)]
pub fn hash(ctx: &Context, service: &ServiceValue) -> u32 {
    let ports = ((ctx.sport.get() as u32) << 16) | ctx.dport.get() as u32;
    let client = mix(mix(mix(mix(SEED, ctx.src.0[0]), ctx.src.0[1]), ctx.src.0[2]), ctx.src.0[3]);
    let hashed_ports = if service.affinity_s != 0 { 0 } else { ports };
    finalize(mix(mix(client, hashed_ports.to_be()), (ctx.proto as u32).to_be()))
}

/// Whether the service uses consistent hashing.
#[inline(always)]
pub fn is_consistent(service: &ServiceValue) -> bool {
    service.maglev_size != 0 && service.flags & service_flags::MAGLEV != 0
}

/// Selects a backend by `choice`: from the Maglev table if the service has one,
/// else from its slots, of which there must be at least one. Returns `None` if a
/// newer generation has just replaced this one. `key` is scratch.
#[inline(always)]
pub fn select<T: Tables>(
    env: &T,
    key: &mut SlotKey,
    id: u32,
    service: &ServiceValue,
    choice: u32,
) -> Option<SlotValue> {
    if service.maglev_size == 0 {
        *key = SlotKey { service: id, generation: service.generation, slot: choice % service.slots };
        return env.slot(key);
    }
    let index = choice % service.maglev_size;
    let segment_size = MAGLEV_SEGMENT_SIZE as u32;
    *key = SlotKey { service: id, generation: service.maglev_generation, slot: index / segment_size };
    let backend_id = env.maglev(key, index % segment_size)?;
    Some(SlotValue::of(backend_id, &env.backend(backend_id)?))
}

/// The seed of the hash. It must be the same on every node and in every release.
const SEED: u32 = 0x9e37_79b9;

/// Adds one word in network byte order to the hash (the block step of
/// MurmurHash3_x86_32).
#[inline(always)]
const fn mix(hash: u32, wire: u32) -> u32 {
    let word = u32::from_be(wire).wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

/// The finalizer of MurmurHash3 (`fmix32`).
#[inline(always)]
const fn finalize(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
