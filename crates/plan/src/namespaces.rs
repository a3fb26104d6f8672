//! Which pods of this node have their sockets translated.

use std::collections::{BTreeMap, HashMap};

use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_model::{ObjectName, Pod};

/// What is known of the pods of a name.
#[derive(Debug, Default)]
struct Known {
    /// It has its sockets translated; none: the API server has not told yet.
    is_willing: Option<bool>,
    /// Cookies of those that are attached: one may have been made anew while
    /// the last one is taken down.
    cookies: Vec<u64>,
}

/// A pod is named by the CNI plugin, with its namespace's cookie, and by the
/// API server, with what it wants; either may come first. What is not known to
/// both is left alone: packets are translated always.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    pods: HashMap<ObjectName, Known>,
    changes: BTreeMap<u64, Option<NamespaceValue>>,
}

impl Namespaces {
    pub(crate) fn apply(&mut self, pod: &Pod) {
        self.set_willing(&pod.name, Some(!pod.packets_only && !pod.host_network));
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        self.set_willing(name, None);
    }

    pub(crate) fn attach(&mut self, cookie: u64, name: ObjectName) {
        let known = self.pods.entry(name).or_default();
        if !known.cookies.contains(&cookie) {
            known.cookies.push(cookie);
        }
        self.changes.insert(cookie, value(known.is_willing));
    }

    pub(crate) fn detach(&mut self, cookie: u64, name: &ObjectName) {
        let Some(known) = self.pods.get_mut(name) else { return };
        known.cookies.retain(|of| *of != cookie);
        self.changes.insert(cookie, None);
        self.forget_if_unknown(name);
    }

    pub(crate) fn drain(&mut self) -> BTreeMap<u64, Option<NamespaceValue>> {
        std::mem::take(&mut self.changes)
    }

    fn set_willing(&mut self, name: &ObjectName, is_willing: Option<bool>) {
        let known = self.pods.entry(name.clone()).or_default();
        if std::mem::replace(&mut known.is_willing, is_willing) != is_willing {
            self.changes.extend(known.cookies.iter().map(|cookie| (*cookie, value(is_willing))));
        }
        self.forget_if_unknown(name);
    }

    fn forget_if_unknown(&mut self, name: &ObjectName) {
        if self.pods.get(name).is_some_and(|known| known.is_willing.is_none() && known.cookies.is_empty()) {
            self.pods.remove(name);
        }
    }
}

fn value(is_willing: Option<bool>) -> Option<NamespaceValue> {
    let translated = NamespaceValue { flags: namespace_flags::SOCKETS, reserved: 0 };
    (is_willing == Some(true)).then_some(translated)
}
