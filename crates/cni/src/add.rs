//! ADD: allocates addresses from the agent, creates the interface, has the agent
//! attach the datapath, and returns the result. A failure is rolled back.

use std::net::IpAddr;

use beeline_api::{Allocation, Attachment};
use serde_json::Value;

use crate::agent::Agent;
use crate::config::NetworkConfig;
use crate::deletion_queue;
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::interface::{self, PodNamespace};
use crate::lock::ContainerLock;
use crate::result::{CreatedInterface, result};

/// Runs ADD and returns the result.
pub fn add(environment: &Environment, config: &NetworkConfig) -> Result<Value, CniError> {
    let mut namespace = PodNamespace::open(environment.netns.as_deref())?;
    let _lock = ContainerLock::acquire(&config.socket, &environment.attachment.container_id)?;
    namespace.refuse_existing(&environment.attachment)?;
    deletion_queue::remove(&config.socket, &environment.attachment)?;
    let agent = Agent::at(&config.socket);
    let allocation = agent.allocate(environment)?;
    let attempt = Attempt { environment, config, agent: &agent, allocation: &allocation };
    attempt.create(&mut namespace).map_err(|error| attempt.roll_back(error))
}

struct Attempt<'a> {
    environment: &'a Environment,
    config: &'a NetworkConfig,
    agent: &'a Agent,
    allocation: &'a Allocation,
}

impl Attempt<'_> {
    fn create(&self, namespace: &mut PodNamespace) -> Result<Value, CniError> {
        let attachment = &self.environment.attachment;
        let pairs = pair_gateways(self.allocation)?;
        let pair = interface::create(namespace, &attachment.interface, self.allocation, &pairs)?;
        self.agent.commit(attachment, pair.host_ifindex, pair.pod_mac.clone(), namespace.cookie())?;
        interface::wait_running(namespace, &attachment.interface)?;
        let created = CreatedInterface {
            host_interface: self.allocation.host_interface.clone(),
            host_mac: self.allocation.host_mac.clone(),
            pod_interface: attachment.interface.clone(),
            pod_mac: pair.pod_mac,
            sandbox: self.environment.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
            addresses: pairs,
            mtu: self.allocation.mtu,
        };
        result(self.config.version, &created, self.config.dns.as_ref(), self.config.previous.as_ref())
    }

    /// Deletes the interface and releases the addresses. Adds the errors of
    /// this to `error`.
    fn roll_back(&self, mut error: CniError) -> CniError {
        let attachment: &Attachment = &self.environment.attachment;
        if let Err(also) = interface::delete(&self.allocation.host_interface) {
            error = error.with_details(format!("deleting the interface failed too: {also}"));
        }
        if let Err(also) = self.agent.release(attachment) {
            error = error.with_details(format!("releasing the addresses failed too: {also}"));
            if let Err(also) = deletion_queue::enqueue(&self.config.socket, attachment) {
                error = error.with_details(also);
            }
        }
        error
    }
}

/// Pairs each address with the gateway of its address family.
fn pair_gateways(allocation: &Allocation) -> Result<Vec<(IpAddr, IpAddr)>, CniError> {
    let gateway = |ip: &IpAddr| {
        let found = allocation.gateways.iter().find(|gateway| gateway.is_ipv4() == ip.is_ipv4());
        found.map(|gateway| (*ip, *gateway)).ok_or_else(|| {
            CniError::new(
                Code::Agent,
                format!("the agent allocated {ip} without a gateway of its address family"),
            )
            .with_details("compare the versions of beeline-cni and beeline-agent")
        })
    };
    allocation.addresses.iter().map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_each_address_gets_the_gateway_of_its_family() {
        let mut allocation = Allocation {
            addresses: vec!["fd00::5".parse().unwrap(), "10.0.0.5".parse().unwrap()],
            gateways: vec!["169.254.42.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            host_interface: "bee".into(),
            host_mac: String::new(),
            mtu: 1500,
        };
        let pairs = pair_gateways(&allocation).unwrap();
        assert!(pairs.iter().all(|(ip, gateway)| ip.is_ipv4() == gateway.is_ipv4()));
        allocation.gateways.pop();
        assert_eq!(pair_gateways(&allocation).unwrap_err().code, Code::Agent);
    }
}
