//! A node's link: MTU, carrier, packet loss, and the network that it is
//! connected to.

use anyhow::{Context, Result, bail};
use beeline_kernel::netns::NetNs;
use serde::{Deserialize, Serialize};

use crate::address::{self, Subnet, UPLINK};
use crate::paths::LabPaths;
use crate::{netdev, topology};

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Does the node have carrier?
    pub up: bool,
    /// Packet loss in percent, in each direction.
    pub loss_percent: f64,
    /// The network.
    #[serde(rename = "side")]
    pub subnet: Subnet,
}

impl Default for Link {
    fn default() -> Link {
        Link { mtu: netdev::MTU, up: true, loss_percent: 0.0, subnet: Subnet::Direct }
    }
}

/// Changes of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// MTU of both ends, in bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,
    /// Set the link down: the node's uplink loses carrier
    #[arg(long, conflicts_with = "up")]
    pub down: bool,
    /// Set the link up
    #[arg(long)]
    pub up: bool,
    /// Packet loss in percent, in each direction; 0 turns it off
    #[arg(long, value_name = "P", value_parser = percent)]
    pub loss: Option<f64>,
    /// Move the node to the network behind the router; its addresses change
    #[arg(long, conflicts_with = "direct")]
    pub behind_router: bool,
    /// Move the node back to the network of the control plane and the client
    #[arg(long)]
    pub direct: bool,
}

fn percent(text: &str) -> Result<f64> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    match number.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Ok(percent),
        None => bail!("expected a percentage from 0 to 100"),
    }
}

impl Change {
    /// Whether it moves the node to another network.
    pub fn moves(&self) -> bool {
        self.behind_router || self.direct
    }
}

impl Link {
    /// An unchanged link on this network.
    pub fn on(subnet: Subnet) -> Link {
        Link { subnet, ..Link::default() }
    }

    /// The link with a change applied.
    pub fn changed(self, change: &Change) -> Link {
        let subnet = if change.direct { Subnet::Direct } else { self.subnet };
        Link {
            mtu: change.mtu.unwrap_or(self.mtu),
            up: (self.up || change.up) && !change.down,
            loss_percent: change.loss.unwrap_or(self.loss_percent),
            subnet: if change.behind_router { Subnet::BehindRouter } else { subnet },
        }
    }

    /// Describes settings that are not the default; empty if there are none.
    pub fn describe(&self) -> String {
        let usual = Link::default();
        let parts = [
            (self.subnet != usual.subnet).then(|| "behind the router".to_owned()),
            (self.mtu != usual.mtu).then(|| format!("MTU {}", self.mtu)),
            (self.loss_percent > 0.0)
                .then(|| format!("{} % packet loss in each direction", self.loss_percent)),
            (!self.up).then(|| "down".to_owned()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Changes the link of an uplink from `before` to `after`.
pub fn apply(paths: &LabPaths, number: u32, uplink: u32, before: &Link, after: &Link) -> Result<()> {
    let (device, port) = (address::uplink(uplink), topology::port(number, uplink));
    let change = || -> Result<()> {
        let node = NetNs::open(paths.node(&address::node_name(number)).netns())?;
        let switch = NetNs::open(paths.netns("switch"))?;
        if before.mtu != after.mtu {
            netdev::set_mtu(&switch, &port, after.mtu)?;
            netdev::set_mtu(&node, &device, after.mtu)?;
        }
        if before.loss_percent != after.loss_percent {
            netdev::set_loss(&switch, &port, after.loss_percent)?;
        }
        if before.subnet != after.subnet {
            netdev::move_to_bridge(&switch, &port, topology::bridge(after.subnet))?;
            readdress(&node, number, before.subnet, after.subnet)?;
        }
        if before.up != after.up {
            netdev::set_up(&switch, &port, after.up)?;
        }
        Ok(())
    };
    change().with_context(|| format!("cannot change the link at {device} of {}", address::node_name(number)))
}

/// Old addresses are removed last: a device without addresses loses all
/// routes.
fn readdress(node: &NetNs, number: u32, before: Subnet, after: Subnet) -> Result<()> {
    topology::address_host(node, address::node_on(number, after), after)?;
    let old = address::node_on(number, before).with_prefixes();
    old.into_iter().try_for_each(|(ip, bits)| netdev::remove_address(node, UPLINK, ip, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_change_keeps_the_other_settings() {
        let bad = Link { mtu: 1400, up: false, loss_percent: 5.0, subnet: Subnet::BehindRouter };
        assert_eq!(bad.changed(&Change::default()), bad);
        let up = Change { up: true, loss: Some(0.0), ..Change::default() };
        assert_eq!(bad.changed(&up), Link { up: true, loss_percent: 0.0, ..bad });
        let direct = Change { direct: true, down: true, ..Change::default() };
        assert_eq!(Link::default().changed(&direct), Link { up: false, ..Link::default() });
        assert_eq!(bad.describe(), "behind the router, MTU 1400, 5 % packet loss in each direction, down");
        assert_eq!(Link::default().describe(), "");
    }

    #[test]
    fn unit_percent_are_from_0_to_100() {
        assert_eq!((percent("2.5").unwrap(), percent("100%").unwrap()), (2.5, 100.0));
        for wrong in ["101", "-1", "x", "NaN", ""] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
