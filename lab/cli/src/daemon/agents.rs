//! One `beeline-agent` process per node, restarted when it exits, like a
//! container of a DaemonSet.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_api::{Call, Client};
use beeline_lab_kubelet::backoff::Backoff;
use beeline_lab_net::log_tail::last_line;
use beeline_lab_net::paths::NodePaths;
use beeline_lab_net::spawn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::protocol::AgentAction;

/// Minimum and maximum restart backoff of an agent.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Uptime of an agent after which the backoff is reset.
const BACKOFF_RESET_AFTER: Duration = Duration::from_millis(500);

/// Address of the agent's HTTP server (metrics and health) inside the node.
const HTTP: &str = "127.0.0.1:9879";

/// After this many starts without becoming ready the agent is given up.
const STARTS_MAX: u32 = 5;

/// Time between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Configuration of an agent process.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The program.
    pub program: PathBuf,
    /// Node name.
    pub node: String,
    /// The node's files.
    pub paths: NodePaths,
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// The node's cgroup.
    pub cgroup: PathBuf,
}

/// State of an agent's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// Process ID, if it is running.
    pub pid: Option<u32>,
    /// Number of starts.
    pub starts: u32,
}

/// A node's agent and its supervisor.
pub struct Agent {
    config: AgentConfig,
    enabled: watch::Sender<bool>,
    state: Arc<Mutex<AgentState>>,
    supervisor: AbortHandle,
}

impl Agent {
    /// Starts the agent and its supervisor.
    pub fn start(config: AgentConfig) -> Agent {
        let (enabled, receiver) = watch::channel(true);
        let state = Arc::new(Mutex::new(AgentState::default()));
        let supervisor = tokio::spawn(supervise(config.clone(), receiver, state.clone())).abort_handle();
        Agent { config, enabled, state, supervisor }
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.config.node
    }

    /// Ends the agent and its supervisor without a shutdown, like a power
    /// failure.
    pub fn power_off(&self) {
        self.enabled.send_replace(false);
        self.supervisor.abort();
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.config.paths.socket()
    }

    /// Whether the agent is supposed to run.
    pub fn enabled(&self) -> bool {
        *self.enabled.borrow()
    }

    /// State of its process.
    pub fn state(&self) -> AgentState {
        *self.state.lock().expect("nobody panics while holding the lock")
    }

    /// Asks the agent whether it is ready; the error is the reason why not.
    pub async fn ready(&self) -> Result<()> {
        let client = Client::new(self.socket()).with_timeout(Duration::from_secs(2));
        let asked = tokio::task::spawn_blocking(move || client.call(Call::Ready)).await?;
        asked.map(|_| ()).map_err(Into::into)
    }

    /// Waits until the agent is ready. Returns an error early if it keeps
    /// exiting.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        let starts_before = self.state().starts;
        loop {
            let Err(error) = self.ready().await else { return Ok(()) };
            let starts = self.state().starts - starts_before;
            if starts > STARTS_MAX || begin.elapsed() > timeout {
                return Err(error.context(self.not_ready(begin.elapsed(), starts)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn not_ready(&self, elapsed: Duration, starts: u32) -> String {
        let log = self.config.paths.agent_log();
        format!(
            "the agent of {} is not ready after {:.1} s (starts: {starts}; the last line of {}: {})",
            self.config.node,
            elapsed.as_secs_f32(),
            log.display(),
            last_line(&log)
        )
    }

    /// Performs an action and waits until it is complete.
    pub async fn act(&self, action: AgentAction) -> Result<String> {
        let node = &self.config.node;
        match action {
            AgentAction::Stop => {
                self.enabled.send_replace(false);
                self.wait_pid(STOP_TIMEOUT * 2, |pid| pid.is_none()).await?;
                Ok(format!("the agent of {node} is stopped"))
            }
            AgentAction::Start => {
                self.enabled.send_replace(true);
                self.wait_ready(Duration::from_secs(30)).await?;
                Ok(format!("the agent of {node} is ready"))
            }
            AgentAction::Kill => {
                let Some(pid) = self.state().pid else { bail!("the agent of {node} is not running") };
                kill(Pid::from_raw(pid as i32), Signal::SIGKILL)
                    .with_context(|| format!("cannot kill the agent of {node} (process {pid})"))?;
                self.wait_pid(STOP_TIMEOUT, |now| now != Some(pid)).await?;
                Ok(format!("the agent of {node} (process {pid}) was killed"))
            }
        }
    }

    async fn wait_pid(&self, timeout: Duration, holds: impl Fn(Option<u32>) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !holds(self.state().pid) {
            if Instant::now() > deadline {
                bail!("the agent of {} is still running after {} s", self.config.node, timeout.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn supervise(config: AgentConfig, mut enabled: watch::Receiver<bool>, state: Arc<Mutex<AgentState>>) {
    let set = |pid: Option<u32>| {
        let mut state = state.lock().expect("nobody panics while holding the lock");
        state.starts += u32::from(pid.is_some());
        state.pid = pid;
    };
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    while enabled.wait_for(|enabled| *enabled).await.is_ok() {
        let begin = Instant::now();
        match spawn_agent(&config) {
            Err(error) => tracing::error!("{}: {error:#}", config.node),
            Ok(mut child) => {
                set(child.id());
                let stopped = run_until(&config.node, &mut child, &mut enabled).await;
                set(None);
                if stopped {
                    continue;
                }
            }
        }
        if begin.elapsed() > BACKOFF_RESET_AFTER {
            backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Waits until the agent exits; true if it was asked to stop.
async fn run_until(node: &str, child: &mut Child, enabled: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        status = child.wait() => {
            match status {
                Ok(status) => tracing::warn!("the agent of {node} exited: {status}"),
                Err(error) => tracing::warn!("cannot wait for the agent of {node}: {error}"),
            }
            return false;
        }
        () = disabled(enabled) => (),
    }
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    true
}

/// Waits until the agent is asked to stop, or the lab shuts down.
async fn disabled(enabled: &mut watch::Receiver<bool>) {
    let _ = enabled.wait_for(|enabled| !*enabled).await;
}

fn spawn_agent(config: &AgentConfig) -> Result<Child> {
    let log = spawn::log_file(&config.paths.agent_log())?;
    let mut command = Command::new(&config.program);
    let argument = |command: &mut Command, name: &str, value: &Path| {
        command.arg(name).arg(value);
    };
    command.args(["--node-name", &config.node, "--http", HTTP]);
    argument(&mut command, "--kubeconfig", &config.kubeconfig);
    argument(&mut command, "--values", &config.paths.values());
    argument(&mut command, "--bpffs", &config.paths.bpffs());
    argument(&mut command, "--cgroup", &config.cgroup);
    argument(&mut command, "--socket", &config.paths.socket());
    argument(&mut command, "--state-dir", &config.paths.state());
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot duplicate the log's file descriptor")?)
        .stderr(log)
        .kill_on_drop(true);
    spawn::enter_namespaces(&mut command, &config.paths.netns(), &config.cgroup.join("agent"), None)?;
    command.spawn().with_context(|| format!("cannot start {}", config.program.display()))
}
