//! Which objects, at which versions, have been dealt with.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use beeline_model::{Kind, ObjectName};

/// A note about one update: small, so that it can wait until the update is
/// programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A listing begins.
    Start(Kind),
    /// The object with this hash is known at this version.
    Applied(Kind, u64, u64),
    /// The object with this hash is gone since this version.
    Deleted(Kind, u64, u64),
    /// The listing is complete.
    End(Kind),
    /// Nothing to note.
    Nothing,
}

impl Mark {
    /// The object exists at this resourceVersion.
    pub fn applied(kind: Kind, name: &ObjectName, version: u64) -> Mark {
        Mark::Applied(kind, hash(name), version)
    }

    /// The object is gone at this resourceVersion.
    pub fn deleted(kind: Kind, name: &ObjectName, version: u64) -> Mark {
        Mark::Deleted(kind, hash(name), version)
    }
}

/// The versions that were dealt with, 24 bytes or so per object.
#[derive(Debug, Default)]
pub struct Seen {
    kinds: [OfKind; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct OfKind {
    /// Version and number of the listing that last showed the object.
    objects: HashMap<u64, (u64, u32)>,
    /// Number of the current listing.
    listing: u32,
    /// A listing was completed and none is running.
    complete: bool,
    /// The highest version of any change.
    highest: u64,
}

impl Seen {
    /// Notes an update that has been dealt with.
    pub fn note(&mut self, mark: Mark) {
        match mark {
            Mark::Start(kind) => {
                let of = &mut self.kinds[kind as usize];
                of.listing = of.listing.wrapping_add(1);
                of.complete = false;
            }
            Mark::Applied(kind, hash, version) => {
                let of = &mut self.kinds[kind as usize];
                of.objects.insert(hash, (version, of.listing));
                of.highest = of.highest.max(version);
            }
            Mark::Deleted(kind, hash, version) => {
                let of = &mut self.kinds[kind as usize];
                of.objects.remove(&hash);
                of.highest = of.highest.max(version);
            }
            Mark::End(kind) => {
                let of = &mut self.kinds[kind as usize];
                let current = of.listing;
                of.objects.retain(|_, (_, listing)| *listing == current);
                of.complete = true;
            }
            Mark::Nothing => {}
        }
    }

    /// Every kind has been listed in full.
    pub fn complete(&self) -> bool {
        self.kinds.iter().all(|of| of.complete)
    }

    /// The object was dealt with at this version or a later one. Also true if
    /// a later change of its kind was: the server tells changes in order, so
    /// this one is over (and, if the object is not known, not for this node).
    pub fn at_least(&self, kind: Kind, name: &ObjectName, version: u64) -> bool {
        let of = &self.kinds[kind as usize];
        let known = of.objects.get(&hash(name)).is_some_and(|(known, _)| *known >= version);
        known || of.complete && of.highest >= version
    }

    /// The object is not there.
    pub fn gone(&self, kind: Kind, name: &ObjectName) -> bool {
        let of = &self.kinds[kind as usize];
        of.complete && !of.objects.contains_key(&hash(name))
    }
}

fn hash(name: &ObjectName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_versions_are_followed_through_listings_and_deletions() {
        let (web, api) = (ObjectName::new("default", "web"), ObjectName::new("default", "api"));
        let kind = Kind::Service;
        let mut seen = Seen::default();
        assert!(!seen.at_least(kind, &web, 1) && !seen.gone(kind, &web), "nothing is known before a listing");
        seen.note(Mark::Start(kind));
        seen.note(Mark::applied(kind, &web, 10));
        assert!(seen.at_least(kind, &web, 10) && !seen.at_least(kind, &api, 5), "a listing has no order");
        seen.note(Mark::End(kind));
        assert!(seen.gone(kind, &api) && !seen.gone(kind, &web) && !seen.at_least(kind, &web, 11));
        seen.note(Mark::applied(kind, &api, 12));
        assert!(seen.at_least(kind, &web, 11), "changes come in order");
        seen.note(Mark::deleted(kind, &web, 13));
        assert!(seen.gone(kind, &web) && !seen.gone(kind, &api));
        seen.note(Mark::Start(kind));
        seen.note(Mark::applied(kind, &web, 14));
        seen.note(Mark::End(kind));
        assert!(seen.gone(kind, &api), "not listed means gone");
        assert!(!seen.complete(), "the other kinds have not been listed");
    }
}
