//! Slot lookup by backend id: whether a backend still serves a service. Clients
//! that keep a backend without a TCP connection are checked before each use.

use beeline_abi::service::{
    SLOT_BY_BACKEND, ServiceValue, SlotKey, SlotValue, backend_state, service_flags, slot_flags,
};
use beeline_abi::{Ip, Port};

use crate::platform::Tables;

/// The slot of `backend` if it accepts new clients of `service`.
#[inline(always)]
pub(crate) fn accepting<T: Tables>(
    env: &T,
    key: &mut SlotKey,
    service: u32,
    backend: u32,
) -> Option<SlotValue> {
    *key = SlotKey { service, generation: SLOT_BY_BACKEND, slot: backend };
    env.slot(key).filter(|slot| slot.flags & slot_flags::QUIESCING == 0)
}

/// Whether datagrams for `service` may still be sent to `backend`, which had the
/// address `ip` and `port`. Datagrams leave a backend that was deleted, is
/// terminating while others serve, or was removed from the service.
#[inline(always)]
pub(crate) fn is_serving<T: Tables>(
    env: &T,
    key: &mut SlotKey,
    service: u32,
    backend: u32,
    ip: &Ip,
    port: Port,
) -> bool {
    *key = SlotKey { service, generation: SLOT_BY_BACKEND, slot: backend };
    if let Some(slot) = env.slot(key) {
        return slot.ip == *ip && slot.port == port; // else the id was reused
    }
    match env.service(service) {
        Some(value) if !has_backend_slots(&value) => {}
        _ => return false,
    }
    let Some(value) = env.backend(backend) else { return false };
    value.ip == *ip && value.port == port && value.state == backend_state::ACTIVE
}

#[inline(always)]
fn has_backend_slots(value: &ServiceValue) -> bool {
    value.flags & service_flags::SLOTS_BY_BACKEND != 0
}
