//! What cannot be used or done: in words for the status and the log, and as
//! changes for those who tell it on the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use beeline_model::{Change, Kind, ObjectName, Problem, Reason};
use beeline_source::{ProblemChanges, Update};
use tracing::{info, warn};

use super::Engine;
use crate::sockets::Sockets;

/// A slice may be without its Service for this long: it is listed first, or
/// Kubernetes has yet to collect it.
const STRAY_AFTER: Duration = Duration::from_secs(10);

/// What is known about problems beside those who have them.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Told by the source, by object.
    source: BTreeMap<(Kind, ObjectName), Vec<Problem>>,
    /// Slices without their Service, and since when.
    strays: BTreeMap<ObjectName, Instant>,
    /// In the log as lasting.
    logged: BTreeSet<String>,
    /// With those who tell them on the objects.
    passed_on: BTreeSet<Problem>,
    /// To be passed on.
    changes: ProblemChanges,
}

impl Problems {
    /// Takes in what the source says is wrong with an object.
    pub(super) fn note(&mut self, update: &Update) {
        let about = match &update.change {
            Some(Change::Apply(object)) => Some((object.kind(), object.name())),
            Some(Change::Delete(kind, name)) => {
                self.forget(*kind, name);
                Some((*kind, name.clone()))
            }
            Some(Change::ResetStart(kind)) => {
                self.source.retain(|(of, _), _| of != kind);
                None
            }
            Some(Change::ResetEnd(_)) => None,
            None => update.problems.first().map(|problem| (problem.kind, problem.name.clone())),
        };
        if let Some(about) = about {
            self.source.remove(&about);
            if !update.problems.is_empty() {
                self.source.insert(about, update.problems.clone());
            }
        }
    }

    /// The object is gone. One that comes in its place is another, even if it
    /// has the same problems.
    fn forget(&mut self, kind: Kind, name: &ObjectName) {
        // The first reason there is, so that the set is read from here on.
        let reason = Reason::ObjectUnreadable;
        let first = Problem { kind, name: name.clone(), reason, message: String::new() };
        let of_object = |problem: &&Problem| problem.kind == kind && problem.name == *name;
        let gone: Vec<Problem> = self.passed_on.range(first..).take_while(of_object).cloned().collect();
        for problem in gone {
            self.passed_on.remove(&problem);
            self.changes.resolved.push(problem);
        }
    }

    fn note_strays(&mut self, problems: &[Problem], now: Instant) {
        let strays = problems.iter().filter(|problem| problem.reason == Reason::ServiceMissing);
        let strays: BTreeSet<&ObjectName> = strays.map(|problem| &problem.name).collect();
        self.strays.retain(|name, _| strays.contains(name));
        for name in strays {
            self.strays.entry(name.clone()).or_insert(now);
        }
    }

    /// Is it more than a passing moment?
    fn lasts(&self, problem: &Problem, now: Instant) -> bool {
        let is_long = |since: &Instant| now.saturating_duration_since(*since) >= STRAY_AFTER;
        problem.reason != Reason::ServiceMissing || self.strays.get(&problem.name).is_some_and(is_long)
    }

    fn pass_on(&mut self, now: BTreeSet<Problem>) {
        self.changes.resolved.extend(self.passed_on.difference(&now).cloned());
        self.changes.added.extend(now.difference(&self.passed_on).cloned());
        self.passed_on = now;
    }
}

impl Engine {
    /// Everything that cannot be used or done, in words.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        self.in_words(&self.object_problems(self.planner.problems(), Instant::now()))
    }

    fn in_words(&self, of_objects: &BTreeSet<Problem>) -> BTreeSet<String> {
        let objects = of_objects.iter().map(ToString::to_string);
        let sync = self.reconciler.problems().into_iter().map(|problem| problem.message);
        let sockets = self.sockets.iter().flat_map(Sockets::problems);
        let take_over = self.take_over.problems();
        objects
            .chain(sync)
            .chain(sockets)
            .chain(take_over)
            .chain(self.host_problems.iter().cloned())
            .collect()
    }

    /// Problems of objects of the cluster, as the planner and the source have
    /// found them.
    fn object_problems(&self, planned: Vec<Problem>, now: Instant) -> BTreeSet<Problem> {
        let planned = planned.into_iter().filter(|problem| self.problems.lasts(problem, now));
        self.problems.source.values().flatten().cloned().chain(planned).collect()
    }

    /// Problems of this node itself, as its Node object bears them: in words
    /// that last as long as the problem.
    fn own_problems(&self) -> impl Iterator<Item = Problem> {
        let host = self.host_problems.iter().map(|message| (Reason::HostNetwork, message.clone()));
        let sockets = self.sockets.iter().flat_map(Sockets::problems);
        let sockets = sockets.map(|message| (Reason::SocketsRemain, message));
        let tables: BTreeSet<&str> =
            self.reconciler.problems().into_iter().map(|problem| problem.table).collect();
        let tables = tables.into_iter().map(|table| {
            let message = format!(
                "table {} of the datapath lacks entries or cannot be read; `beeline status` tells how many and why",
                table.to_lowercase()
            );
            (Reason::TableIncomplete, message)
        });
        let kube_proxy = (!self.take_over.problems().is_empty()).then(|| {
            let message = "kube-proxy has left rules on this node; `beeline status` tells which, how many \
                           connections run through them, and how to remove them";
            (Reason::KubeProxyLeftovers, message.to_owned())
        });
        let all = host.chain(sockets).chain(tables).chain(kube_proxy);
        all.map(|(reason, message)| self.own_problem(reason, message))
    }

    fn own_problem(&self, reason: Reason, message: String) -> Problem {
        let name = ObjectName::cluster(&self.configuration.node_name);
        Problem { kind: Kind::Node, name, reason, message }
    }

    /// Logs problems once when they come and once when they go, and passes
    /// them on.
    pub(super) fn tell_problems(&mut self, now: Instant) {
        let planned = self.planner.problems();
        self.problems.note_strays(&planned, now);
        let of_objects = self.object_problems(planned, now);
        let words = self.in_words(&of_objects);
        words.difference(&self.problems.logged).for_each(|problem| warn!("{problem}"));
        self.problems.logged.difference(&words).for_each(|problem| info!("no longer: {problem}"));
        self.problems.logged = words;
        self.problems.pass_on(self.for_objects(of_objects));
    }

    /// What is told on which object: problems of this node on its own Node,
    /// those with many others in one, or a cluster of many networks would have
    /// an event for every pair of nodes.
    fn for_objects(&self, mut problems: BTreeSet<Problem>) -> BTreeSet<Problem> {
        let all = problems.len();
        problems.retain(|problem| problem.reason != Reason::NoDirectRoute);
        let without_routes = problems.len() < all;
        problems.extend(self.own_problems());
        problems.extend(without_routes.then(|| {
            let message = "this node has no direct route to PodCIDRs of other nodes and leaves their packets to its \
                           own routes; `beeline status` tells to which, why, and what to do";
            self.own_problem(Reason::NoDirectRoute, message.to_owned())
        }));
        problems
    }

    /// What has changed about the problems of objects since the last call;
    /// none: nothing.
    pub fn take_problem_changes(&mut self) -> Option<ProblemChanges> {
        if self.problems.changes.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.problems.changes);
        Some(ProblemChanges { nodes: self.planner.node_count(), ..changes })
    }
}
