//! Problems: messages for status and log, and changes that are published as
//! events on the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use beeline_model::{Change, Kind, ObjectName, Problem, Reason};
use beeline_source::{ProblemChanges, Update};
use tracing::{info, warn};

use super::Engine;
use crate::stale_sockets::SocketDestroyer;

/// Grace period for an EndpointSlice without its Service: the Service may be
/// listed later, or garbage collection is pending.
const ORPHAN_GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Problems and what was logged and published about them.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Problems found by the source, by object.
    from_source: BTreeMap<(Kind, ObjectName), Vec<Problem>>,
    /// EndpointSlices without their Service, and since when.
    orphans: BTreeMap<ObjectName, Instant>,
    /// Messages that were logged and not yet resolved.
    logged: BTreeSet<String>,
    /// Problems that were published as events and not yet resolved.
    published: BTreeSet<Problem>,
    /// Changes to be published.
    changes: ProblemChanges,
}

impl Problems {
    /// Records the problems of an update from the source.
    pub(super) fn record(&mut self, update: &Update) {
        let about = match &update.change {
            Some(Change::Apply(object)) => Some((object.kind(), object.name())),
            Some(Change::Delete(kind, name)) => {
                self.forget(*kind, name);
                Some((*kind, name.clone()))
            }
            Some(Change::ResetStart(kind)) => {
                self.from_source.retain(|(of, _), _| of != kind);
                None
            }
            Some(Change::ResetEnd(_)) => None,
            None => update.problems.first().map(|problem| (problem.kind, problem.name.clone())),
        };
        if let Some(about) = about {
            self.from_source.remove(&about);
            if !update.problems.is_empty() {
                self.from_source.insert(about, update.problems.clone());
            }
        }
    }

    /// The object was deleted. A new object of the same name has its own
    /// problems, even if they are equal.
    fn forget(&mut self, kind: Kind, name: &ObjectName) {
        // The least reason, as the start of the range.
        let reason = Reason::ObjectUnreadable;
        let first = Problem { kind, name: name.clone(), reason, message: String::new() };
        let of_object = |problem: &&Problem| problem.kind == kind && problem.name == *name;
        let resolved: Vec<Problem> = self.published.range(first..).take_while(of_object).cloned().collect();
        for problem in resolved {
            self.published.remove(&problem);
            self.changes.resolved.push(problem);
        }
    }

    fn record_orphans(&mut self, problems: &[Problem], now: Instant) {
        let orphans = problems.iter().filter(|problem| problem.reason == Reason::ServiceMissing);
        let orphans: BTreeSet<&ObjectName> = orphans.map(|problem| &problem.name).collect();
        self.orphans.retain(|name, _| orphans.contains(name));
        for name in orphans {
            self.orphans.entry(name.clone()).or_insert(now);
        }
    }

    /// Whether the problem has lasted longer than its grace period.
    fn is_reportable(&self, problem: &Problem, now: Instant) -> bool {
        let is_long = |since: &Instant| now.saturating_duration_since(*since) >= ORPHAN_GRACE_PERIOD;
        problem.reason != Reason::ServiceMissing || self.orphans.get(&problem.name).is_some_and(is_long)
    }

    fn publish(&mut self, now: BTreeSet<Problem>) {
        self.changes.resolved.extend(self.published.difference(&now).cloned());
        self.changes.added.extend(now.difference(&self.published).cloned());
        self.published = now;
    }
}

impl Engine {
    /// All problems, as messages.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        self.messages(&self.object_problems(self.planner.problems(), Instant::now()))
    }

    fn messages(&self, of_objects: &BTreeSet<Problem>) -> BTreeSet<String> {
        let objects = of_objects.iter().map(ToString::to_string);
        let sync = self.reconciler.problems().into_iter().map(|problem| problem.message);
        let sockets = self.sockets.iter().flat_map(SocketDestroyer::problems);
        let take_over = self.take_over.problems();
        objects
            .chain(sync)
            .chain(sockets)
            .chain(take_over)
            .chain(self.host_problems.iter().cloned())
            .collect()
    }

    /// Problems of cluster objects, found by the planner and the source.
    fn object_problems(&self, planned: Vec<Problem>, now: Instant) -> BTreeSet<Problem> {
        let planned = planned.into_iter().filter(|problem| self.problems.is_reportable(problem, now));
        self.problems.from_source.values().flatten().cloned().chain(planned).collect()
    }

    /// Problems of this node, for its Node object. Each message stays the same
    /// while the problem lasts.
    fn node_problems(&self) -> impl Iterator<Item = Problem> {
        let host = self.host_problems.iter().map(|message| (Reason::HostNetwork, message.clone()));
        let sockets = self.sockets.iter().flat_map(SocketDestroyer::problems);
        let sockets = sockets.map(|message| (Reason::SocketsRemain, message));
        let tables: BTreeSet<&str> =
            self.reconciler.problems().into_iter().map(|problem| problem.table).collect();
        let tables = tables.into_iter().map(|table| {
            let message = format!(
                "table {} of the datapath lacks entries or cannot be read; `beeline status` shows how many and why",
                table.to_lowercase()
            );
            (Reason::TableIncomplete, message)
        });
        let kube_proxy = (!self.take_over.problems().is_empty()).then(|| {
            let message = "kube-proxy has left rules on this node; `beeline status` shows which, how many connections \
                 use them, and how to remove them";
            (Reason::KubeProxyLeftovers, message.to_owned())
        });
        let all = host.chain(sockets).chain(tables).chain(kube_proxy);
        all.map(|(reason, message)| self.node_problem(reason, message))
    }

    fn node_problem(&self, reason: Reason, message: String) -> Problem {
        let name = ObjectName::cluster(&self.configuration.node_name);
        Problem { kind: Kind::Node, name, reason, message }
    }

    /// Logs each problem when it appears and when it is resolved, and queues
    /// changes for publishing.
    pub(super) fn report_problems(&mut self, now: Instant) {
        let planned = self.planner.problems();
        self.problems.record_orphans(&planned, now);
        let of_objects = self.object_problems(planned, now);
        let messages = self.messages(&of_objects);
        messages.difference(&self.problems.logged).for_each(|problem| warn!("{problem}"));
        self.problems.logged.difference(&messages).for_each(|problem| info!("resolved: {problem}"));
        self.problems.logged = messages;
        self.problems.publish(self.for_objects(of_objects));
    }

    /// The problems to publish per object. Problems of this node go to its
    /// Node. Missing routes are summarised in one problem: otherwise there
    /// could be an event for every pair of nodes.
    fn for_objects(&self, mut problems: BTreeSet<Problem>) -> BTreeSet<Problem> {
        let all = problems.len();
        problems.retain(|problem| problem.reason != Reason::NoDirectRoute);
        let without_routes = problems.len() < all;
        problems.extend(self.node_problems());
        problems.extend(without_routes.then(|| {
            let message = "this node has no direct route to the PodCIDRs of some nodes; packets to them follow the node's \
                 other routes; `beeline status` shows which nodes, why, and what to do";
            self.node_problem(Reason::NoDirectRoute, message.to_owned())
        }));
        problems
    }

    /// Changes of the problems of objects since the last call. `None` if there
    /// are none.
    pub fn take_problem_changes(&mut self) -> Option<ProblemChanges> {
        if self.problems.changes.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.problems.changes);
        Some(ProblemChanges { nodes: self.planner.node_count(), ..changes })
    }
}
