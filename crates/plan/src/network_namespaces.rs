//! The network namespaces of this node's pods whose sockets are translated
//! (socket load balancing).

use std::collections::{BTreeMap, HashMap};

use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_model::{ObjectName, Pod};

/// State of the pods with one name.
#[derive(Debug, Default)]
struct PodSockets {
    /// Socket translation is enabled. None: the Pod object is not known yet.
    enabled: Option<bool>,
    /// Cookies of the attached network namespaces: a new pod of the same name
    /// may be attached before the old one is removed.
    cookies: Vec<u64>,
}

/// The CNI plugin reports a pod's network namespace cookie; the API server
/// reports whether the pod opts out. Either may come first. Sockets are
/// translated only when both are known; packets are translated in any case.
#[derive(Debug, Default)]
pub(crate) struct NetworkNamespaces {
    pods: HashMap<ObjectName, PodSockets>,
    changes: BTreeMap<u64, Option<NamespaceValue>>,
}

impl NetworkNamespaces {
    pub(crate) fn apply(&mut self, pod: &Pod) {
        self.set_enabled(&pod.name, Some(!pod.packets_only && !pod.host_network));
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        self.set_enabled(name, None);
    }

    pub(crate) fn attach(&mut self, cookie: u64, name: ObjectName) {
        let sockets = self.pods.entry(name).or_default();
        if !sockets.cookies.contains(&cookie) {
            sockets.cookies.push(cookie);
        }
        self.changes.insert(cookie, value(sockets.enabled));
    }

    pub(crate) fn detach(&mut self, cookie: u64, name: &ObjectName) {
        let Some(sockets) = self.pods.get_mut(name) else { return };
        sockets.cookies.retain(|other| *other != cookie);
        self.changes.insert(cookie, None);
        self.remove_if_unused(name);
    }

    pub(crate) fn drain(&mut self) -> BTreeMap<u64, Option<NamespaceValue>> {
        std::mem::take(&mut self.changes)
    }

    fn set_enabled(&mut self, name: &ObjectName, enabled: Option<bool>) {
        let sockets = self.pods.entry(name.clone()).or_default();
        if std::mem::replace(&mut sockets.enabled, enabled) != enabled {
            self.changes.extend(sockets.cookies.iter().map(|cookie| (*cookie, value(enabled))));
        }
        self.remove_if_unused(name);
    }

    fn remove_if_unused(&mut self, name: &ObjectName) {
        if self.pods.get(name).is_some_and(|sockets| sockets.enabled.is_none() && sockets.cookies.is_empty())
        {
            self.pods.remove(name);
        }
    }
}

fn value(enabled: Option<bool>) -> Option<NamespaceValue> {
    let translated = NamespaceValue { flags: namespace_flags::SOCKETS, reserved: 0 };
    (enabled == Some(true)).then_some(translated)
}
