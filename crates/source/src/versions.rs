//! Which objects are programmed, and at which resource versions.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use beeline_model::{Kind, ObjectName};

/// The version change of one update. Small, so that it can be kept until the
/// update is programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionEvent {
    /// A listing starts.
    ListStart(Kind),
    /// The object with this hash exists at this version.
    Applied(Kind, u64, u64),
    /// The object with this hash was deleted at this version.
    Deleted(Kind, u64, u64),
    /// The listing is complete.
    ListEnd(Kind),
    /// No change.
    None,
}

impl VersionEvent {
    /// The object exists at this resourceVersion.
    pub fn applied(kind: Kind, name: &ObjectName, version: u64) -> VersionEvent {
        VersionEvent::Applied(kind, hash(name), version)
    }

    /// The object was deleted at this resourceVersion.
    pub fn deleted(kind: Kind, name: &ObjectName, version: u64) -> VersionEvent {
        VersionEvent::Deleted(kind, hash(name), version)
    }
}

/// The programmed versions, about 24 bytes per object.
#[derive(Debug, Default)]
pub struct SyncedVersions {
    kinds: [KindVersions; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct KindVersions {
    /// Version of the object, and the number of the last listing that contained
    /// it.
    objects: HashMap<u64, (u64, u32)>,
    /// Number of the current listing.
    listing: u32,
    /// A listing is complete and no other one is running.
    complete: bool,
    /// The highest version of any change.
    highest: u64,
}

impl SyncedVersions {
    /// Records that an update is programmed.
    pub fn record(&mut self, event: VersionEvent) {
        match event {
            VersionEvent::ListStart(kind) => {
                let versions = &mut self.kinds[kind as usize];
                versions.listing = versions.listing.wrapping_add(1);
                versions.complete = false;
            }
            VersionEvent::Applied(kind, hash, version) => {
                let versions = &mut self.kinds[kind as usize];
                versions.objects.insert(hash, (version, versions.listing));
                versions.highest = versions.highest.max(version);
            }
            VersionEvent::Deleted(kind, hash, version) => {
                let versions = &mut self.kinds[kind as usize];
                versions.objects.remove(&hash);
                versions.highest = versions.highest.max(version);
            }
            VersionEvent::ListEnd(kind) => {
                let versions = &mut self.kinds[kind as usize];
                let current = versions.listing;
                versions.objects.retain(|_, (_, listing)| *listing == current);
                versions.complete = true;
            }
            VersionEvent::None => {}
        }
    }

    /// Every kind has been listed in full.
    pub fn has_synced(&self) -> bool {
        self.kinds.iter().all(|versions| versions.complete)
    }

    /// Whether the object is programmed at this version or a later one. Also
    /// true if a later change of the same kind is: the API server sends changes
    /// in order, so an unknown object is then not one for this node.
    pub fn at_least(&self, kind: Kind, name: &ObjectName, version: u64) -> bool {
        let versions = &self.kinds[kind as usize];
        let known = versions.objects.get(&hash(name)).is_some_and(|(known, _)| *known >= version);
        known || versions.complete && versions.highest >= version
    }

    /// Whether the object does not exist.
    pub fn is_deleted(&self, kind: Kind, name: &ObjectName) -> bool {
        let versions = &self.kinds[kind as usize];
        versions.complete && !versions.objects.contains_key(&hash(name))
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
    fn unit_versions_are_tracked_through_listings_and_deletions() {
        let (web, api) = (ObjectName::new("default", "web"), ObjectName::new("default", "api"));
        let kind = Kind::Service;
        let mut versions = SyncedVersions::default();
        assert!(
            !versions.at_least(kind, &web, 1) && !versions.is_deleted(kind, &web),
            "nothing is known before a listing"
        );
        versions.record(VersionEvent::ListStart(kind));
        versions.record(VersionEvent::applied(kind, &web, 10));
        assert!(
            versions.at_least(kind, &web, 10) && !versions.at_least(kind, &api, 5),
            "a listing has no order"
        );
        versions.record(VersionEvent::ListEnd(kind));
        assert!(
            versions.is_deleted(kind, &api)
                && !versions.is_deleted(kind, &web)
                && !versions.at_least(kind, &web, 11)
        );
        versions.record(VersionEvent::applied(kind, &api, 12));
        assert!(versions.at_least(kind, &web, 11), "changes come in order");
        versions.record(VersionEvent::deleted(kind, &web, 13));
        assert!(versions.is_deleted(kind, &web) && !versions.is_deleted(kind, &api));
        versions.record(VersionEvent::ListStart(kind));
        versions.record(VersionEvent::applied(kind, &web, 14));
        versions.record(VersionEvent::ListEnd(kind));
        assert!(versions.is_deleted(kind, &api), "not listed means gone");
        assert!(!versions.has_synced(), "the other kinds have not been listed");
    }
}
