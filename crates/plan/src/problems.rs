//! What is wrong with which object, kept per object so that a change of one
//! replaces its own words only.

use std::collections::BTreeMap;

use beeline_model::{Kind, ObjectName, Problem};

type Words = BTreeMap<(Kind, ObjectName), Vec<String>>;

#[derive(Debug, Default)]
pub(crate) struct Book {
    problems: Words,
    not_built: Words,
}

impl Book {
    pub(crate) fn set_problems(&mut self, kind: Kind, name: &ObjectName, messages: Vec<String>) {
        set(&mut self.problems, kind, name, messages);
    }

    pub(crate) fn set_not_built(&mut self, kind: Kind, name: &ObjectName, messages: Vec<String>) {
        set(&mut self.not_built, kind, name, messages);
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        list(&self.problems)
    }

    pub(crate) fn not_built(&self) -> Vec<Problem> {
        list(&self.not_built)
    }
}

fn set(words: &mut Words, kind: Kind, name: &ObjectName, messages: Vec<String>) {
    if messages.is_empty() {
        words.remove(&(kind, name.clone()));
    } else {
        words.insert((kind, name.clone()), messages);
    }
}

fn list(words: &Words) -> Vec<Problem> {
    words
        .iter()
        .flat_map(|((kind, name), messages)| {
            messages.iter().map(|message| Problem {
                kind: *kind,
                name: name.clone(),
                message: message.clone(),
            })
        })
        .collect()
}
