//! Which pods of this node have their sockets translated.

use std::collections::{BTreeMap, HashMap};

use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_model::{ObjectName, Pod};

/// A pod is named by the CNI plugin, with its namespace's cookie, and by the
/// API server, with what it wants; either may come first. What is not known to
/// both is left alone: packets are translated always.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Cookies of attached pods. The pod of a name may have been made anew
    /// while the last one is taken down.
    cookies: HashMap<u64, ObjectName>,
    /// Pods that have their sockets translated.
    willing: HashMap<ObjectName, bool>,
    changes: BTreeMap<u64, Option<NamespaceValue>>,
}

impl Namespaces {
    pub(crate) fn apply(&mut self, pod: &Pod) {
        let is_willing = !pod.packets_only && !pod.host_network;
        if self.willing.insert(pod.name.clone(), is_willing) != Some(is_willing) {
            self.touch(&pod.name);
        }
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        if self.willing.remove(name).is_some() {
            self.touch(name);
        }
    }

    pub(crate) fn attach(&mut self, cookie: u64, name: ObjectName) {
        self.cookies.insert(cookie, name.clone());
        self.touch(&name);
    }

    pub(crate) fn detach(&mut self, cookie: u64) {
        if self.cookies.remove(&cookie).is_some() {
            self.changes.insert(cookie, None);
        }
    }

    pub(crate) fn drain(&mut self) -> BTreeMap<u64, Option<NamespaceValue>> {
        std::mem::take(&mut self.changes)
    }

    fn touch(&mut self, name: &ObjectName) {
        let is_willing = self.willing.get(name) == Some(&true);
        let value = is_willing.then_some(NamespaceValue { flags: namespace_flags::SOCKETS, reserved: 0 });
        let cookies = self.cookies.iter().filter(|(_, of)| *of == name);
        self.changes.extend(cookies.map(|(cookie, _)| (*cookie, value)));
    }
}
