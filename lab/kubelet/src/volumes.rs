//! Volumes of a pod on disk: created before its containers, updated while it
//! runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use beeline_lab_net::mount_namespace::BindMount;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    Container, HostPathVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use crate::environment::Environment;
use crate::expand::expand;
use crate::facts::PodFacts;
use crate::objects::{Objects, Reference};
use crate::projection::{self, Files, Tokens};

/// Default lifetime of a token.
const TOKEN_SECONDS: i64 = 3600;

/// Directories of a pod's volumes.
#[derive(Clone, Debug)]
pub struct Volumes {
    /// The directory of the pod's volumes.
    pub directory: PathBuf,
    /// Root of `hostPath` volumes: the disk of the pod's node.
    pub disk: PathBuf,
}

impl Volumes {
    /// Creates every volume of a pod, and updates projected volumes.
    pub async fn make(&self, client: &Client, facts: &PodFacts) -> Result<()> {
        for volume in facts.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let made = self.make_one(client, facts, volume).await;
            made.with_context(|| format!("MountVolume.SetUp failed for volume {:?}", volume.name))?;
        }
        Ok(())
    }

    async fn make_one(&self, client: &Client, facts: &PodFacts, volume: &Volume) -> Result<()> {
        let directory = self.directory.join(&volume.name);
        if projection::is_projection(volume) {
            let namespace = facts.pod.namespace().unwrap_or_default();
            let objects = Objects::read(client, &namespace, projection::references(volume)).await?;
            let mut tokens = Tokens::new();
            for token in projection::tokens(volume) {
                tokens.insert(token.path.clone(), request_token(client, facts, &token).await?);
            }
            return write_files(&directory, &projection::files(volume, facts, &objects, &tokens)?);
        }
        if volume.empty_dir.is_some() {
            fs::create_dir_all(&directory).context("cannot create its directory")?;
            return fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))
                .context("cannot open its directory");
        }
        if let Some(host) = &volume.host_path {
            return self.make_host_path(host);
        }
        bail!(
            "unsupported volume type: supported are emptyDir, configMap, secret, downwardAPI, projected and hostPath"
        )
    }

    /// Host paths are below the node's directory, never on the host itself:
    /// what a pod writes there is removed with the lab.
    fn make_host_path(&self, source: &HostPathVolumeSource) -> Result<()> {
        let path = self.host_path(&source.path)?;
        let kind = source.type_.as_deref().unwrap_or_default();
        let exists = |is: fn(&Path) -> bool, what: &str| {
            if is(&path) {
                return Ok(());
            }
            bail!(
                "hostPath type check failed: {} is not a {what} (on the node's disk: {})",
                source.path,
                path.display()
            )
        };
        match kind {
            "" | "DirectoryOrCreate" if !path.exists() => {
                fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))
            }
            "" => Ok(()),
            "Directory" | "DirectoryOrCreate" => exists(Path::is_dir, "directory"),
            "FileOrCreate" if !path.exists() => {
                let above = path.parent().map_or(Ok(()), fs::create_dir_all);
                above
                    .and_then(|()| fs::write(&path, ""))
                    .with_context(|| format!("cannot create {}", path.display()))
            }
            "File" | "FileOrCreate" => exists(Path::is_file, "file"),
            other => bail!(
                "hostPath type {other} is not implemented: the nodes of a lab have only files and directories"
            ),
        }
    }

    fn host_path(&self, path: &str) -> Result<PathBuf> {
        let relative = path.trim_matches('/');
        if !path.starts_with('/') || relative.split('/').any(|part| part == "..") {
            bail!("{path:?} is not a valid hostPath: it must be absolute and without ..");
        }
        fs::create_dir_all(&self.disk).with_context(|| format!("cannot create {}", self.disk.display()))?;
        Ok(self.disk.join(relative))
    }

    /// The bind mounts of a container.
    pub fn binds(
        &self,
        volumes: &[Volume],
        container: &Container,
        environment: &Environment,
    ) -> Result<Vec<BindMount>> {
        let mounts = container.volume_mounts.iter().flatten();
        mounts.map(|mount| self.bind(volumes, mount, environment)).collect()
    }

    fn bind(&self, volumes: &[Volume], mount: &VolumeMount, environment: &Environment) -> Result<BindMount> {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.with_context(|| format!("the pod has no volume {:?}", mount.name))?;
        let mut source = match &volume.host_path {
            Some(host) => self.host_path(&host.path)?,
            None => self.directory.join(&volume.name),
        };
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(text), _) if !text.is_empty() => expand(text, |name| environment.get(name).cloned()),
            (_, Some(text)) => text.clone(),
            _ => String::new(),
        };
        if !sub_path.is_empty() {
            projection::check_path(&sub_path).context("subPath")?;
            source = inside(&source, &sub_path, projection::is_projection(volume))?;
        }
        let read_only = mount.read_only.unwrap_or(false) || projection::is_projection(volume);
        Ok(BindMount { source, target: PathBuf::from(&mount.mount_path), read_only })
    }
}

/// Resolves a subPath in a volume and creates it as a directory if it is
/// missing. The result is never outside the volume, whatever symbolic links it
/// contains.
fn inside(volume: &Path, sub_path: &str, must_exist: bool) -> Result<PathBuf> {
    let wanted = volume.join(sub_path);
    if !must_exist && wanted.symlink_metadata().is_err() {
        fs::create_dir_all(&wanted).with_context(|| format!("cannot make the subPath {sub_path}"))?;
    }
    let found = fs::canonicalize(&wanted).with_context(|| format!("the volume has no {sub_path}"))?;
    let volume = fs::canonicalize(volume).context("the volume no longer exists")?;
    if !found.starts_with(&volume) {
        bail!("subPath {sub_path:?} is outside its volume");
    }
    Ok(found)
}

/// Writes the files of a volume atomically, as Kubernetes does: into a new
/// directory, to which a symbolic link is then switched.
fn write_files(volume: &Path, files: &Files) -> Result<()> {
    let failed = || format!("cannot write {}", volume.display());
    fs::create_dir_all(volume).with_context(failed)?;
    let link = volume.join("..data");
    let before = fs::read_link(&link).ok();
    if before.as_ref().is_some_and(|before| holds(&volume.join(before), files)) {
        return Ok(());
    }
    let now = k8s_openapi::jiff::Timestamp::now();
    let name = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let fresh = volume.join(&name);
    for (path, file) in files {
        let target = fresh.join(path);
        let above = target.parent().map_or(Ok(()), fs::create_dir_all);
        above
            .and_then(|()| fs::write(&target, &file.bytes))
            .and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(file.mode)))
            .with_context(failed)?;
    }
    fs::create_dir_all(&fresh).with_context(failed)?;
    let draft = volume.join("..data_tmp");
    let _ = fs::remove_file(&draft);
    symlink(&name, &draft).and_then(|()| fs::rename(&draft, &link)).with_context(failed)?;
    update_links(volume, files).with_context(failed)?;
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before)).with_context(failed)?;
    }
    Ok(())
}

/// Symbolic links for the top-level entries of the volume.
fn update_links(volume: &Path, files: &Files) -> std::io::Result<()> {
    let top: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(volume)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !top.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in top {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}

/// Whether the directory contains exactly these files.
fn holds(directory: &Path, files: &Files) -> bool {
    let same = |(path, file): (&String, &projection::ProjectedFile)| {
        let path = directory.join(path);
        let mode = fs::metadata(&path).map(|about| about.permissions().mode() & 0o777);
        mode.is_ok_and(|mode| mode == file.mode) && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    files.iter().all(same) && count(directory) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

async fn request_token(
    client: &Client,
    facts: &PodFacts,
    token: &ServiceAccountTokenProjection,
) -> Result<String> {
    let account = facts.variable("spec.serviceAccountName")?;
    let named = facts.pod.spec.as_ref().is_some_and(|spec| spec.service_account_name.is_some());
    let pod = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(facts.pod.name_any()),
        uid: facts.pod.uid(),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: token.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(token.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
            // The token is bound to the pod.
            bound_object_ref: named.then_some(pod),
        }),
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> =
        Api::namespaced(client.clone(), &facts.pod.namespace().unwrap_or_default());
    let answer = accounts.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|error| match error {
        kube::Error::Api(status) => anyhow!("{}", status.message),
        error => error.into(),
    });
    let answer = answer.with_context(|| format!("failed to fetch a token for ServiceAccount {account:?}"))?;
    answer.status.and_then(|status| status.token).context("the API server returned no token")
}

/// Whether a change of this object affects the pod's volumes.
pub fn shows(volumes: &[Volume], reference: &Reference) -> bool {
    volumes.iter().flat_map(projection::references).any(|one| one == *reference)
}

/// When the pod's tokens must be renewed, if it has any: at 80 % of their
/// lifetime.
pub fn token_pause(volumes: &[Volume]) -> Option<Duration> {
    let lives = volumes.iter().flat_map(projection::tokens);
    let shortest = lives.map(|token| token.expiration_seconds.unwrap_or(TOKEN_SECONDS)).min()?;
    Some(Duration::from_secs(shortest.max(0) as u64 * 4 / 5).max(Duration::from_secs(1)))
}

/// Whether volumes project fields of the pod.
pub fn show_fields(volumes: &[Volume]) -> bool {
    let projected = |volume: &Volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.into_iter().any(|source| source.downward_api.is_some())
    };
    volumes.iter().any(|volume| volume.downward_api.is_some() || projected(volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::ProjectedFile;
    use std::collections::BTreeMap;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |text: &str| ProjectedFile { bytes: text.into(), mode: 0o640 };
        pairs.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn shown(volume: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(volume).unwrap().flatten();
        let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".."));
        let read = |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|_| "directory".into());
        visible.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path()))).collect()
    }

    #[test]
    fn unit_volume_updates_are_atomic() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        write_files(&volume, &files(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!(shown(&volume), [("a".into(), "1".into()), ("d".into(), "directory".into())].into());
        let first = fs::read_link(volume.join("..data")).unwrap();
        assert_eq!(fs::metadata(volume.join("d/b")).unwrap().permissions().mode() & 0o777, 0o640);

        write_files(&volume, &files(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!(fs::read_link(volume.join("..data")).unwrap(), first, "nothing new: nothing written");

        write_files(&volume, &files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!(shown(&volume), [("a".into(), "3".into()), ("c".into(), "4".into())].into());
        assert!(!volume.join(first).exists(), "the old files are gone");
    }

    #[test]
    fn unit_a_sub_path_cannot_leave_its_volume() {
        let directory = tempfile::tempdir().unwrap();
        assert!(inside(directory.path(), "new/directory", false).unwrap().is_dir());
        assert!(inside(directory.path(), "absent", true).is_err());
        symlink("/etc", directory.path().join("out")).unwrap();
        let error = inside(directory.path(), "out", false).unwrap_err().to_string();
        assert!(error.contains("is outside"), "{error}");
    }

    #[test]
    fn unit_a_host_path_is_on_the_nodes_disk() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = Volumes { directory: directory.path().join("v"), disk: directory.path().join("disk") };
        let make = |path: &str, kind: Option<&str>| {
            volumes
                .make_host_path(&HostPathVolumeSource { path: path.into(), type_: kind.map(str::to_owned) })
        };
        make("/var/log", None).unwrap();
        assert!(directory.path().join("disk/var/log").is_dir());
        make("/etc/x.conf", Some("FileOrCreate")).unwrap();
        make("/etc/x.conf", Some("File")).unwrap();
        for (path, kind) in [
            ("/none", Some("Directory")),
            ("/var/log", Some("File")),
            ("/x", Some("Socket")),
            ("/../x", None),
            ("x", None),
        ] {
            assert!(make(path, kind).is_err(), "{path} {kind:?}");
        }
    }
}
