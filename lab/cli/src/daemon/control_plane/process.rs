//! A control plane program, restarted when it exits. It runs in the lab's
//! cgroup, so that `down` finds it without this process.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_kubelet::backoff::Backoff;
use beeline_lab_net::log_tail::last_line;
use beeline_lab_net::spawn;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Minimum and maximum restart backoff.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Uptime after which the backoff is reset.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Path of the executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Log file.
    pub log: PathBuf,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

/// A supervised program.
pub struct Process {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    problem: Option<String>,
    ends: u32,
}

impl Process {
    /// Starts the program and restarts it for as long as the daemon runs.
    pub fn start(program: Program) -> Process {
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(keep_running(program, state.clone()));
        Process { state }
    }

    /// Why it is not running at the moment.
    pub fn problem(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Number of exits.
    pub fn ends(&self) -> u32 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ends
    }
}

async fn keep_running(program: Program, state: Arc<Mutex<State>>) {
    let tell = |problem: Option<String>| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ends += u32::from(problem.is_some());
        state.problem = problem;
    };
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let begin = Instant::now();
        let ended = match spawn(&program) {
            Ok(mut child) => {
                tell(None);
                child.wait().await.context("cannot wait for it")
            }
            Err(error) => Err(error),
        };
        let words = describe(&program, ended);
        tracing::warn!("{words}");
        tell(Some(words));
        if begin.elapsed() > BACKOFF_RESET_AFTER {
            backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

fn describe(program: &Program, ended: Result<ExitStatus>) -> String {
    let path = program.path.display();
    match ended {
        Ok(status) => {
            format!("{path} exited ({status}); log {}: {}", program.log.display(), last_line(&program.log))
        }
        Err(error) => format!("cannot start {path}: {error:#}"),
    }
}

fn spawn(program: &Program) -> Result<Child> {
    let log = spawn::log_file(&program.log)?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot duplicate the log's file descriptor")?)
        .stderr(log)
        .kill_on_drop(true);
    spawn::enter_namespaces(&mut command, &program.netns, &program.cgroup, None)?;
    command.spawn().with_context(|| format!("cannot start {}", program.path.display()))
}
