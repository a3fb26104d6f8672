//! Local pods: the calls of the CNI plugin.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use beeline_abi::{GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, Ip, Mac};
use beeline_api::{Allocation, ApiError, Attachment, ErrorKind};
use beeline_ipam::Moment;
use beeline_kernel::netlink::Link as Device;
use beeline_model::ObjectName;
use beeline_sync::Contents;
use tracing::{debug, info, warn};

use super::Engine;
use crate::configuration::MTU_DEFAULT;
use crate::endpoints::{Endpoint, Endpoints, Link, PodReference};
use crate::host::desired::{self, Desired, PodSide};
use crate::host::{Action, Observed};

type ApiResult<T> = Result<T, ApiError>;

impl Engine {
    /// Loads the attachments of the previous agent from disk, or recovers them
    /// from the endpoint table if the file is unusable.
    pub(super) fn load_endpoints(&mut self, actual: &Contents) -> anyhow::Result<()> {
        let observed = self.host.observe()?;
        let state = self.state.endpoints();
        let had_state = state.is_some();
        match Endpoints::load(state) {
            Ok(endpoints) if had_state || actual.endpoint.is_empty() => self.endpoints = endpoints,
            Ok(_) => self.recover_endpoints(actual, &observed),
            Err(error) => {
                self.state.discard_endpoints(&error);
                self.recover_endpoints(actual, &observed);
            }
        }
        self.remove_lost_pods(&observed);
        let committed: Vec<Endpoint> =
            self.endpoints.iter().filter(|endpoint| endpoint.link.is_some()).cloned().collect();
        for endpoint in &committed {
            self.program(endpoint);
        }
        info!("adopted {} local pods", committed.len());
        Ok(())
    }

    fn recover_endpoints(&mut self, actual: &Contents, observed: &Observed) {
        let entries: Vec<_> = actual.endpoint.iter().map(|(ip, value)| (IpAddr::from(*ip), *value)).collect();
        let device = |ifindex| {
            let link = observed.links.iter().find(|link| link.index == ifindex);
            link.filter(|link| desired::is_pod_link(link)).map(|link| link.name.clone())
        };
        self.endpoints.recover(&entries, device);
        let count = self.endpoints.iter().count();
        warn!(
            "the endpoint state file is missing or unusable; recovered {count} pods from the endpoint table"
        );
        self.save_endpoints_or_warn();
    }

    /// CNI ADD, first half: allocates the addresses.
    pub fn allocate(&mut self, attachment: &Attachment, pod: PodReference) -> ApiResult<Allocation> {
        let is_new = self.endpoints.get(attachment).is_err();
        let endpoint = self.endpoints.allocate(attachment, pod, self.pod_mtu(), now())?;
        if is_new && let Err(error) = self.save_endpoints() {
            self.endpoints.release(attachment, now());
            return Err(internal(format!(
                "cannot allocate an address for {}: {error:#}",
                describe(&endpoint)
            )));
        }
        let gateway = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => IpAddr::from(GATEWAY_IPV4),
            IpAddr::V6(_) => IpAddr::from(GATEWAY_IPV6),
        };
        Ok(Allocation {
            gateways: endpoint.addresses.iter().map(gateway).collect(),
            host_interface: endpoint.host_interface(),
            host_mac: GATEWAY_MAC.to_string(),
            mtu: endpoint.mtu,
            addresses: endpoint.addresses,
        })
    }

    /// CNI ADD, second half: attaches the programs, sets the device up, then
    /// writes the table entries. Undone on failure.
    pub fn commit(&mut self, attachment: &Attachment, link: Link) -> ApiResult<()> {
        let endpoint = self.endpoints.get(attachment)?.clone();
        let device = self.device_of(&endpoint, link.host_ifindex)?;
        let done = self.connect(&endpoint, &device, link);
        if let Err(error) = done {
            self.disconnect(&Endpoint { link: Some(link), ..endpoint });
            return Err(error);
        }
        let addresses = endpoint.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        info!("connected {}: {addresses} on {}", describe(&endpoint), device.name);
        Ok(())
    }

    fn device_of(&mut self, endpoint: &Endpoint, ifindex: u32) -> ApiResult<Device> {
        let name = endpoint.host_interface();
        match self.host.link(&name) {
            Ok(Some(link)) if link.index == ifindex => Ok(link),
            Ok(Some(link)) => Err(ApiError {
                kind: ErrorKind::Invalid,
                message: format!("device {name} has index {}, but the plugin sent {ifindex}", link.index),
            }),
            Ok(None) => Err(ApiError {
                kind: ErrorKind::Invalid,
                message: format!(
                    "device {name} does not exist on this node; check that the plugin runs in the node's network \
                 namespace"
                ),
            }),
            Err(error) => Err(internal(format!("cannot read device {name}: {error:#}"))),
        }
    }

    fn connect(&mut self, endpoint: &Endpoint, device: &Device, link: Link) -> ApiResult<()> {
        let failed =
            |error: anyhow::Error| internal(format!("cannot connect {}: {error:#}", describe(endpoint)));
        self.datapath.attach_pod(link.host_ifindex).map_err(failed)?;
        let ipv6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
        self.set_pod_sysctls(&device.name, ipv6).map_err(failed)?;
        for action in self.actions_for(endpoint, device, link) {
            debug!("{action}");
            self.host.act(&action).map_err(failed)?;
        }
        let committed = self.endpoints.commit(&endpoint.attachment, link)?;
        self.save_endpoints().map_err(failed)?;
        self.program(&committed);
        self.sync_tables();
        match committed.addresses.iter().find(|ip| !self.reconciler.endpoint_is_written(Ip::from(**ip))) {
            None => Ok(()),
            Some(ip) => {
                let problems = self.reconciler.problems().into_iter().map(|problem| problem.message);
                let why = problems.collect::<Vec<_>>().join("; ");
                Err(internal(format!(
                    "cannot connect {}: {ip} is not in the endpoint table: {why}",
                    describe(endpoint)
                )))
            }
        }
    }

    fn actions_for(&self, endpoint: &Endpoint, device: &Device, link: Link) -> Vec<Action> {
        let pod = PodSide {
            name: device.name.clone(),
            addresses: endpoint.addresses.clone(),
            pod_mac: Mac(link.pod_mac),
        };
        let desired = Desired { pods: vec![pod], node_ips: self.node_ips(), ..Desired::default() };
        let observed = Observed {
            links: vec![device.clone()],
            addresses: self.own_addresses.clone(),
            ..Observed::default()
        };
        desired::actions(&desired, &observed)
    }

    /// Adds the endpoint's table entries; written by the next
    /// [`Engine::sync_tables`].
    fn program(&mut self, endpoint: &Endpoint) {
        if let Some(value) = endpoint.value() {
            endpoint.addresses.iter().for_each(|ip| self.planner.set_endpoint(*ip, value));
            self.planner.set_namespace(value.netns_cookie, object_name(endpoint));
        }
    }

    /// Removes the endpoint's table entries, detaches its programs and unlinks
    /// it.
    fn disconnect(&mut self, endpoint: &Endpoint) {
        endpoint.addresses.iter().for_each(|ip| self.planner.remove_endpoint(*ip));
        if let Some(link) = endpoint.link {
            self.planner.remove_namespace(link.netns_cookie, &object_name(endpoint));
        }
        self.sync_tables();
        if let Some(link) = endpoint.link
            && let Err(error) = self.datapath.detach(link.host_ifindex)
        {
            warn!("{}: cannot detach the programs from its device: {error:#}", describe(endpoint));
        }
        self.endpoints.unlink(&endpoint.attachment);
    }

    /// CNI DEL: removes the table entries, then the device, then releases the
    /// addresses.
    pub fn release(&mut self, attachment: &Attachment) -> ApiResult<()> {
        let Ok(endpoint) = self.endpoints.get(attachment).cloned() else { return Ok(()) };
        self.disconnect(&endpoint);
        // Usually removed already. A remaining device would keep using released
        // addresses.
        if let Err(error) = self.host.act(&Action::DeleteLink { name: endpoint.host_interface() }) {
            return Err(internal(format!("cannot release {}: {error:#}", describe(&endpoint))));
        }
        self.endpoints.release(attachment, now());
        self.save_endpoints_or_warn();
        info!("released {}", describe(&endpoint));
        Ok(())
    }

    /// CNI GC.
    pub fn collect(&mut self, valid: &[Attachment]) -> ApiResult<()> {
        let stale = self.endpoints.except(valid);
        let failed: Vec<String> = stale
            .iter()
            .filter_map(|attachment| self.release(attachment).err())
            .map(|error| error.message)
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(internal(failed.join("; "))) }
    }

    /// CNI CHECK.
    pub fn check(&mut self, attachment: &Attachment) -> ApiResult<()> {
        let endpoint = self.endpoints.get(attachment)?.clone();
        let mismatch = |what: String| ApiError {
            kind: ErrorKind::Mismatch,
            message: format!("{}: {what}; delete the pod to have it recreated", describe(&endpoint)),
        };
        let Some(link) = endpoint.link else {
            return Err(mismatch("its interface was never connected, or was removed".to_owned()));
        };
        let observed = self.host.observe().map_err(|error| internal(format!("{error:#}")))?;
        let name = endpoint.host_interface();
        let device =
            observed.links.iter().find(|device| device.name == name && device.index == link.host_ifindex);
        let Some(device) = device else { return Err(mismatch(format!("device {name} no longer exists"))) };
        let attached = self.datapath.attached().iter().filter(|a| a.ifindex == link.host_ifindex).count();
        if attached < 2 {
            return Err(mismatch(format!("the programs are not attached to {name}")));
        }
        let pod = PodSide {
            name: device.name.clone(),
            addresses: endpoint.addresses.clone(),
            pod_mac: Mac(link.pod_mac),
        };
        let desired = Desired { pods: vec![pod], node_ips: self.node_ips(), ..Desired::default() };
        if let Some(action) = desired::actions(&desired, &observed).first() {
            return Err(mismatch(format!("differs from the desired state, required: {action}")));
        }
        match endpoint.addresses.iter().find(|ip| !self.reconciler.endpoint_is_written(Ip::from(**ip))) {
            Some(ip) => Err(mismatch(format!("{ip} is not in the endpoint table"))),
            None => Ok(()),
        }
    }

    /// Removes pods whose device was removed before CNI DEL: the interface
    /// index may be reused by another device.
    pub(super) fn remove_lost_pods(&mut self, observed: &Observed) {
        self.own_addresses = observed.addresses.clone();
        let exists = |endpoint: &Endpoint, link: Link| {
            let name = endpoint.host_interface();
            observed.links.iter().any(|device| device.index == link.host_ifindex && device.name == name)
        };
        let lost: Vec<Endpoint> = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.link.is_some_and(|link| !exists(endpoint, link)))
            .cloned()
            .collect();
        for endpoint in &lost {
            info!(
                "{}: its device {} was removed; waiting for CNI DEL",
                describe(endpoint),
                endpoint.host_interface()
            );
            self.disconnect(endpoint);
        }
        if !lost.is_empty() {
            self.save_endpoints_or_warn();
        }
    }

    /// Processes CNI DELs that arrived while the agent was down. Each file is
    /// read and released under the engine's lock, so that an ADD of the same
    /// attachment is ordered before or after it.
    pub(super) fn read_deletion_queue(&mut self) {
        let Ok(files) = fs::read_dir(&self.deletion_queue) else { return };
        for file in files.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "json")) {
            self.release_from_deletion_queue(&file.path());
        }
    }

    fn release_from_deletion_queue(&mut self, path: &Path) {
        let read = fs::read(path).map_err(anyhow::Error::from);
        match read.and_then(|bytes| Ok(serde_json::from_slice::<Attachment>(&bytes)?)) {
            Ok(attachment) => match self.release(&attachment) {
                Ok(()) => drop(fs::remove_file(path)),
                Err(error) => warn!("{error}; retrying"),
            },
            Err(error) => {
                warn!("cannot read the CNI DEL record {}: {error:#}; removing it", path.display());
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The MTU of a new pod, in bytes.
    pub(super) fn pod_mtu(&self) -> u32 {
        let uplinks = self.uplinks.iter().map(|uplink| uplink.mtu).min();
        self.configuration.values.mtu.or(uplinks).unwrap_or(MTU_DEFAULT)
    }

    fn save_endpoints(&self) -> anyhow::Result<()> {
        self.state.set_endpoints(&self.endpoints.to_state())
    }

    pub(super) fn save_endpoints_or_warn(&self) {
        if let Err(error) = self.save_endpoints() {
            warn!("{error:#}; after a restart the agent would load an older state");
        }
    }
}

fn object_name(endpoint: &Endpoint) -> ObjectName {
    ObjectName { namespace: endpoint.pod.namespace.clone(), name: endpoint.pod.name.clone() }
}

/// Pod, container and interface of the endpoint, for messages.
fn describe(endpoint: &Endpoint) -> String {
    let Attachment { container_id, interface } = &endpoint.attachment;
    let container = match interface.is_empty() {
        true => container_id.clone(),
        false => format!("{container_id} {interface}"),
    };
    match endpoint.pod.name.is_empty() {
        true => format!("container {container}"),
        false => format!("pod {}/{} ({container})", endpoint.pod.namespace, endpoint.pod.name),
    }
}

fn internal(message: String) -> ApiError {
    ApiError { kind: ErrorKind::Internal, message }
}

fn now() -> Moment {
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}
