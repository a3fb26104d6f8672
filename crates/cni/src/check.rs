//! CHECK and STATUS.

use crate::agent::Agent;
use crate::config::NetworkConfig;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::interface::{self, PodNamespace};
use crate::result::addresses_of;
use crate::version::Version;

/// Runs CHECK: compares the interface, its addresses and its routes with the
/// result of ADD, and has the agent check the datapath.
pub fn check(environment: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    if config.version < Version::V0_4_0 {
        let message =
            format!("CHECK is not part of CNI version {}; it requires 0.4.0 or later", config.version.name());
        return Err(CniError::new(Code::IncompatibleVersion, message));
    }
    let previous = config.previous.as_ref().ok_or_else(|| {
        CniError::new(
            Code::InvalidConfig,
            "CHECK requires prevResult, the result of ADD, in the network configuration; it is missing",
        )
    })?;
    let attachment = &environment.attachment;
    let addresses = addresses_of(previous, &attachment.interface)?;
    let mut namespace = PodNamespace::open(environment.netns.as_deref())?;
    interface::check(&mut namespace, attachment, &addresses)?;
    Agent::at(&config.socket).check(attachment)
}

/// Runs STATUS: checks that the agent is ready for ADD.
pub fn status(config: &NetworkConfig) -> Result<(), CniError> {
    Agent::at(&config.socket).ready().map_err(|error| CniError { code: Code::NotAvailable, ..error })
}
