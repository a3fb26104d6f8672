//! The agent's configuration: the values file and the settings derived from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use beeline_kernel::datapath::AttachMode;
use beeline_plan::{MaglevConfig, PlanConfig, ServiceConfig};
use beeline_source::SourceConfig;
use beeline_values::{ParsedValues, Settings, Values};
use tracing::{info, warn};

use crate::options::Options;

/// MTU of pods, in bytes, while the uplinks are unknown.
pub const MTU_DEFAULT: u32 = 1500;

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Name of this node.
    pub node_name: String,
    /// The values.
    pub values: Values,
    /// Deprecated names that were accepted.
    pub notices: Vec<String>,
    /// Values that are set but not implemented, with what is used instead.
    pub not_implemented: Vec<String>,
}

/// Reads the values file.
pub fn load(options: &Options) -> anyhow::Result<Configuration> {
    anyhow::ensure!(
        !options.node_name.is_empty(),
        "the node name is missing; set --node-name or NODE_NAME to the name shown by `kubectl get nodes`"
    );
    let ParsedValues { values, notices, not_implemented } = match &options.values {
        Some(path) => read(path)?.parse(),
        None => Settings::default().parse(),
    };
    Ok(Configuration { node_name: options.node_name.clone(), values, notices, not_implemented })
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the values file {}; see --values", path.display()))?;
    Settings::from_yaml(&text).with_context(|| format!("cannot use the values file {}", path.display()))
}

impl Configuration {
    /// Logs notices about the values.
    pub fn log_notices(&self) {
        self.notices.iter().for_each(|notice| info!("{notice}"));
        self.not_implemented.iter().for_each(|sentence| warn!("{sentence}"));
    }

    /// Address that serves /metrics, /healthz and /readyz.
    pub fn http(&self, options: &Options) -> SocketAddr {
        options.http.unwrap_or((Ipv4Addr::LOCALHOST, self.values.prometheus_port).into())
    }

    /// How programs are attached.
    pub fn attach_mode(&self) -> AttachMode {
        if self.values.bpf_enable_tcx { AttachMode::Auto } else { AttachMode::Clsact }
    }

    /// Configuration of the planner.
    pub fn plan(&self) -> PlanConfig {
        let values = &self.values;
        PlanConfig {
            node_name: self.node_name.clone(),
            native_ranges: values.native_ranges.clone(),
            services: ServiceConfig {
                node_ports: values.node_port,
                node_port_addresses: values.node_port_addresses.clone(),
                external_ips: values.external_ips.clone(),
                host_ports: values.host_port,
                affinity: values.session_affinity,
                source_ranges_all_types: values.source_ranges_all_types,
                maglev: MaglevConfig {
                    external_default: values.maglev,
                    size_min: values.maglev_table_size,
                    seed: values.maglev_hash_seed.clone(),
                },
            },
            ..PlanConfig::default()
        }
    }

    /// Configuration of the source.
    pub fn source(&self, options: &Options) -> SourceConfig {
        SourceConfig {
            kubeconfig: options.kubeconfig.clone(),
            servers: servers(&self.values),
            state_dir: Some(options.state_dir.clone()),
            start_timeout: Duration::from_secs(3),
            ..SourceConfig::new(self.node_name.clone())
        }
    }
}

/// API server URLs from the values; empty if none are set.
fn servers(values: &Values) -> Vec<String> {
    if !values.api_server_urls.is_empty() {
        return values.api_server_urls.clone();
    }
    let Some(host) = &values.k8s_service_host else { return Vec::new() };
    let port = values.k8s_service_port.unwrap_or(443);
    match host.contains(':') && !host.starts_with('[') {
        true => vec![format!("https://[{host}]:{port}")],
        false => vec![format!("https://{host}:{port}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(settings: &[&str]) -> Values {
        Settings::from_set(settings).unwrap().parse().values
    }

    #[test]
    fn unit_the_api_server_is_where_the_values_say() {
        assert!(servers(&values(&[])).is_empty());
        let one = values(&["k8sServiceHost=10.0.0.1", "k8sServicePort=6443"]);
        assert_eq!(servers(&one), ["https://10.0.0.1:6443"]);
        assert_eq!(servers(&values(&["k8sServiceHost=fd00::1"])), ["https://[fd00::1]:443"]);
        let several = values(&["k8s.apiServerURLs=https://a:1 https://b:2", "k8sServiceHost=10.0.0.1"]);
        assert_eq!(servers(&several), ["https://a:1", "https://b:2"]);
    }

    /// The schema, which knows no tables, says what capacity the table has.
    #[test]
    fn unit_the_schema_knows_the_capacity_of_the_connection_table() {
        let capacity = beeline_abi::maps::CONNTRACK_TABLE.max_entries.to_string();
        assert_eq!(beeline_values::schema::find("bpf.ctTcpMax").unwrap().default, capacity);
        let messages = Settings::from_set(&["bpf.ctTcpMax=65536"]).unwrap().parse().not_implemented;
        assert!(messages[0].contains(&format!("bpf.ctTcpMax={capacity} is used instead")), "{messages:?}");
    }

    #[test]
    fn unit_an_invalid_values_file_is_reported_with_the_unknown_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("values.yaml");
        std::fs::write(&path, "routingMod: native").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("values.yaml") && error.contains("routingMode"), "{error}");
    }
}
