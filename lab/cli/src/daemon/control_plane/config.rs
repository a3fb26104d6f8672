//! Configuration of the embedded API server and of the lab's controllers.

use anyhow::Result;
use beeline_apiserver::Config;
use beeline_lab_net::address::{self, CONTROL_PLANE};
use ipnet::IpNet;

/// Configuration of the embedded API server and the lab's controllers.
pub fn config() -> Result<Config> {
    let ranges = |texts: [&str; 2]| texts.map(str::parse::<IpNet>).into_iter().collect::<Result<Vec<_>, _>>();
    Ok(Config {
        service_cidrs: ranges([address::SERVICE_CIDR_IPV4, address::SERVICE_CIDR_IPV6])?,
        pod_cidrs: ranges([address::CLUSTER_CIDR_IPV4, address::CLUSTER_CIDR_IPV6])?,
        control_plane_addresses: CONTROL_PLANE.addresses().to_vec(),
        control_plane_port: Some(address::API_PORT),
        ..Config::default()
    })
}
