//! Shares: the places of a service's table in which each backend stands as
//! often as its weight says. Which one a connection takes is a matter of
//! chance, or of the client alone: then every node takes the same.

use beeline_abi::context::Context;
use beeline_abi::service::{MAGLEV_SEGMENT_SIZE, ServiceValue, SlotKey, SlotValue, service_flags};

use crate::platform::Tables;

/// The point at which a client enters the table of a service with consistent
/// hashing: by its address alone where it is to keep its backend (`ClientIP`
/// affinity), else by the ports as well. The address that was asked is left
/// out: a load balancer in front may send one connection to any node's.
#[inline(always)]
pub fn hash(ctx: &Context, service: &ServiceValue) -> u32 {
    let ports = ((ctx.sport.get() as u32) << 16) | ctx.dport.get() as u32;
    let client = mix(mix(mix(mix(SEED, ctx.src.0[0]), ctx.src.0[1]), ctx.src.0[2]), ctx.src.0[3]);
    let hashed_ports = if service.affinity_s != 0 { 0 } else { ports };
    finalize(mix(mix(client, hashed_ports.to_be()), (ctx.proto as u32).to_be()))
}

/// Whether the service's table is entered by the client's address.
#[inline(always)]
pub fn is_consistent(service: &ServiceValue) -> bool {
    service.maglev_size != 0 && service.flags & service_flags::MAGLEV != 0
}

/// The backend that a service gives to a client: by its shares if it has some,
/// else by its slots, of which it has one at least. None if a new generation
/// has just taken its place. `key` is scratch.
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

/// Where hashing starts: the same on every node, and for good.
const SEED: u32 = 0x9e37_79b9;

/// Takes one word in, as it stands on the wire (after MurmurHash3's body).
#[inline(always)]
const fn mix(hash: u32, wire: u32) -> u32 {
    let word = u32::from_be(wire).wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

/// Lets every bit count for every other (MurmurHash3's finish).
#[inline(always)]
const fn finalize(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
