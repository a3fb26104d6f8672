//! Keeping a container's process running, as its pod's restart policy says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::container::{self, Place, PodFacts, Program};

/// The first pause before a container is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A container that ran this long starts again without delay growing.
const STABLE: Duration = Duration::from_secs(10);

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It cannot be started, or waits to be started again.
    Waiting {
        /// One word.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// It runs and is ready.
    Running,
    /// It ended.
    Ended {
        /// As a shell would report it.
        exit_code: i32,
        /// It will not be started again.
        last: bool,
    },
}

/// Everything that a container needs to run.
pub struct Job {
    /// Its number in the pod.
    pub index: usize,
    /// Its specification.
    pub spec: Container,
    /// `spec.restartPolicy` of the pod.
    pub restart_policy: String,
    /// What it may ask about its pod.
    pub facts: PodFacts,
    /// Local programs by image.
    pub images: BTreeMap<String, PathBuf>,
    /// The program behind the built-in image.
    pub own: PathBuf,
    /// Network namespace.
    pub netns: PathBuf,
    /// Cgroup.
    pub cgroup: PathBuf,
    /// Log file.
    pub log: PathBuf,
}

/// Doubling pauses.
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Starts at `min`, ends at `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { next: min, max }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }
}

/// Runs a container until its policy lets it rest or `stop` holds a grace
/// period.
pub async fn run(
    job: Job,
    changes: mpsc::Sender<(usize, Change)>,
    mut stop: watch::Receiver<Option<Duration>>,
) {
    let index = job.index;
    let tell = async |change| {
        // Nobody listens any more once the pod is being removed.
        let _ = changes.send((index, change)).await;
    };
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let begin = Instant::now();
        match start(&job).await {
            Err(error) => tell(start_failure(&error)).await,
            Ok(mut child) => {
                // One that has failed at once was never ready.
                if matches!(child.try_wait(), Ok(None)) {
                    tell(Change::Running).await;
                }
                let exit_code = tokio::select! {
                    status = child.wait() => exit_code(status.ok()),
                    grace = stopped(&mut stop) => {
                        let exit_code = terminate(&mut child, grace).await;
                        tell(Change::Ended { exit_code, last: true }).await;
                        return;
                    }
                };
                let again = restarts(&job.restart_policy, exit_code);
                tell(Change::Ended { exit_code, last: !again }).await;
                if !again {
                    return;
                }
                if begin.elapsed() > STABLE {
                    backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
                }
                tell(crash_loop(&job)).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => (),
            _ = stopped(&mut stop) => return,
        }
    }
}

async fn start(job: &Job) -> anyhow::Result<Child> {
    let program: Program = container::program(&job.spec, &job.images, &job.own)?;
    let environment = container::environment(&job.spec, &job.facts)?;
    let place = Place { netns: &job.netns, cgroup: &job.cgroup, log: &job.log };
    container::start(&program, job.spec.working_dir.as_deref(), &environment, &place).await
}

fn start_failure(error: &anyhow::Error) -> Change {
    let message = format!("{error:#}");
    let reason =
        if message.contains("pulls no images") { "ErrImageNeverPull" } else { "CreateContainerError" };
    Change::Waiting { reason: reason.into(), message }
}

fn crash_loop(job: &Job) -> Change {
    let message = format!("{} ended: {}", job.spec.name, container::last_line(&job.log));
    Change::Waiting { reason: "CrashLoopBackOff".into(), message }
}

/// Waits for the order to stop; hands back the grace period.
async fn stopped(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // The pod's worker is gone: so is the reason to run.
        Err(_) => Duration::ZERO,
    }
}

/// SIGTERM to the process and its group, SIGKILL after the grace period.
async fn terminate(child: &mut Child, grace: Duration) -> i32 {
    let group = child.id().map(|pid| Pid::from_raw(pid as i32));
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGTERM);
    }
    let ended = tokio::time::timeout(grace, child.wait()).await;
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    match ended {
        Ok(status) => exit_code(status.ok()),
        Err(_) => exit_code(child.wait().await.ok()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_restart_policy_decides() {
        assert!(restarts("Always", 0) && restarts("", 0));
        assert!(restarts("OnFailure", 1) && !restarts("OnFailure", 0));
        assert!(!restarts("Never", 1));
    }

    #[test]
    fn unit_pauses_double_up_to_a_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let pauses: Vec<u128> = (0..5).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1000, 1000]);
    }
}
