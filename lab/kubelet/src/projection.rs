//! Files of projected volumes: configMap, secret, downwardAPI, projected.
//! Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, ServiceAccountTokenProjection, Volume};

use crate::environment::needed;
use crate::facts::PodFacts;
use crate::objects::{Data, Objects, Reference};

/// The default file mode.
const MODE: i32 = 0o644;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedFile {
    /// Content.
    pub bytes: Vec<u8>,
    /// Mode bits.
    pub mode: u32,
}

/// Files by their path in the volume.
pub type Files = BTreeMap<String, ProjectedFile>;

/// The tokens of a volume, by their path in it.
pub type Tokens = BTreeMap<String, String>;

/// Whether the volume projects objects or fields.
pub fn is_projection(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The ConfigMaps and Secrets that a volume references.
pub fn references(volume: &Volume) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    found.extend(volume.config_map.iter().map(|one| Reference::config_map(&one.name)));
    found.extend(
        volume.secret.iter().map(|one| Reference::secret(one.secret_name.as_deref().unwrap_or_default())),
    );
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        found.extend(source.config_map.iter().map(|one| Reference::config_map(&one.name)));
        found.extend(source.secret.iter().map(|one| Reference::secret(&one.name)));
    }
    found
}

/// The service account tokens that a volume projects.
pub fn tokens(volume: &Volume) -> Vec<ServiceAccountTokenProjection> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.clone()).collect()
}

/// The files of a volume.
pub fn files(volume: &Volume, facts: &PodFacts, objects: &Objects, tokens: &Tokens) -> Result<Files> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let data = objects.all(&Reference::config_map(&source.name));
        let mode = source.default_mode.unwrap_or(MODE);
        add_data(&mut files, data, source.items.as_deref(), mode, source.optional)?;
    }
    if let Some(source) = &volume.secret {
        let data = objects.all(&Reference::secret(source.secret_name.as_deref().unwrap_or_default()));
        let mode = source.default_mode.unwrap_or(MODE);
        add_data(&mut files, data, source.items.as_deref(), mode, source.optional)?;
    }
    if let Some(source) = &volume.downward_api {
        add_fields(&mut files, source.items.as_deref(), facts, source.default_mode.unwrap_or(MODE))?;
    }
    let Some(projected) = &volume.projected else { return Ok(files) };
    let mode = projected.default_mode.unwrap_or(MODE);
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let data = objects.all(&Reference::config_map(&map.name));
            add_data(&mut files, data, map.items.as_deref(), mode, map.optional)?;
        }
        if let Some(secret) = &source.secret {
            let data = objects.all(&Reference::secret(&secret.name));
            add_data(&mut files, data, secret.items.as_deref(), mode, secret.optional)?;
        }
        if let Some(fields) = &source.downward_api {
            add_fields(&mut files, fields.items.as_deref(), facts, mode)?;
        }
        if let Some(token) = &source.service_account_token {
            let bytes = tokens.get(&token.path).context("the token was not requested")?;
            add(&mut files, &token.path, bytes.clone().into_bytes(), mode)?;
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            bail!("projected volume sources clusterTrustBundle and podCertificate are not implemented");
        }
    }
    Ok(files)
}

fn add_data(
    files: &mut Files,
    data: Result<Data>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<()> {
    let Some(mut data) = needed(data, optional)? else { return Ok(()) };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return data.into_iter().try_for_each(|(key, value)| add(files, &key, value, mode));
    };
    for item in items {
        match data.remove(&item.key) {
            Some(value) => add(files, &item.path, value, item.mode.unwrap_or(mode))?,
            None if optional == Some(true) => {}
            None => bail!("references non-existent config key: {}", item.key),
        }
    }
    Ok(())
}

fn add_fields(
    files: &mut Files,
    items: Option<&[DownwardAPIVolumeFile]>,
    facts: &PodFacts,
    mode: i32,
) -> Result<()> {
    for item in items.into_iter().flatten() {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => facts.file(&field.field_path)?,
            (_, Some(resource)) => facts.resource(resource, None)?,
            _ => bail!("downwardAPI file {} has neither fieldRef nor resourceFieldRef", item.path),
        };
        add(files, &item.path, value.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

fn add(files: &mut Files, path: &str, bytes: Vec<u8>, mode: i32) -> Result<()> {
    check_path(path)?;
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    files.insert(path.to_owned(), ProjectedFile { bytes, mode });
    Ok(())
}

/// Paths must stay in their volume and not clash with its internal names.
pub fn check_path(path: &str) -> Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        bail!("{path:?} is not a valid path of a file in a volume: it must be relative and without ..");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let data = |key: &str, value: &str| Some([(key.to_owned(), value.as_bytes().to_vec())].into());
        objects.insert(Reference::config_map("cm"), data("a.conf", "one"));
        objects.insert(Reference::secret("s"), data("key", "two"));
        objects.insert(Reference::secret("absent"), None);
        objects
    }

    fn shown(volume: Value) -> Result<Vec<String>> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}});
        let facts = PodFacts { pod: serde_json::from_value(pod).unwrap(), ..PodFacts::default() };
        let tokens = [("token".to_owned(), "T".to_owned())].into();
        let files = files(&volume, &facts, &objects(), &tokens)?;
        let show = |(path, file): (&String, &ProjectedFile)| {
            format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.bytes))
        };
        Ok(files.iter().map(show).collect())
    }

    #[test]
    fn unit_objects_and_fields_become_files_with_their_modes() {
        let volume = json!({"name": "v", "configMap": {"name": "cm"}});
        assert_eq!(shown(volume).unwrap(), ["a.conf 644 one"]);
        let volume = json!({"name": "v", "secret": {
            "secretName": "s", "defaultMode": 0o400, "items": [{"key": "key", "path": "deep/er"}],
        }});
        assert_eq!(shown(volume).unwrap(), ["deep/er 400 two"]);
        let volume = json!({"name": "v", "projected": {"defaultMode": 0o440, "sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "ca.crt", "mode": 0o600}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"secret": {"name": "absent", "optional": true}},
        ]}});
        assert_eq!(shown(volume).unwrap(), ["ca.crt 600 one", "labels 440 app=\"web\"", "token 440 T"]);
    }

    #[test]
    fn unit_missing_keys_and_paths_outside_the_volume_are_errors() {
        let check = |volume: Value, words: &str| {
            let error = shown(volume).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(json!({"name": "v", "secret": {"secretName": "absent"}}), "secret \"absent\" not found");
        let items = json!([{"key": "z", "path": "z"}]);
        check(
            json!({"name": "v", "configMap": {"name": "cm", "items": items}}),
            "non-existent config key: z",
        );
        for path in ["../x", "/x", "a/../../x", "..x", ""] {
            let items = json!([{"key": "a.conf", "path": path}]);
            check(
                json!({"name": "v", "configMap": {"name": "cm", "items": items}}),
                "not a valid path of a file",
            );
        }
    }
}
