//! Who still serves whom: clients that keep their backend by other means than
//! a TCP connection ask before they use it again.

use beeline_abi::service::{
    SLOT_BY_BACKEND, ServiceValue, SlotKey, SlotValue, backend_state, service_flags, slot_flags,
};
use beeline_abi::{Ip, Port};

use crate::platform::Tables;

/// `backend` if it is one of those that `service` gives to new clients.
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

/// Whether datagrams that went to `backend`, which was `ip` and `port`, for
/// `service` may go there still. They have no end that a connection could run
/// on to: they leave a backend that is gone, terminates while others serve, or
/// has left the service.
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
        return slot.ip == *ip && slot.port == port; // else the number is another's by now
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
