//! DEL and GC: everything goes, whatever is already gone.

use crate::agent::Agent;
use crate::config::NetworkConfig;
use crate::deletion_queue;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::interface;
use crate::lock::ContainerLock;

/// Serves DEL. The link goes first (no packet of the pod may meet addresses
/// that are free again), then the agent is told, now or by a file.
pub fn delete(environment: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let attachment = &environment.attachment;
    let _lock = ContainerLock::acquire(&config.socket, &attachment.container_id)?;
    interface::delete(&attachment.host_interface())?;
    match Agent::at(&config.socket).release(attachment) {
        Ok(()) => deletion_queue::remove(&config.socket, attachment),
        Err(_) => deletion_queue::enqueue(&config.socket, attachment),
    }
}

/// Serves GC. Without a list nothing is known to be valid, and nothing to be
/// stale: then no pod loses its network.
pub fn gc(config: &NetworkConfig) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments.clone() else {
        let message = "GC requires the list cni.dev/valid-attachments in the network configuration; it is missing, so nothing was removed";
        return Err(CniError::new(Code::InvalidConfig, message));
    };
    Agent::at(&config.socket).collect(valid)
}
