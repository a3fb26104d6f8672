//! Runs a container: start, probes, termination, and restarts according to its
//! restart policy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use beeline_lab_net::cgroup;
use beeline_lab_net::mount_namespace::{BindMount, MountPlan};
use beeline_lab_net::paths::PodPaths;
use beeline_lab_net::process::ProcessId;
use beeline_lab_net::record::{PodRecord, write_json};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::container::{self, ExecContext, Running};
use crate::cri_log;
use crate::environment::{self, Environment};
use crate::etc;
use crate::facts::PodFacts;
use crate::handlers::{Handler, HandlerTarget};
use crate::objects::Objects;
use crate::probe::{ProbeKind, Prober};
use crate::shared::Shared;
use crate::volumes::Volumes;

/// Minimum and maximum restart backoff.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Uptime after which the backoff is reset.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);

/// A program without probes that does not notify its readiness is considered
/// ready after this time unless it has failed.
const ASSUME_READY_AFTER: Duration = Duration::from_millis(100);

/// Minimum time after a preStop hook, as in the kubelet.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// Timeout of hooks, longer than any grace period.
const HOOK_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Maximum size of a termination message, and the number of lines and bytes
/// taken from the log instead.
const TERMINATION_BYTES_MAX: usize = 4096;
const TERMINATION_LOG: (usize, usize) = (80, 2048);

/// Events of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It failed to start, or waits for a restart.
    Waiting {
        /// Reason in CamelCase.
        reason: String,
        /// Message.
        message: String,
    },
    /// It is running.
    Running {
        /// Container ID.
        id: String,
    },
    /// Its startup probe, if any, has succeeded.
    Started,
    /// Its readiness changed.
    Ready(bool),
    /// It exited.
    Ended {
        /// Exit code; 128 + number for a signal.
        exit_code: i32,
        /// Termination message.
        message: String,
        /// It will not be restarted.
        last: bool,
    },
}

/// Configuration of a container.
pub struct ContainerConfig {
    /// Index in the pod.
    pub index: usize,
    /// Its specification.
    pub spec: Container,
    /// Field path for events.
    pub field: String,
    /// Whether readiness applies to it.
    pub serves: bool,
    /// Restart policy: the pod's, or the container's own.
    pub restart_policy: String,
    /// Grace period.
    pub grace: Duration,
    /// Number of the first instance, counted from 0.
    pub first_run: i32,
    /// The pod.
    pub facts: PodFacts,
    /// Record of the pod.
    pub record: PodRecord,
    /// The pod's files.
    pub paths: PodPaths,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// API client.
    pub client: kube::Client,
    /// State shared by the kubelets.
    pub shared: Arc<Shared>,
    /// Local programs by image.
    pub images: BTreeMap<String, PathBuf>,
    /// The program of the built-in image.
    pub own: PathBuf,
    /// The network namespace of the node.
    pub node: PathBuf,
}

/// Order to stop, with the deadline.
pub type StopDeadline = watch::Receiver<Option<Instant>>;

/// Why a container failed to start.
struct Failure {
    reason: &'static str,
    message: String,
}

/// A running container.
struct RunningContainer {
    running: Running,
    target: HandlerTarget,
    begun: Instant,
    notifies_ready: bool,
}

/// Runs a container until its restart policy ends it or it is told to stop.
pub async fn run(
    config: ContainerConfig,
    changes: mpsc::Sender<(usize, ContainerEvent)>,
    mut stop: StopDeadline,
) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut run = config.first_run;
    while stop.borrow().is_none() {
        match config.start(run).await {
            Err(failure) => config.report_failure(&failure, &changes).await,
            Ok(mut container) => {
                let exit_code = config.run_until_exit(&mut container, &changes, &mut stop).await;
                let begun = container.begun;
                let message = config.clean_up(container, run, exit_code).await;
                let last = stop.borrow().is_some() || !restarts(&config.restart_policy, exit_code);
                config.send_event(&changes, ContainerEvent::Ended { exit_code, message, last }).await;
                if last {
                    return;
                }
                if begun.elapsed() > BACKOFF_RESET_AFTER {
                    backoff.reset();
                }
                config.report_crash(run, &changes).await;
                run += 1;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => (),
            _ = stop.wait_for(Option::is_some) => return,
        }
    }
}

impl ContainerConfig {
    async fn send_event(&self, changes: &mpsc::Sender<(usize, ContainerEvent)>, change: ContainerEvent) {
        // The receiver is gone when the pod is being removed.
        let _ = changes.send((self.index, change)).await;
    }

    fn event_warning(&self, reason: &'static str, message: String) {
        self.shared.events.warning(&self.record, Some(&self.field), reason, message);
    }

    fn event_normal(&self, reason: &'static str, message: String) {
        self.shared.events.normal(&self.record, Some(&self.field), reason, message);
    }

    async fn report_failure(&self, failure: &Failure, changes: &mpsc::Sender<(usize, ContainerEvent)>) {
        let Failure { reason, message } = failure;
        let image = self.spec.image.as_deref().unwrap_or_default();
        if *reason == "ErrImagePull" {
            self.event_warning("Failed", format!("Failed to pull image {image:?}: {message}"));
        } else {
            self.event_warning("Failed", format!("Error: {message}"));
        }
        self.send_event(
            changes,
            ContainerEvent::Waiting { reason: (*reason).into(), message: message.clone() },
        )
        .await;
        if *reason == "ErrImagePull" {
            self.event_normal("BackOff", format!("Back-off pulling image {image:?}"));
            let message = format!("Back-off pulling image {image:?}: {message}");
            self.send_event(changes, ContainerEvent::Waiting { reason: "ImagePullBackOff".into(), message })
                .await;
        }
    }

    async fn report_crash(&self, run: i32, changes: &mpsc::Sender<(usize, ContainerEvent)>) {
        let last = container::last_line(&self.paths.container(&self.spec.name).log(run));
        let name = &self.spec.name;
        self.event_warning(
            "BackOff",
            format!("Back-off restarting failed container {name} in pod {}", self.record.name),
        );
        let message = format!("back-off restarting failed container={name}; last log line: {last}");
        self.send_event(changes, ContainerEvent::Waiting { reason: "CrashLoopBackOff".into(), message })
            .await;
    }

    async fn start(&self, run: i32) -> Result<RunningContainer, Failure> {
        let failure = |reason| move |error: anyhow::Error| Failure { reason, message: format!("{error:#}") };
        let environment = self.environment().await.map_err(failure("CreateContainerConfigError"))?;
        let never = self.spec.image_pull_policy.as_deref() == Some("Never");
        let no_image = if never { "ErrImageNeverPull" } else { "ErrImagePull" };
        let program = container::program(&self.spec, &self.images, &self.own, &environment);
        let program = program.map_err(failure(no_image))?;
        let image = self.spec.image.as_deref().unwrap_or_default();
        self.event_normal("Pulled", format!("Container image {image:?} already present on machine"));
        let exec = self.exec_context(environment).await.map_err(failure("CreateContainerError"))?;
        let files = self.paths.container(&self.spec.name);
        cri_log::remove(&files.log(run - 2));
        let started = container::start(&program, &exec, &files.log(run)).await;
        let running = started.map_err(failure("RunContainerError"))?;
        if let Some(process) = running.child.id().and_then(|pid| ProcessId::of(pid as i32)) {
            write_json(&files.process(), &process).map_err(failure("RunContainerError"))?;
        }
        let ip = self.facts.pod_ips.first().and_then(|ip| ip.parse().ok());
        let target = HandlerTarget { exec, ip, node: self.node.clone() };
        Ok(RunningContainer {
            running,
            target,
            begun: Instant::now(),
            notifies_ready: program.notifies_ready(),
        })
    }

    async fn environment(&self) -> anyhow::Result<Environment> {
        let namespace = &self.record.namespace;
        let links = self.facts.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let services = self.shared.services(namespace, links).await?;
        let objects = Objects::read(&self.client, namespace, environment::references(&self.spec)).await?;
        let mut environment = environment::environment(&self.spec, &self.facts, &services, &objects)?;
        let hostname = etc::hostname(&self.facts.pod, &self.record.node);
        environment.entry("HOSTNAME".into()).or_insert(hostname);
        Ok(environment)
    }

    /// Creates the container's cgroup and mount namespace.
    async fn exec_context(&self, environment: Environment) -> anyhow::Result<ExecContext> {
        let files = self.paths.container(&self.spec.name);
        std::fs::create_dir_all(files.staging()).context("cannot create the container's directory")?;
        std::fs::write(files.termination_log(), "")
            .context("cannot create the container's termination message file")?;
        let cgroup = self.record.cgroup.join(&self.spec.name);
        cgroup::create(&cgroup)?;
        let volumes = self.facts.pod.spec.iter().flat_map(|spec| spec.volumes.clone().unwrap_or_default());
        let mut binds = self.volumes.binds(&volumes.collect::<Vec<_>>(), &self.spec, &environment)?;
        let own = etc::binds(&self.paths.etc(), &binds);
        binds.extend(own);
        let words = self.spec.termination_message_path.clone().filter(|path| !path.is_empty());
        binds.push(BindMount {
            source: files.termination_log(),
            target: words.unwrap_or_else(|| "/dev/termination-log".into()).into(),
            read_only: false,
        });
        let directory = self.spec.working_dir.clone().filter(|path| !path.is_empty());
        let plan = MountPlan {
            hostname: Some(etc::hostname(&self.facts.pod, &self.record.node)),
            binds,
            directory: directory.clone().filter(|path| path != "/").map(PathBuf::from),
            staging: files.staging(),
        };
        let template = self.shared.mount_ns().await?.try_clone()?;
        let mount_ns = tokio::task::spawn_blocking(move || template.for_container(&plan)).await??;
        Ok(ExecContext {
            netns: self.record.netns.clone(),
            cgroup,
            mount_ns: Arc::new(mount_ns),
            directory: directory.unwrap_or_else(|| "/".into()),
            environment: Arc::new(environment),
        })
    }

    /// Runs the started container until it exits.
    async fn run_until_exit(
        &self,
        container: &mut RunningContainer,
        changes: &mpsc::Sender<(usize, ContainerEvent)>,
        stop: &mut StopDeadline,
    ) -> i32 {
        self.event_normal("Created", format!("Created container: {}", self.spec.name));
        self.event_normal("Started", format!("Started container {}", self.spec.name));
        if let Some(hook) = self.hook(|lifecycle| lifecycle.post_start.clone()) {
            let ran = tokio::select! {
                ran = self.run_hook(&hook, &container.target, self.grace.max(GRACE_MIN)) => ran,
                status = container.running.child.wait() => return exit_code(status.ok()),
            };
            if let Err(error) = ran {
                self.event_warning("FailedPostStartHook", format!("PostStartHook failed: {error:#}"));
                return self.terminate(container, stop, Some(self.grace)).await;
            }
        }
        let probes = [&self.spec.startup_probe, &self.spec.readiness_probe];
        if self.serves && !container.notifies_ready && probes.iter().all(|probe| probe.is_none()) {
            let ended = tokio::time::timeout(ASSUME_READY_AFTER, container.running.child.wait()).await;
            if let Ok(status) = ended {
                return exit_code(status.ok());
            }
        } else if let Ok(Some(status)) = container.running.child.try_wait() {
            // One that exited at once was never ready.
            return exit_code(Some(status));
        }
        self.send_event(changes, ContainerEvent::Running { id: container_id() }).await;
        let mut probes = Probes::new(self, container);
        if self.spec.startup_probe.is_some() {
            probes.begin(ProbeKind::Startup, self.spec.startup_probe.as_ref());
        } else {
            self.started(&mut probes, changes).await;
        }
        loop {
            let update = tokio::select! {
                status = container.running.child.wait() => return exit_code(status.ok()),
                _ = stop.wait_for(Option::is_some) => break,
                Some(update) = probes.update.recv() => update,
            };
            if let Some(error) = &update.error {
                self.event_warning("Unhealthy", format!("{} probe failed: {error}", update.kind.word()));
            }
            match (update.kind, update.verdict) {
                (ProbeKind::Readiness, Some(ready)) => {
                    self.send_event(changes, ContainerEvent::Ready(ready)).await
                }
                (ProbeKind::Startup, Some(true)) => self.started(&mut probes, changes).await,
                (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) => {
                    let kind = update.kind.word().to_lowercase();
                    self.event_normal(
                        "Killing",
                        format!("Container {} failed {kind} probe, will be restarted", self.spec.name),
                    );
                    let own = match update.kind {
                        ProbeKind::Startup => &self.spec.startup_probe,
                        _ => &self.spec.liveness_probe,
                    };
                    let own = own.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
                    let grace =
                        own.map_or(self.grace, |own| Duration::from_secs(own.try_into().unwrap_or(0)));
                    drop(probes);
                    return self.terminate(container, stop, Some(grace)).await;
                }
                _ => {}
            }
        }
        self.event_normal("Killing", format!("Stopping container {}", self.spec.name));
        probes.keep_readiness();
        let Probes { mut update, tasks, .. } = probes;
        let mut terminated = std::pin::pin!(self.terminate(container, stop, None));
        loop {
            tokio::select! {
                exit_code = &mut terminated => {
                    drop(tasks);
                    return exit_code;
                }
                Some(update) = update.recv() => {
                    if let (ProbeKind::Readiness, Some(ready)) = (update.kind, update.verdict) {
                        self.send_event(changes, ContainerEvent::Ready(ready)).await;
                    }
                }
            }
        }
    }

    async fn started(&self, probes: &mut Probes, changes: &mpsc::Sender<(usize, ContainerEvent)>) {
        self.send_event(changes, ContainerEvent::Started).await;
        probes.begin(ProbeKind::Liveness, self.spec.liveness_probe.as_ref());
        match &self.spec.readiness_probe {
            Some(probe) => probes.begin(ProbeKind::Readiness, Some(probe)),
            None => self.send_event(changes, ContainerEvent::Ready(true)).await,
        }
    }

    fn hook(
        &self,
        which: impl Fn(&k8s_openapi::api::core::v1::Lifecycle) -> Option<LifecycleHandler>,
    ) -> Option<LifecycleHandler> {
        self.spec.lifecycle.as_ref().and_then(which)
    }

    async fn run_hook(
        &self,
        hook: &LifecycleHandler,
        target: &HandlerTarget,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        target.run_handler(&Handler::from_hook(hook, &self.spec)?, timeout).await
    }

    /// preStop hook, SIGTERM, and SIGKILL after the grace period. With `grace`
    /// the container is restarted on its own; termination of the pod can
    /// shorten that time.
    async fn terminate(
        &self,
        container: &mut RunningContainer,
        stop: &mut StopDeadline,
        grace: Option<Duration>,
    ) -> i32 {
        let own = grace.map(|grace| Instant::now() + grace);
        let RunningContainer { running, target, .. } = container;
        let group = running.child.id().map(|pid| Pid::from_raw(pid as i32));
        let mut not_before = Instant::now();
        if let Some(hook) = self.hook(|lifecycle| lifecycle.pre_stop.clone()) {
            let ran = tokio::select! {
                ran = self.run_hook(&hook, target, HOOK_TIMEOUT) => ran,
                () = time_is_up(stop, own, not_before) => Err(anyhow::anyhow!("the grace period expired")),
            };
            if let Err(error) = ran {
                self.event_warning("FailedPreStopHook", format!("PreStopHook failed: {error:#}"));
            }
            not_before = Instant::now() + GRACE_MIN;
        }
        if let Some(group) = group {
            let _ = killpg(group, Signal::SIGTERM);
        }
        let ended = tokio::select! {
            status = running.child.wait() => Some(status),
            () = time_is_up(stop, own, not_before) => None,
        };
        if let Some(Ok(status)) = ended {
            return exit_code(Some(status));
        }
        if let Some(group) = group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        exit_code(container.running.child.wait().await.ok())
    }

    /// Cleans up after an exited container; returns its termination message.
    async fn clean_up(&self, mut container: RunningContainer, run: i32, exit_code: i32) -> String {
        let cgroup = container.target.exec.cgroup.clone();
        let removed = tokio::task::spawn_blocking(move || cgroup::remove(&cgroup)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!("{}: {error:#}", self.spec.name);
        }
        container.running.finish_log().await;
        let files = self.paths.container(&self.spec.name);
        let _ = std::fs::remove_file(files.process());
        let said = std::fs::read(files.termination_log()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[..said.len().min(TERMINATION_BYTES_MAX)]).into_owned();
        let from_log = self.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if said.is_empty() && from_log && exit_code != 0 {
            return cri_log::tail_text(&files.log(run), TERMINATION_LOG.0, TERMINATION_LOG.1);
        }
        said
    }
}

/// Waits until the container must be killed: at its own deadline or the pod's,
/// whichever is first, but not before `not_before`.
async fn time_is_up(stop: &mut StopDeadline, own: Option<Instant>, not_before: Instant) {
    loop {
        let pods = *stop.borrow_and_update();
        let deadline = match (own, pods) {
            (Some(own), Some(pods)) => Some(own.min(pods)),
            (own, pods) => own.or(pods),
        };
        let sleep = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.max(not_before)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => return,
            // The pod's worker is gone, so the container must stop.
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

/// Result of a probe.
struct ProbeUpdate {
    kind: ProbeKind,
    verdict: Option<bool>,
    error: Option<String>,
}

/// The probes of a container.
struct Probes {
    container: Container,
    target: HandlerTarget,
    begun: Instant,
    sender: mpsc::Sender<ProbeUpdate>,
    update: mpsc::Receiver<ProbeUpdate>,
    tasks: JoinSet<()>,
    others: Vec<tokio::task::AbortHandle>,
}

impl Probes {
    fn new(config: &ContainerConfig, container: &RunningContainer) -> Probes {
        let (sender, update) = mpsc::channel(4);
        Probes {
            container: config.spec.clone(),
            target: container.target.clone(),
            begun: container.begun,
            sender,
            update,
            tasks: JoinSet::new(),
            others: Vec::new(),
        }
    }

    fn begin(&mut self, kind: ProbeKind, probe: Option<&Probe>) {
        let Some(probe) = probe.cloned() else { return };
        let handler = Handler::from_probe(&probe, &self.container);
        let prober = Prober::new(&probe, self.begun.elapsed());
        let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
        let (target, begun, sender) = (self.target.clone(), self.begun, self.sender.clone());
        let task = self
            .tasks
            .spawn(async move { probe_loop(kind, prober, handler, timeout, target, begun, sender).await });
        if kind != ProbeKind::Readiness {
            self.others.push(task);
        }
    }

    /// A terminating container is only probed for readiness.
    fn keep_readiness(&mut self) {
        self.others.drain(..).for_each(|task| task.abort());
    }
}

async fn probe_loop(
    kind: ProbeKind,
    mut prober: Prober,
    handler: anyhow::Result<Handler>,
    timeout: Duration,
    target: HandlerTarget,
    begun: Instant,
    sender: mpsc::Sender<ProbeUpdate>,
) {
    loop {
        tokio::time::sleep_until(begun + prober.due()).await;
        let answer = match &handler {
            Ok(handler) => target.run_handler(handler, timeout).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("{error:#}")),
        };
        let verdict = prober.answered(answer.is_ok(), begun.elapsed());
        if sender.send(ProbeUpdate { kind, verdict, error: answer.err() }).await.is_err() {
            return;
        }
        if kind == ProbeKind::Startup && verdict == Some(true) {
            return;
        }
    }
}

fn exit_code(status: Option<std::process::ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)));
    code.unwrap_or(255)
}

fn restarts(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// A container ID: 64 random hexadecimal digits, as container runtimes use.
pub fn container_id() -> String {
    let mut bytes = [0; 32];
    // Does not fail on supported kernels; an ID of zeros would still be valid.
    let _ = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_restart_policy() {
        assert!(restarts("Always", 0) && restarts("", 0));
        assert!(restarts("OnFailure", 1) && !restarts("OnFailure", 0));
        assert!(!restarts("Never", 1));
    }

    #[tokio::test]
    async fn unit_a_grace_period_can_be_shortened() {
        let (begin, seconds) = (Instant::now(), Duration::from_secs);
        let (sender, mut stop) = watch::channel(Some(begin + seconds(3600)));
        let waiting = tokio::spawn(async move { time_is_up(&mut stop, None, begin).await });
        tokio::task::yield_now().await;
        sender.send_replace(Some(begin + Duration::from_millis(20)));
        waiting.await.unwrap();
        let (_sender, mut stop) = watch::channel(None);
        time_is_up(&mut stop, Some(begin), begin).await;
        let not_before = Instant::now() + Duration::from_millis(20);
        time_is_up(&mut stop, Some(begin), not_before).await;
        assert!(Instant::now() >= not_before, "after a hook there is time in any case");
    }
}
