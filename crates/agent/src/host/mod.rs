//! The node's network configuration outside the datapath: links, routes,
//! neighbours and sysctls.
//!
//! [`desired`] computes the actions from the desired and the observed state,
//! and [`changes`] decides when a sync is needed; both are pure. [`Host`] reads
//! the state and performs the actions.

pub mod changes;
pub mod desired;
pub mod uplinks;

use std::fmt;
use std::net::IpAddr;

use beeline_abi::Mac;
use beeline_kernel::kube_proxy::{self, Rules};
use beeline_kernel::netlink::{Address, Link, Neighbour, Netlink, Route};
use beeline_kernel::sysctl;

/// The observed state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Devices.
    pub links: Vec<Link>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes of all tables.
    pub routes: Vec<Route>,
    /// Neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// One action. The device's name is used for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the kernel calls them")]
pub enum Action {
    SetMac { ifindex: u32, name: String, mac: Mac },
    SetUp { ifindex: u32, name: String },
    SetRoute { route: Route, name: String },
    DeleteRoute { route: Route },
    SetNeighbour { ifindex: u32, name: String, ip: IpAddr, mac: Mac },
    DeleteLink { name: String },
}

impl Action {
    /// Kind of object, as a label value of the metric `beeline_repairs_total`.
    pub fn object(&self) -> &'static str {
        match self {
            Action::SetMac { .. } | Action::SetUp { .. } | Action::DeleteLink { .. } => "link",
            Action::SetRoute { .. } | Action::DeleteRoute { .. } => "route",
            Action::SetNeighbour { .. } => "neighbour",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::SetMac { name, mac, .. } => write!(f, "set MAC {mac} on {name}"),
            Action::SetUp { name, .. } => write!(f, "set {name} up"),
            Action::SetRoute { route, name } => match route.gateway {
                Some(gateway) => write!(f, "set route {} via {gateway} dev {name}", route.destination),
                None => write!(f, "set route {} dev {name}", route.destination),
            },
            Action::DeleteRoute { route } => write!(f, "remove route {route}"),
            Action::SetNeighbour { name, ip, mac, .. } => {
                write!(f, "set neighbour {ip} lladdr {mac} dev {name}")
            }
            Action::DeleteLink { name } => write!(f, "remove link {name}"),
        }
    }
}

/// The node's network stack. Blocking.
pub trait Host: Send {
    /// Lists everything.
    fn observe(&mut self) -> anyhow::Result<Observed>;
    /// A device by name. `None` if it does not exist.
    fn link(&mut self, name: &str) -> anyhow::Result<Option<Link>>;
    /// Performs the action. An object that already exists, or is already
    /// removed, is no error.
    fn act(&mut self, action: &Action) -> anyhow::Result<()>;
    /// The value of a sysctl. `None` if it does not exist.
    fn sysctl(&self, name: &str) -> anyhow::Result<Option<String>>;
    /// Writes a sysctl.
    fn set_sysctl(&mut self, name: &str, value: &str) -> anyhow::Result<()>;
    /// The rules left by kube-proxy.
    fn kube_proxy_rules(&self) -> anyhow::Result<Vec<Rules>>;
    /// The number of TCP connections translated by the host.
    fn translated_connections(&self) -> anyhow::Result<usize>;
}

/// The network namespace in which it was opened.
#[derive(Debug)]
pub struct KernelHost {
    netlink: Netlink,
}

impl KernelHost {
    /// Opens the network namespace of the calling thread. Sysctls are read and
    /// written in the namespace of the calling thread, so all threads of the
    /// agent must stay in the same one.
    pub fn open() -> anyhow::Result<KernelHost> {
        Ok(KernelHost { netlink: Netlink::open()? })
    }
}

impl Host for KernelHost {
    fn observe(&mut self) -> anyhow::Result<Observed> {
        Ok(Observed {
            links: self.netlink.links()?,
            addresses: self.netlink.addresses()?,
            routes: self.netlink.routes()?,
            neighbours: self.netlink.neighbours()?,
        })
    }

    fn link(&mut self, name: &str) -> anyhow::Result<Option<Link>> {
        match self.netlink.link(name) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::SetMac { ifindex, mac, .. } => self.netlink.set_mac(*ifindex, *mac)?,
            Action::SetUp { ifindex, .. } => self.netlink.set_up(*ifindex, true)?,
            Action::SetRoute { route, .. } => self.netlink.replace_route(route)?,
            Action::DeleteRoute { route } => self.netlink.delete_route(route)?,
            Action::SetNeighbour { ifindex, ip, mac, .. } => {
                self.netlink.set_neighbour(*ifindex, *ip, *mac)?
            }
            Action::DeleteLink { name } => self.netlink.delete_link(name)?,
        }
        Ok(())
    }

    fn sysctl(&self, name: &str) -> anyhow::Result<Option<String>> {
        match sysctl::get(name) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        Ok(sysctl::set(name, value)?)
    }

    fn kube_proxy_rules(&self) -> anyhow::Result<Vec<Rules>> {
        Ok(kube_proxy::rules()?)
    }

    fn translated_connections(&self) -> anyhow::Result<usize> {
        Ok(kube_proxy::translated_connections()?)
    }
}
