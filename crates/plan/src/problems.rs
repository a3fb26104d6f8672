//! What is wrong with which object, kept per object so that a change of one
//! replaces its own words only.

use std::collections::BTreeMap;

use beeline_model::{Kind, ObjectName, Problem, Reason};

/// A class of problem, and what is to be said.
pub(crate) type Complaint = (Reason, String);

type PerObject<T> = BTreeMap<(Kind, ObjectName), Vec<T>>;

#[derive(Debug, Default)]
pub(crate) struct Book {
    problems: PerObject<Complaint>,
    not_built: PerObject<String>,
    /// Names of slices by the Service that they name and that is not there.
    strays: BTreeMap<ObjectName, Vec<Box<str>>>,
}

impl Book {
    pub(crate) fn set_problems(&mut self, kind: Kind, name: &ObjectName, complaints: Vec<Complaint>) {
        set(&mut self.problems, kind, name, complaints);
    }

    pub(crate) fn set_not_built(&mut self, kind: Kind, name: &ObjectName, messages: Vec<String>) {
        set(&mut self.not_built, kind, name, messages);
    }

    /// These slices name a Service that is not there; none: it is, or nobody
    /// asks for it.
    pub(crate) fn set_strays(&mut self, service: &ObjectName, slices: Vec<Box<str>>) {
        match slices.is_empty() {
            true => drop(self.strays.remove(service)),
            false => drop(self.strays.insert(service.clone(), slices)),
        }
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let of_objects = self.problems.iter().flat_map(|((kind, name), complaints)| {
            complaints.iter().map(|(reason, message)| Problem {
                kind: *kind,
                name: name.clone(),
                reason: *reason,
                message: message.clone(),
            })
        });
        let strays = self.strays.iter().flat_map(|(service, slices)| {
            slices.iter().map(move |slice| Problem {
                kind: Kind::EndpointSlice,
                name: ObjectName::new(&service.namespace, &**slice),
                reason: Reason::ServiceMissing,
                message: format!(
                    "its Service {service} does not exist, so nobody is served by it; create the Service, \
                     correct the label kubernetes.io/service-name, or delete the slice"
                ),
            })
        });
        of_objects.chain(strays).collect()
    }

    /// Objects and what of them is not built.
    pub(crate) fn not_built(&self) -> Vec<String> {
        let notes = self.not_built.iter();
        notes
            .flat_map(|((kind, name), notes)| {
                notes.iter().map(move |note| format!("{kind:?} {name}: {note}"))
            })
            .collect()
    }
}

fn set<T>(words: &mut PerObject<T>, kind: Kind, name: &ObjectName, said: Vec<T>) {
    if said.is_empty() {
        words.remove(&(kind, name.clone()));
    } else {
        words.insert((kind, name.clone()), said);
    }
}
