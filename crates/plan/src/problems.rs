//! Problems by object, so that a change of one object replaces only its own
//! problems.

use std::collections::BTreeMap;

use beeline_model::{Kind, ObjectName, Problem, Reason};

/// Reason and message of a problem.
pub(crate) type ProblemDetail = (Reason, String);

type PerObject<T> = BTreeMap<(Kind, ObjectName), Vec<T>>;

#[derive(Debug, Default)]
pub(crate) struct ProblemStore {
    problems: PerObject<ProblemDetail>,
    ignored_fields: PerObject<String>,
    /// Names of slices whose Service does not exist, by the name of that
    /// Service.
    orphaned_slices: BTreeMap<ObjectName, Vec<Box<str>>>,
}

impl ProblemStore {
    pub(crate) fn set_problems(&mut self, kind: Kind, name: &ObjectName, details: Vec<ProblemDetail>) {
        set(&mut self.problems, kind, name, details);
    }

    pub(crate) fn set_ignored_fields(&mut self, kind: Kind, name: &ObjectName, messages: Vec<String>) {
        set(&mut self.ignored_fields, kind, name, messages);
    }

    /// Sets the slices of a Service that does not exist. Empty: the Service
    /// exists, or has no slices.
    pub(crate) fn set_orphaned_slices(&mut self, service: &ObjectName, slices: Vec<Box<str>>) {
        match slices.is_empty() {
            true => drop(self.orphaned_slices.remove(service)),
            false => drop(self.orphaned_slices.insert(service.clone(), slices)),
        }
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let of_objects = self.problems.iter().flat_map(|((kind, name), details)| {
            details.iter().map(|(reason, message)| Problem {
                kind: *kind,
                name: name.clone(),
                reason: *reason,
                message: message.clone(),
            })
        });
        let orphaned_slices = self.orphaned_slices.iter().flat_map(|(service, slices)| {
            slices.iter().map(move |slice| Problem {
                kind: Kind::EndpointSlice,
                name: ObjectName::new(&service.namespace, &**slice),
                reason: Reason::ServiceMissing,
                message: format!(
                    "its Service {service} does not exist, so its endpoints are not used; create the Service, \
                     correct the label kubernetes.io/service-name, or delete the slice"
                ),
            })
        });
        of_objects.chain(orphaned_slices).collect()
    }

    /// Objects with their ignored fields.
    pub(crate) fn ignored_fields(&self) -> Vec<String> {
        self.ignored_fields
            .iter()
            .flat_map(|((kind, name), messages)| {
                messages.iter().map(move |message| format!("{kind:?} {name}: {message}"))
            })
            .collect()
    }
}

fn set<T>(objects: &mut PerObject<T>, kind: Kind, name: &ObjectName, values: Vec<T>) {
    if values.is_empty() {
        objects.remove(&(kind, name.clone()));
    } else {
        objects.insert((kind, name.clone()), values);
    }
}
