//! ConfigMaps and Secrets that pods reference.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

/// A ConfigMap or a Secret of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Whether it is a Secret.
    pub secret: bool,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// A ConfigMap.
    pub fn config_map(name: &str) -> Reference {
        Reference { secret: false, name: name.to_owned() }
    }

    /// A Secret.
    pub fn secret(name: &str) -> Reference {
        Reference { secret: true, name: name.to_owned() }
    }
}

/// Values by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The referenced objects that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    namespace: String,
    found: BTreeMap<Reference, Option<Data>>,
}

impl Objects {
    /// Reads them from the API server.
    pub async fn read(client: &Client, namespace: &str, wanted: Vec<Reference>) -> Result<Objects> {
        let mut objects = Objects { namespace: namespace.to_owned(), ..Objects::default() };
        for reference in wanted {
            if !objects.found.contains_key(&reference) {
                let data = read_one(client, namespace, &reference).await?;
                objects.insert(reference, data);
            }
        }
        Ok(objects)
    }

    /// Inserts the data of an object; none if the object does not exist.
    pub fn insert(&mut self, reference: Reference, data: Option<Data>) {
        self.found.insert(reference, data);
    }

    /// All data of an object.
    pub fn all(&self, reference: &Reference) -> Result<Data> {
        let data = self.found.get(reference).cloned().flatten();
        data.ok_or_else(|| {
            let kind = if reference.secret { "secret" } else { "configmap" };
            anyhow!("{kind} {:?} not found", reference.name)
        })
    }

    /// One value of an object.
    pub fn one(&self, reference: &Reference, key: &str) -> Result<Vec<u8>> {
        self.all(reference)?.remove(key).ok_or_else(|| {
            let kind = if reference.secret { "Secret" } else { "ConfigMap" };
            anyhow!("couldn't find key {key} in {kind} {}/{}", self.namespace, reference.name)
        })
    }
}

async fn read_one(client: &Client, namespace: &str, reference: &Reference) -> Result<Option<Data>> {
    let failed = || format!("cannot read {reference:?}");
    if reference.secret {
        let secret = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(&reference.name).await;
        let Some(secret) = secret.with_context(failed)? else { return Ok(None) };
        return Ok(Some(
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect(),
        ));
    }
    let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&reference.name).await;
    let Some(map) = map.with_context(failed)? else { return Ok(None) };
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    Ok(Some(text.chain(binary).collect()))
}
