//! A kind and its properties, and the set of served kinds.

use std::borrow::Cow;
use std::sync::Arc;

use beeline_apiserver_objects::KindNames;
use serde_json::Value;

use crate::custom::CustomResource;
use crate::describe::Definitions;

/// Deserializes an object as its type and serializes it again, which drops unknown fields.
pub(crate) type Prune = fn(&Value) -> Result<Value, String>;

/// One kind and its properties.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// Version within the group.
    pub version: Cow<'static, str>,
    /// Kind, such as `Pod`.
    pub kind: Cow<'static, str>,
    /// Plural name, such as `pods`.
    pub plural: Cow<'static, str>,
    /// Short names for kubectl.
    pub short_names: Vec<Cow<'static, str>>,
    /// Whether the kind is namespaced.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// Whether kubectl includes it in the category `all`.
    pub in_category_all: bool,
    /// Rule for names: RFC 1035 labels, RFC 1123 labels or RFC 1123 subdomains.
    pub(crate) name_rule: NameRule,
    /// Maximum number of objects; a new one replaces the oldest. For kinds whose objects nobody
    /// deletes.
    pub objects_max: Option<usize>,
    /// Drops unknown fields; none for custom kinds, which do that by their schema.
    pub prune: Option<Prune>,
    /// Adds its schema to the definitions and returns its name.
    pub describe: Option<fn(&mut Definitions) -> String>,
    /// Properties from a CustomResourceDefinition; none for built-in kinds.
    pub custom: Option<Arc<CustomResource>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    Label1035,
    Label1123,
    Subdomain1123,
    /// Any path segment, such as `system:masters`.
    PathSegment,
}

impl Kind {
    /// `apiVersion` of objects of this kind.
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The resource as in messages: `pods`, `deployments.apps`.
    pub fn resource(&self) -> String {
        match self.group.as_ref() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether it is the built-in kind with this plural. A custom kind may have the same plural in
    /// another group.
    pub fn is(&self, plural: &str) -> bool {
        self.built_in_plural() == plural
    }

    /// Plural of a built-in kind; empty for custom kinds, to which no built-in rule applies.
    pub fn built_in_plural(&self) -> &str {
        if self.custom.is_some() { "" } else { &self.plural }
    }

    /// Singular name, such as `pod`.
    pub fn singular(&self) -> Cow<'_, str> {
        match &self.custom {
            Some(custom) => Cow::Borrowed(&custom.singular),
            None => Cow::Owned(self.kind.to_lowercase()),
        }
    }

    /// Kind of lists, such as `PodList`.
    pub fn list_kind(&self) -> Cow<'_, str> {
        match &self.custom {
            Some(custom) => Cow::Borrowed(&custom.list_kind),
            None => Cow::Owned(format!("{}List", self.kind)),
        }
    }

    /// Categories for kubectl, such as `all`.
    pub fn categories(&self) -> Vec<&str> {
        match &self.custom {
            Some(custom) => custom.categories.iter().map(String::as_str).collect(),
            None if self.in_category_all => vec!["all"],
            None => Vec::new(),
        }
    }

    /// Paths that field selectors of a custom kind accept; none for built-in kinds.
    pub fn selectable(&self) -> Option<&[String]> {
        self.custom.as_ref().map(|custom| custom.selectable.as_slice())
    }

    /// Whether the status is an ordinary field, not a subresource.
    pub fn status_is_ordinary_field(&self) -> bool {
        self.custom.is_some() && !self.status
    }

    /// Converts a stored object to this version. Versions differ only in `apiVersion`.
    pub fn to_served_version(&self, object: &Arc<Value>) -> Arc<Value> {
        if self.custom.is_none() || object["apiVersion"] == self.api_version() {
            return object.clone();
        }
        let mut shown = Value::clone(object);
        shown["apiVersion"] = self.api_version().into();
        Arc::new(shown)
    }

    /// Converts an object to the storage version.
    pub fn to_storage(&self, mut object: Value) -> Value {
        if let Some(custom) = &self.custom {
            object["apiVersion"] = format!("{}/{}", self.group, custom.storage_version).into();
        }
        object
    }

    /// Whether `name` is one of its names: plural, singular, kind, short name or `plural.group`.
    fn has_name(&self, name: &str) -> bool {
        name == self.plural
            || name.eq_ignore_ascii_case(&self.kind)
            || name == self.singular()
            || self.short_names.iter().any(|short_name| short_name == name)
            || name == self.resource()
    }
}

impl KindNames for Kind {
    fn group(&self) -> &str {
        &self.group
    }

    fn kind(&self) -> &str {
        &self.kind
    }

    fn plural(&self) -> &str {
        &self.plural
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.resource())
    }
}

/// A snapshot of all served kinds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kinds {
    all: Arc<Vec<Arc<Kind>>>,
}

impl Kinds {
    /// The kinds of this table.
    pub(super) fn of(all: Vec<Kind>) -> Self {
        Self { all: Arc::new(all.into_iter().map(Arc::new).collect()) }
    }

    /// The built-in kinds of this set, with these custom kinds.
    pub fn with_custom(&self, custom: Vec<Arc<Kind>>) -> Self {
        let built_in = self.iter().filter(|kind| kind.custom.is_none()).cloned();
        Self { all: Arc::new(built_in.chain(custom).collect()) }
    }

    /// Whether both are the same snapshot.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all)
    }

    /// All kinds in the order of discovery. A kind with several versions occurs once per version, the
    /// preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.all.iter()
    }

    /// The kind in a URL.
    pub fn by_path(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.iter().find(|kind| kind.plural == plural && kind.version == version && kind.group == group)
    }

    /// The kind of an object's `apiVersion` and `kind`.
    pub fn by_type(&self, api_version: &str, kind_name: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.iter().find(|kind| kind.kind == kind_name && kind.version == version && kind.group == group)
    }

    /// The kind with this name; core kinds come first.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Kind>> {
        self.iter().find(|kind| kind.has_name(name))
    }

    /// Groups with their versions, the preferred version first; without the core group.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for kind in self.iter().filter(|kind| !kind.group.is_empty()) {
            let at = groups.iter().position(|(name, _)| *name == kind.group).unwrap_or_else(|| {
                groups.push((kind.group.to_string(), Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.iter().any(|version| *version == kind.version) {
                groups[at].1.push(kind.version.to_string());
            }
        }
        groups.iter_mut().for_each(|(_, versions)| versions.sort_by_key(|version| priority(version)));
        groups
    }
}

/// Group of roles and bindings.
pub const RBAC: &str = "rbac.authorization.k8s.io";

/// Sort key of versions, as in Kubernetes: `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then other
/// names.
pub fn priority(version: &str) -> impl Ord + use<> {
    let parsed = parse_version(version);
    (parsed.is_none(), parsed.map(std::cmp::Reverse), version.to_owned())
}

/// Stability (2 stable, 1 beta, 0 alpha), major and minor version.
fn parse_version(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    for (name, stability) in [("beta", 1), ("alpha", 0)] {
        if let Some((major, minor)) = rest.split_once(name) {
            return Some((stability, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((2, rest.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_versions_are_sorted_by_stability_and_number() {
        let mut versions = ["v1alpha1", "v1", "foo1", "v2beta1", "v10", "v1beta2", "v2beta10"];
        versions.sort_by_key(|version| priority(version));
        assert_eq!(versions, ["v10", "v1", "v2beta10", "v2beta1", "v1beta2", "v1alpha1", "foo1"]);
    }
}
