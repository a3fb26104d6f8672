//! Which pods of this node have their sockets translated.

use std::collections::{BTreeMap, HashMap};

use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_model::{ObjectName, Pod};

/// What is known of the pods of a name.
#[derive(Debug, Default)]
struct PodSockets {
    /// It has its sockets translated; none: the API server has not told yet.
    enabled: Option<bool>,
    /// Cookies of those that are attached: one may have been made anew while
    /// the last one is taken down.
    cookies: Vec<u64>,
}

/// A pod is named by the CNI plugin, with its namespace's cookie, and by the
/// API server, with what it wants; either may come first. What is not known to
/// both is left alone: packets are translated always.
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
