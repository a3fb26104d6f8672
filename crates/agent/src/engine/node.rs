//! This node: uplinks, routes, sysctls, and the configuration of its programs.

use std::net::IpAddr;

use beeline_abi::ABI_VERSION;
use beeline_abi::config::{ConfigValue, flags as config_flags};
use beeline_kernel::netlink::Change;
use beeline_kernel::sysctl::SavedSetting;
use tracing::{info, warn};

use super::{Cause, Engine};
use crate::host::desired::{self, Desired, PodSide};
use crate::host::uplinks::{self, Uplink};
use crate::host::{Action, Observed, changes};
use crate::snat_ports::{self, NatPorts};

/// Sysctls of the node and their values, in the order in which they are set.
const FORWARDING: &[(&str, &str)] = &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

impl Engine {
    /// Handles changes of Nodes: pod CIDRs, configuration, routes.
    pub(super) fn sync_nodes(&mut self) {
        let own = self.planner.own_node();
        let is_new = own.is_some() && own != self.own;
        if is_new {
            self.own = own;
            self.sync_own_node();
        }
        if !is_new && self.node_revision == Some(self.planner.node_revision()) {
            return;
        }
        if let Err(error) = self.sync_host(Cause::Change) {
            warn!("cannot read the node's network configuration: {error:#}; retrying");
        }
        // Read again: `sync_host` passes the subnets of the uplinks to the
        // planner, which may have changed the revision.
        self.node_revision = Some(self.planner.node_revision());
    }

    fn sync_own_node(&mut self) {
        let Some(own) = self.own.clone() else { return };
        let before = self.endpoints.pools();
        for problem in self.endpoints.set_pools(&own.pod_cidrs) {
            warn!("node {}: {problem}", self.configuration.node_name);
        }
        let pools = self.endpoints.pools();
        if pools != before {
            let text = pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            info!("pod CIDRs of this node: {text}");
            self.save_endpoints_or_warn();
        }
        if let Err(error) = self.publish_config() {
            warn!("{error:#}; retrying when the Node changes");
        }
    }

    /// Publishes the configuration of the programs. Until this Node is known,
    /// the values of the previous agent stay. Returns true if another process
    /// changed the published configuration.
    pub(super) fn publish_config(&mut self) -> anyhow::Result<bool> {
        let current = self.datapath.config()?;
        let nat = self.nat_ports();
        let mut config = ConfigValue {
            netns_cookie: self.netns_cookie,
            nat_port_first: *nat.ports.start(),
            nat_port_last: *nat.ports.end(),
            ..ConfigValue::defaults()
        };
        if current.abi_version == ABI_VERSION {
            let ConfigValue { node, node_ipv4, node_ipv6, .. } = current;
            config = ConfigValue { node, node_ipv4, node_ipv6, ..config };
        }
        if let Some(own) = self.own.as_ref().filter(|own| own.id != 0) {
            config = ConfigValue { node: own.id, node_ipv4: own.ipv4, node_ipv6: own.ipv6, ..config };
        }
        config.flags = self.config_flags();
        if config != current {
            self.datapath.set_config(&config)?;
        }
        let previous = self.published_config.replace(config);
        let is_drift = previous.is_some_and(|previous| previous != current);
        Ok(is_drift)
    }

    /// The ports available to SNAT, given the current sysctls.
    fn nat_ports(&self) -> NatPorts {
        let values = &self.configuration.values;
        let local = self.host.sysctl(snat_ports::LOCAL_PORTS).ok().flatten();
        snat_ports::choose(values.nat_ports.clone(), local.as_deref(), &values.node_port_range)
    }

    /// The configuration flags of the programs.
    fn config_flags(&self) -> u32 {
        let values = &self.configuration.values;
        let flag = |enabled: bool, flag: u32| if enabled { flag } else { 0 };
        flag(values.socket_lb_enabled && !values.socket_lb_host_only, config_flags::SOCKET_PODS)
            | flag(values.socket_lb_enabled && values.node_port, config_flags::NODE_PORT_LOOPBACK)
            | flag(self.take_over.is_active(), config_flags::TAKE_OVER)
            | flag(values.masquerade_ipv4, config_flags::MASQUERADE_IPV4)
            | flag(values.masquerade_ipv6, config_flags::MASQUERADE_IPV6)
    }

    /// Reads the host's network configuration and brings it to the desired
    /// state.
    pub fn sync_host(&mut self, cause: Cause) -> anyhow::Result<()> {
        let observed = self.host.observe()?;
        let mut problems = Vec::new();
        self.remove_lost_pods(&observed);
        self.sync_node_sysctls();
        self.choose_uplinks(&observed, &mut problems);
        self.sync_attachments(&observed, cause, &mut problems);
        let actions = desired::actions(&self.desired_host(), &observed);
        self.perform(&actions, cause, &mut problems);
        self.sync_pod_sysctls(&observed, cause, &mut problems);
        problems.extend(self.nat_ports().problem);
        self.host_problems = problems.into_iter().collect();
        Ok(())
    }

    /// Whether this change requires a sync of the host.
    pub fn needs_sync(&self, change: &Change) -> bool {
        changes::is_relevant(change, |ifindex| self.endpoints.on_device(ifindex))
    }

    /// This node's addresses from its Node object, or as published by the
    /// previous agent.
    pub(super) fn node_ips(&self) -> Vec<IpAddr> {
        let ips = match &self.own {
            Some(own) => [own.ipv4, own.ipv6],
            None => {
                let config = self.datapath.config().unwrap_or_default();
                [config.node_ipv4, config.node_ipv6]
            }
        };
        ips.into_iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::from).collect()
    }

    fn desired_host(&self) -> Desired {
        let committed = self.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.link?)));
        let pods = committed.map(|(endpoint, link)| PodSide {
            name: endpoint.host_interface(),
            addresses: endpoint.addresses.clone(),
            pod_mac: beeline_abi::Mac(link.pod_mac),
        });
        let routes = match self.configuration.values.auto_direct_node_routes {
            true => self.planner.routes(),
            false => Vec::new(),
        };
        let node_routes = routes
            .iter()
            .filter_map(|route| desired::node_route(route.prefix, route.next_hop, &self.uplinks))
            .collect();
        Desired {
            pods: pods.collect(),
            routes: node_routes,
            node_ips: self.node_ips(),
            complete: self.pruned,
        }
    }

    fn choose_uplinks(&mut self, observed: &Observed, problems: &mut Vec<String>) {
        let devices = &self.configuration.values.devices;
        let attached = self.datapath.attached();
        let before: Vec<u32> = attached
            .iter()
            .filter(|attached| attached.program == beeline_abi::maps::programs::FROM_UPLINK)
            .map(|attached| attached.ifindex)
            .collect();
        let mut ips = self.node_ips();
        ips.extend(self.own.iter().flat_map(|own| own.external_ips.clone()));
        let chosen = uplinks::choose(observed, devices, &ips, &before);
        for name in uplinks::missing(observed, devices) {
            problems.push(format!("device {name} from the value `devices` does not exist on this node"));
        }
        if chosen.is_empty() && self.planner.is_listed() {
            problems.push(
                "no uplink found: no device has a default route or an address of this node; set the value \
                 `devices`"
                    .to_owned(),
            );
        }
        if chosen != self.uplinks {
            log_uplinks(&self.uplinks, &chosen);
            self.uplinks = chosen;
            let subnets = self.uplinks.iter().flat_map(|uplink| uplink.subnets.clone()).collect();
            self.planner.set_on_link(Some(subnets));
            self.sync_tables();
        }
    }

    /// Attaches programs to every uplink and every committed pod device, and
    /// detaches them from all other devices.
    fn sync_attachments(&mut self, observed: &Observed, cause: Cause, problems: &mut Vec<String>) {
        let attached = self.datapath.attached();
        let programs_on =
            |ifindex: u32| attached.iter().filter(|attached| attached.ifindex == ifindex).count();
        let uplinks: Vec<(u32, String)> =
            self.uplinks.iter().map(|uplink| (uplink.ifindex, uplink.name.clone())).collect();
        let pods: Vec<(u32, String)> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint.link?.host_ifindex, endpoint.host_interface())))
            .collect();
        let mut done = 0;
        for (ifindex, name) in uplinks.iter().filter(|(ifindex, _)| programs_on(*ifindex) < 2) {
            match self.datapath.attach_uplink(*ifindex) {
                Ok(()) => done += 1,
                Err(error) => problems.push(format!("cannot attach programs to uplink {name}: {error:#}")),
            }
        }
        for (ifindex, name) in pods.iter().filter(|(ifindex, _)| programs_on(*ifindex) < 2) {
            match self.datapath.attach_pod(*ifindex) {
                Ok(()) => done += 1,
                Err(error) => {
                    problems.push(format!("cannot attach programs to pod device {name}: {error:#}"))
                }
            }
        }
        if cause == Cause::Repair && done > 0 {
            info!("restored: programs on {done} devices");
            self.count_repairs("attachment", done);
        }
        let is_pod = |ifindex: u32| {
            observed.links.iter().any(|link| link.index == ifindex && desired::is_pod_link(link))
        };
        let is_desired = |ifindex: u32| uplinks.iter().chain(&pods).any(|(desired, _)| *desired == ifindex);
        let mut stale: Vec<u32> = attached
            .iter()
            .map(|attached| attached.ifindex)
            .filter(|ifindex| !is_desired(*ifindex) && !is_pod(*ifindex))
            .collect();
        stale.dedup();
        for ifindex in stale {
            match self.datapath.detach(ifindex) {
                Ok(()) => info!("detached programs from device {ifindex}: no longer an uplink or pod device"),
                Err(error) => {
                    problems.push(format!("cannot detach programs from device {ifindex}: {error:#}"))
                }
            }
        }
    }

    /// Performs the actions. A failed action becomes a problem and is retried.
    pub(super) fn perform(&mut self, actions: &[Action], cause: Cause, problems: &mut Vec<String>) {
        for action in actions {
            match self.host.act(action) {
                Ok(()) if cause == Cause::Repair => {
                    info!("restored: {action}");
                    self.count_repairs(action.object(), 1);
                }
                Ok(()) => info!("applied: {action}"),
                Err(error) => problems.push(format!("cannot {action}: {error:#}")),
            }
        }
    }

    /// Enables forwarding. With forwarding enabled, a device ignores router
    /// advertisements unless `accept_ra` is 2, so that is set first on devices
    /// that accept them.
    pub(super) fn sync_node_sysctls(&mut self) {
        let desired_sysctls: Vec<(String, String)> =
            FORWARDING.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let is_forwarding = |host: &dyn crate::host::Host| {
            desired_sysctls.iter().all(|(name, value)| is_set(host, name, value))
        };
        if is_forwarding(&*self.host) {
            self.node_sysctls_set = true;
            return;
        }
        let advertised =
            self.uplink_names().into_iter().map(|name| format!("net.ipv6.conf.{name}.accept_ra"));
        let kept: Vec<(String, String)> = advertised
            .filter(|name| is_set(&*self.host, name, "1"))
            .map(|name| (name, "2".to_owned()))
            .collect();
        self.change_node_sysctls(kept.into_iter().chain(desired_sysctls).collect());
    }

    /// Devices that may accept router advertisements.
    fn uplink_names(&mut self) -> Vec<String> {
        let observed = self.host.observe().unwrap_or_default();
        let links = observed.links.iter().filter(|link| !link.loopback && !desired::is_pod_link(link));
        links.map(|link| link.name.replace('.', "/")).collect()
    }

    /// Writes sysctls that differ, after saving their previous values to disk.
    fn change_node_sysctls(&mut self, desired_sysctls: Vec<(String, String)>) {
        let mut previous = self.state.sysctls();
        let mut changes = Vec::new();
        for (name, value) in desired_sysctls {
            if let Ok(Some(before)) = self.host.sysctl(&name)
                && before != value
            {
                if !previous.iter().any(|known| known.name == name) {
                    previous.push(SavedSetting { name: name.clone(), value: before.clone() });
                }
                changes.push((name, before, value));
            }
        }
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.state.set_sysctls(&previous) {
            warn!("cannot save the previous sysctl values: {error:#}");
        }
        for (name, before, value) in changes {
            match self.host.set_sysctl(&name, &value) {
                Ok(()) => info!("changed sysctl {name} from {before} to {value}"),
                Err(error) => warn!("{error:#}; pods may be unreachable"),
            }
            if self.node_sysctls_set {
                self.count_repairs("sysctl", 1);
            }
        }
    }

    fn sync_pod_sysctls(&mut self, observed: &Observed, cause: Cause, problems: &mut Vec<String>) {
        let pods: Vec<(String, bool)> = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.link.is_some())
            .map(|endpoint| (endpoint.host_interface(), endpoint.addresses.iter().any(IpAddr::is_ipv6)))
            .filter(|(name, _)| observed.links.iter().any(|link| link.name == *name))
            .collect();
        for (name, ipv6) in pods {
            match self.set_pod_sysctls(&name, ipv6) {
                Ok(changed) if changed > 0 && cause == Cause::Repair => {
                    info!("restored: {changed} sysctls of {name}");
                    self.count_repairs("sysctl", changed);
                }
                Ok(_) => {}
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
    }

    /// Returns the number of changed sysctls.
    pub(super) fn set_pod_sysctls(&mut self, name: &str, ipv6: bool) -> anyhow::Result<u64> {
        let mut changed = 0;
        for (setting, value) in desired::pod_sysctls(name, ipv6) {
            if self.host.sysctl(&setting)?.is_some_and(|is| is != value) {
                self.host.set_sysctl(&setting, value)?;
                changed += 1;
            }
        }
        Ok(changed)
    }
}

fn is_set(host: &dyn crate::host::Host, name: &str, value: &str) -> bool {
    // A sysctl that does not exist (no IPv6) counts as set.
    !matches!(host.sysctl(name), Ok(Some(is)) if is != value)
}

fn log_uplinks(before: &[Uplink], now: &[Uplink]) {
    let index = |uplink: &Uplink| uplink.ifindex;
    for uplink in now.iter().filter(|uplink| !before.iter().any(|old| index(old) == index(uplink))) {
        let subnets = uplink.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        info!("uplink {} (index {}, MTU {}) on {subnets}", uplink.name, uplink.ifindex, uplink.mtu);
    }
    for uplink in before.iter().filter(|uplink| !now.iter().any(|new| index(new) == index(uplink))) {
        info!("{} is no longer an uplink", uplink.name);
    }
}
