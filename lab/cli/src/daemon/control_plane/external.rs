//! The control plane of Kubernetes: etcd, kube-apiserver and, if present,
//! kube-controller-manager and kube-scheduler. The lab's own controllers, as
//! HTTP clients, replace those that are missing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeline_apiserver::{ApplyReport, Component, Config, Credentials, RemoteApi};
use beeline_lab_net::address::{self, API_PORT, CONTROL_PLANE};
use beeline_lab_net::paths::LabPaths;
use beeline_lab_net::record::{LabRecord, write_whole};
use kube::Client;
use tokio::task::AbortHandle;

use super::config::config;
use super::forward;
use super::process::{Process, Program};

/// Timeout for the API server to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// After this many exits a program is given up.
const ENDS_MAX: u32 = 5;

/// Interval of readiness checks.
const READY_PAUSE: Duration = Duration::from_millis(100);

/// Address of etcd in the control plane's namespace.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// A control plane of separate processes.
pub struct External {
    assets: PathBuf,
    directory: PathBuf,
    netns: PathBuf,
    cgroup: PathBuf,
    credentials: Credentials,
    processes: Mutex<Vec<Process>>,
    remote: OnceLock<Arc<RemoteApi>>,
}

/// Checks that a directory contains the required programs.
pub fn check_assets(assets: &Path) -> Result<()> {
    for name in ["etcd", "kube-apiserver"] {
        if !is_program(&assets.join(name)) {
            bail!(
                "KUBEBUILDER_ASSETS={} has no program {name}: set it to a directory with etcd and kube-apiserver, \
                 or unset it to use the lab's embedded API",
                assets.display()
            );
        }
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

impl External {
    /// Starts etcd and the API server.
    pub fn start(assets: &Path, record: &LabRecord, paths: &LabPaths) -> Result<External> {
        check_assets(assets)?;
        let host = &record.others["control-plane"];
        let external = External {
            assets: assets.to_owned(),
            directory: paths.control_plane(),
            netns: host.netns.clone(),
            cgroup: host.cgroup.clone(),
            credentials: Credentials::generate(&certified())?,
            processes: Mutex::default(),
            remote: OnceLock::new(),
        };
        external.write_files().context("cannot write the control plane's files")?;
        external.run("etcd", external.etcd_arguments());
        external.run("kube-apiserver", external.apiserver_arguments());
        Ok(external)
    }

    /// Waits for the API server, then starts its clients.
    pub async fn begin(&self, client: Client) -> Result<()> {
        self.wait_ready(&client).await?;
        let url = format!("https://{}:{API_PORT}", CONTROL_PLANE.ipv4);
        write_file(&self.directory, "kubeconfig", &self.kubeconfig(&url), 0o600)?;
        if self.has("kube-controller-manager") {
            self.run("kube-controller-manager", self.controller_manager_arguments());
        }
        if self.has("kube-scheduler") {
            self.run("kube-scheduler", self.scheduler_arguments());
        }
        let config = Config { components: self.own_components(), ..config()? };
        let remote = Arc::new(RemoteApi::new(client, &config));
        let (ca_pem, own) = (self.credentials.certificate.ca_pem.clone(), remote.clone());
        tokio::spawn(async move { own.run(&config, &ca_pem).await });
        let _ = self.remote.set(remote);
        Ok(())
    }

    /// Directory of the programs.
    pub fn assets(&self) -> &Path {
        &self.assets
    }

    /// Forwards connections of a listener to the API server.
    pub fn forward(&self, listener: TcpListener) -> Result<AbortHandle> {
        forward::start(listener, &self.netns, SocketAddr::new(CONTROL_PLANE.ipv4.into(), API_PORT))
    }

    /// Applies a manifest; the API server must be ready.
    pub fn apply(&self, source: &str, text: &str) -> ApplyReport {
        match self.remote.get() {
            Some(remote) => remote.api().apply(source, text),
            None => ApplyReport::default(),
        }
    }

    /// A kubeconfig for the API server at this URL.
    pub fn kubeconfig(&self, url: &str) -> String {
        self.credentials.kubeconfig(url)
    }

    /// The programs that are not running.
    pub fn problems(&self) -> Vec<String> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(Process::problem)
            .collect()
    }

    fn run(&self, name: &str, arguments: Vec<String>) {
        let program = Program {
            path: self.assets.join(name),
            arguments,
            log: self.directory.join(format!("{name}.log")),
            netns: self.netns.clone(),
            cgroup: self.cgroup.clone(),
        };
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(Process::start(program));
    }

    async fn wait_ready(&self, client: &Client) -> Result<()> {
        let begin = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(error) = client.request_text(request).await else { return Ok(()) };
            let hopeless = {
                let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
                processes.iter().any(|process| process.ends() >= ENDS_MAX)
            };
            if hopeless || begin.elapsed() > READY_TIMEOUT {
                let problems = self.problems().join("; ");
                bail!(
                    "the API server of {} is not ready after {} s: {error}; {problems} (logs below {})",
                    self.assets.display(),
                    begin.elapsed().as_secs(),
                    self.directory.display()
                );
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    fn has(&self, program: &str) -> bool {
        is_program(&self.assets.join(program))
    }

    /// Controllers that no program of this control plane runs.
    fn own_components(&self) -> BTreeSet<Component> {
        let of = [
            (Component::ControllerManager, "kube-controller-manager"),
            (Component::Scheduler, "kube-scheduler"),
        ];
        let missing = of.into_iter().filter(|(_, program)| !self.has(program)).map(|(role, _)| role);
        // There is no cloud-controller-manager, so the lab always assigns load
        // balancer addresses.
        missing.chain([Component::LoadBalancers]).collect()
    }

    fn write_files(&self) -> Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let own = &self.credentials;
        let tokens = format!("{},beeline-lab,beeline-lab,\"system:masters\"\n", own.token);
        for (name, text, mode) in [
            ("ca.crt", own.certificate.ca_pem.as_str(), 0o644),
            ("apiserver.crt", &own.certificate.certificate_pem, 0o644),
            ("apiserver.key", &own.certificate.key_pem, 0o600),
            ("service-account.key", &own.service_account_key_pem, 0o600),
            ("service-account.pub", &own.service_account_public_pem, 0o644),
            ("tokens.csv", &tokens, 0o600),
        ] {
            write_file(&self.directory, name, text, mode)?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn etcd_arguments(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={ETCD_PEER}"),
            format!("--initial-advertise-peer-urls={ETCD_PEER}"),
            format!("--initial-cluster=default={ETCD_PEER}"),
            // A lab that is lost is created again: durability is not needed.
            "--unsafe-no-fsync=true".to_owned(),
        ]
    }

    fn apiserver_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--etcd-servers={ETCD}"),
            "--bind-address=::".to_owned(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={}", CONTROL_PLANE.ipv4),
            format!("--tls-cert-file={}", self.file("apiserver.crt")),
            format!("--tls-private-key-file={}", self.file("apiserver.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            format!("--token-auth-file={}", self.file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--service-cluster-ip-range={}", service_ranges()),
            "--service-node-port-range=30000-32767".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", self.file("service-account.pub")),
            format!("--service-account-signing-key-file={}", self.file("service-account.key")),
        ];
        if !self.has("kube-controller-manager") {
            // Without a controller manager nothing creates the service
            // accounts or removes the taints.
            arguments.push("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned());
        }
        arguments
    }

    fn controller_manager_arguments(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.file("kubeconfig")),
            format!("--authentication-kubeconfig={}", self.file("kubeconfig")),
            format!("--authorization-kubeconfig={}", self.file("kubeconfig")),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
            // The nodes renew no leases; the lab itself marks nodes that are
            // down.
            "--controllers=*,-nodelifecycle".to_owned(),
            "--allocate-node-cidrs=true".to_owned(),
            format!("--cluster-cidr={},{}", address::CLUSTER_CIDR_IPV4, address::CLUSTER_CIDR_IPV6),
            "--node-cidr-mask-size-ipv4=24".to_owned(),
            "--node-cidr-mask-size-ipv6=64".to_owned(),
            format!("--service-cluster-ip-range={}", service_ranges()),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!("--service-account-private-key-file={}", self.file("service-account.key")),
        ]
    }

    fn scheduler_arguments(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.file("kubeconfig")),
            format!("--authentication-kubeconfig={}", self.file("kubeconfig")),
            format!("--authorization-kubeconfig={}", self.file("kubeconfig")),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
        ]
    }
}

fn service_ranges() -> String {
    format!("{},{}", address::SERVICE_CIDR_IPV4, address::SERVICE_CIDR_IPV6)
}

/// The addresses in the API server's certificate: the control plane's own and
/// those of the Service `kubernetes`.
fn certified() -> Vec<IpAddr> {
    CONTROL_PLANE.addresses().into_iter().chain(address::service_addresses(1)).collect()
}

fn write_file(directory: &Path, name: &str, text: &str, mode: u32) -> Result<()> {
    write_whole(&directory.join(name), text.as_bytes(), mode)
}
