//! DEL and GC. Both are idempotent.

use crate::agent::Agent;
use crate::config::NetworkConfig;
use crate::deletion_queue;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::interface;
use crate::lock::ContainerLock;

/// Runs DEL. The interface is deleted first, so that the pod cannot send with
/// addresses that are free again. Then the agent releases them, or the deletion
/// is queued if the agent cannot be reached.
pub fn delete(environment: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let attachment = &environment.attachment;
    let _lock = ContainerLock::acquire(&config.socket, &attachment.container_id)?;
    interface::delete(&attachment.host_interface())?;
    match Agent::at(&config.socket).release(attachment) {
        Ok(()) => deletion_queue::remove(&config.socket, attachment),
        Err(_) => deletion_queue::enqueue(&config.socket, attachment),
    }
}

/// Runs GC. Fails without a list of valid attachments, because treating a
/// missing list as empty would release the addresses of running pods.
pub fn gc(config: &NetworkConfig) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments.clone() else {
        let message = "GC requires the list cni.dev/valid-attachments in the network configuration; it is missing, so nothing was removed";
        return Err(CniError::new(Code::InvalidConfig, message));
    };
    Agent::at(&config.socket).collect(valid)
}
