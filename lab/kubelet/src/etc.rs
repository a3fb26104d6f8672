//! The files `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.
//! They are bind-mounted from the pod's directory into its containers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeline_lab_dns::resolv_conf::resolv_conf;
use beeline_lab_dns::{self as dns, DOMAIN};
use beeline_lab_net::mount_namespace::BindMount;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

/// The maximum length of a host name on Linux.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The host name of a pod.
pub fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.host_network == Some(true) {
        return node.to_owned();
    }
    let name = spec.hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| pod.name_any());
    let name = name.get(..HOSTNAME_BYTES_MAX).unwrap_or(&name);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// Writes the files into the pod's directory.
pub fn write(directory: &Path, pod: &Pod, node: &str, ips: &[String]) -> Result<()> {
    fs::create_dir_all(directory).context("cannot create the directory of the pod's files")?;
    let name = hostname(pod, node);
    let write = |file: &str, text: &str| {
        fs::write(directory.join(file), text).with_context(|| format!("cannot write the pod's {file}"))
    };
    write("hostname", &format!("{name}\n"))?;
    write("hosts", &hosts(pod, &name, ips))?;
    write("resolv.conf", &resolv_conf(pod, &dns::addresses()))
}

/// The bind mounts of these files, except those that the container mounts
/// itself.
pub fn binds(directory: &Path, others: &[BindMount]) -> Vec<BindMount> {
    let own = ["hosts", "hostname", "resolv.conf"].map(|file| BindMount {
        source: directory.join(file),
        target: PathBuf::from("/etc").join(file),
        read_only: false,
    });
    own.into_iter().filter(|bind| !others.iter().any(|other| other.target == bind.target)).collect()
}

fn hosts(pod: &Pod, name: &str, ips: &[String]) -> String {
    let spec: PodSpec = pod.spec.clone().unwrap_or_default();
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
        match subdomain.filter(|_| spec.host_network != Some(true)) {
            Some(subdomain) => {
                let namespace = pod.namespace().unwrap_or_default();
                text += &format!("{ip}\t{name}.{subdomain}.{namespace}.svc.{DOMAIN}\t{name}\n");
            }
            None => text += &format!("{ip}\t{name}\n"),
        }
    }
    for alias in spec.host_aliases.iter().flatten() {
        text += &format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p-1", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn unit_hostname_is_spec_hostname_or_the_pod_name() {
        let named = |spec: Value| hostname(&pod(spec), "node-1");
        assert_eq!(named(json!({"containers": []})), "p-1");
        assert_eq!(named(json!({"containers": [], "hostname": "web"})), "web");
        assert_eq!(named(json!({"containers": [], "hostNetwork": true})), "node-1");
        assert_eq!(named(json!({"containers": [], "hostname": "a".repeat(70)})).len(), 63);
    }

    #[test]
    fn unit_etc_hosts_has_the_pod_and_its_host_aliases() {
        let spec = json!({"containers": [], "hostname": "web", "subdomain": "shop",
            "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["a", "b"]}]});
        let text = hosts(&pod(spec), "web", &["10.244.1.2".into(), "fd00::2".into()]);
        for line in
            ["127.0.0.1\tlocalhost", "10.244.1.2\tweb.shop.n.svc.cluster.local\tweb", "10.0.0.9\ta\tb"]
        {
            assert!(text.lines().any(|one| one == line), "{line} is missing in\n{text}");
        }
        assert!(
            hosts(&pod(json!({"containers": []})), "p-1", &["fd00::2".into()]).contains("fd00::2\tp-1\n")
        );
    }
}
