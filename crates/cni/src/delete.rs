//! DEL and GC: everything goes, whatever is already gone.

use crate::agent::Agent;
use crate::config::NetworkConfig;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::interface;
use crate::lock::ContainerLock;
use crate::spool;

/// Serves DEL. The link goes first (no packet of the pod may meet addresses
/// that are free again), then the agent is told, now or by a file.
pub fn delete(environment: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let attachment = &environment.attachment;
    let _lock = ContainerLock::acquire(&config.socket, &attachment.container_id)?;
    interface::delete(&attachment.host_interface())?;
    match Agent::on(&config.socket).release(attachment) {
        Ok(()) => spool::forget(&config.socket, attachment),
        Err(_) => spool::leave(&config.socket, attachment),
    }
}

/// Serves GC. Without a list nothing is known to be valid, and nothing to be
/// stale: then no pod loses its network.
pub fn collect(config: &NetworkConfig) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments.clone() else {
        let message = "GC needs the list cni.dev/valid-attachments; it is missing, and nothing was removed";
        return Err(CniError::new(Code::InvalidConfig, message));
    };
    Agent::on(&config.socket).collect(valid)
}
