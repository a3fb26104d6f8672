//! A pod's status out of what happened to its containers. Pure.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::supervise::Change;

/// What is known of a pod's run.
#[derive(Clone, Debug)]
pub struct Run {
    started: Time,
    host_ips: Vec<String>,
    pod_ips: Vec<String>,
    /// Why the pod has no sandbox yet, if an attempt failed.
    sandbox_error: Option<String>,
    containers: Vec<ContainerRun>,
}

#[derive(Clone, Debug)]
struct ContainerRun {
    name: String,
    image: String,
    state: ContainerState,
    last_state: Option<ContainerState>,
    starts: i32,
    finished: Option<i32>,
}

impl Run {
    /// A pod that a node has just accepted.
    pub fn new(pod: &Pod, host_ips: Vec<String>, now: Time) -> Run {
        let specs = pod.spec.iter().flat_map(|spec| &spec.containers);
        // None, unless its node has been started anew.
        let before = |name: &str| {
            let mut statuses =
                pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.find(|status| status.name == name).filter(|status| has_begun(status))
        };
        let containers = specs.map(|spec| ContainerRun {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            state: waiting("ContainerCreating", ""),
            last_state: None,
            starts: before(&spec.name).map_or(0, |status| status.restart_count + 1),
            finished: None,
        });
        Run {
            started: now,
            host_ips,
            pod_ips: Vec::new(),
            sandbox_error: None,
            containers: containers.collect(),
        }
    }

    /// Has the pod ended for good before its node was started anew? One that
    /// is not to be restarted has, whatever it did then.
    pub fn outlived(&mut self, pod: &Pod, now: Time) -> bool {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let status = pod.status.clone().unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let began = self.containers.iter().any(|container| container.starts > 0);
        let done = ended || (began && policy == Some("Never"));
        if !done {
            return false;
        }
        let exit_code = |name: &str| {
            let mut statuses = status.container_statuses.iter().flatten();
            let state = statuses.find(|status| status.name == name)?.state.as_ref()?;
            Some(state.terminated.as_ref()?.exit_code)
        };
        for index in 0..self.containers.len() {
            // As the kubelet has it where it cannot know: killed.
            let exit_code = exit_code(&self.containers[index].name).unwrap_or(137);
            self.containers[index].starts -= i32::from(self.containers[index].starts > 0);
            self.container_changed(index, Change::Ended { exit_code, last: true }, now.clone());
        }
        true
    }

    /// The sandbox stands and has these addresses.
    pub fn sandbox_ready(&mut self, pod_ips: Vec<String>) {
        self.pod_ips = pod_ips;
        self.sandbox_error = None;
    }

    /// The sandbox could not be made.
    pub fn sandbox_failed(&mut self, message: String) {
        for container in &mut self.containers {
            container.state = waiting("ContainerCreating", &message);
        }
        self.sandbox_error = Some(message);
    }

    /// Something happened to a container.
    pub fn container_changed(&mut self, index: usize, change: Change, now: Time) {
        let Some(container) = self.containers.get_mut(index) else { return };
        match change {
            Change::Waiting { reason, message } => container.state = waiting(&reason, &message),
            Change::Running => {
                container.starts += 1;
                let running = ContainerStateRunning { started_at: Some(now) };
                container.state = ContainerState { running: Some(running), ..ContainerState::default() };
            }
            Change::Ended { exit_code, last } => {
                // It may end before anybody could have seen it run.
                container.starts += i32::from(container.state.running.is_none());
                let ended = ended(exit_code, &container.state, now);
                container.state = ended.clone();
                container.last_state = Some(ended);
                container.finished = last.then_some(exit_code);
            }
        }
    }

    /// Nothing will run again.
    pub fn finished(&self) -> bool {
        !self.containers.is_empty() && self.containers.iter().all(|container| container.finished.is_some())
    }

    /// The status to write; `previous` keeps the times of what did not change.
    pub fn status(&self, previous: Option<&PodStatus>, terminating: bool, now: &Time) -> PodStatus {
        let all_running = self.containers.iter().all(|container| container.state.running.is_some());
        let ready = all_running && !self.pod_ips.is_empty() && !terminating;
        let condition = |kind: &str, holds: bool| self.condition(kind, holds, previous, now);
        PodStatus {
            phase: Some(self.phase().into()),
            conditions: Some(vec![
                condition("PodScheduled", true),
                condition("PodReadyToStartContainers", !self.pod_ips.is_empty()),
                condition("Initialized", true),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ]),
            start_time: Some(self.started.clone()),
            host_ip: self.host_ips.first().cloned(),
            host_ips: Some(self.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
            pod_ip: self.pod_ips.first().cloned(),
            pod_ips: Some(self.pod_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
            container_statuses: Some(self.containers.iter().map(ContainerRun::status).collect()),
            ..PodStatus::default()
        }
    }

    fn phase(&self) -> &'static str {
        if self.finished() {
            let failed = self.containers.iter().any(|container| container.finished != Some(0));
            return if failed { "Failed" } else { "Succeeded" };
        }
        let begun =
            |container: &ContainerRun| container.state.waiting.is_none() || container.last_state.is_some();
        if !self.pod_ips.is_empty() && self.containers.iter().all(begun) { "Running" } else { "Pending" }
    }

    fn condition(&self, kind: &str, holds: bool, previous: Option<&PodStatus>, now: &Time) -> PodCondition {
        let status = if holds { "True" } else { "False" };
        let before = previous.and_then(|status| status.conditions.as_ref());
        let before = before.and_then(|all| all.iter().find(|one| one.type_ == kind && one.status == status));
        let since = before.and_then(|one| one.last_transition_time.clone());
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            reason: (!holds).then(|| "ContainersNotReady".into()),
            message: if holds { None } else { self.sandbox_error.clone() },
            ..PodCondition::default()
        }
    }
}

/// Did the container ever start?
fn has_begun(status: &ContainerStatus) -> bool {
    let begun = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    [&status.state, &status.last_state].into_iter().flatten().any(begun)
}

impl ContainerRun {
    fn status(&self) -> ContainerStatus {
        let running = self.state.running.is_some();
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: self.image.clone(),
            ready: running,
            started: Some(running),
            restart_count: (self.starts - 1).max(0),
            state: Some(self.state.clone()),
            last_state: self.last_state.clone(),
            ..ContainerStatus::default()
        }
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.into()),
        message: (!message.is_empty()).then(|| message.into()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn ended(exit_code: i32, before: &ContainerState, now: Time) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(if exit_code == 0 { "Completed" } else { "Error" }.into()),
        started_at: before.running.as_ref().and_then(|running| running.started_at.clone()),
        finished_at: Some(now),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn now() -> Time {
        Time(Timestamp::UNIX_EPOCH)
    }

    fn run() -> Run {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }));
        let mut run = Run::new(&pod.unwrap(), vec!["172.30.0.11".into()], now());
        run.sandbox_ready(vec!["10.244.1.2".into(), "fd00::2".into()]);
        run
    }

    fn ready(run: &Run) -> bool {
        let status = run.status(None, false, &now());
        status.conditions.unwrap().iter().any(|one| one.type_ == "Ready" && one.status == "True")
    }

    fn restarts(run: &Run) -> i32 {
        run.status(None, false, &now()).container_statuses.unwrap()[0].restart_count
    }

    #[test]
    fn unit_a_pod_runs_crashes_and_runs_again() {
        let mut run = run();
        assert!(!ready(&run) && run.status(None, false, &now()).phase.unwrap() == "Pending");
        run.container_changed(0, Change::Running, now());
        assert!(ready(&run) && restarts(&run) == 0);
        run.container_changed(0, Change::Ended { exit_code: 1, last: false }, now());
        let waiting = Change::Waiting { reason: "CrashLoopBackOff".into(), message: String::new() };
        run.container_changed(0, waiting, now());
        let status = run.status(None, false, &now());
        assert!(!ready(&run) && status.phase.as_deref() == Some("Running"), "{status:?}");
        run.container_changed(0, Change::Running, now());
        assert!(ready(&run) && restarts(&run) == 1);
    }

    #[test]
    fn unit_crashes_are_counted_though_nobody_saw_it_run() {
        let mut run = run();
        for _ in 0..3 {
            run.container_changed(0, Change::Ended { exit_code: 1, last: false }, now());
        }
        assert_eq!(restarts(&run), 2);
    }

    #[test]
    fn unit_a_pod_that_has_done_its_work_has_succeeded_or_failed() {
        for (exit_code, phase) in [(0, "Succeeded"), (1, "Failed")] {
            let mut run = run();
            run.container_changed(0, Change::Ended { exit_code, last: true }, now());
            assert!(run.finished());
            assert_eq!(run.status(None, false, &now()).phase.as_deref(), Some(phase));
        }
    }

    #[test]
    fn unit_a_condition_keeps_its_time_until_it_changes() {
        let later = Time(Timestamp::from_second(5).unwrap());
        let mut run = run();
        let first = run.status(None, false, &now());
        run.container_changed(0, Change::Running, now());
        let second = run.status(Some(&first), false, &later);
        let since = |kind: &str| {
            let all = second.conditions.as_ref().unwrap().iter();
            all.filter(|one| one.type_ == kind).find_map(|one| one.last_transition_time.clone())
        };
        assert_eq!((since("PodScheduled"), since("Ready")), (Some(now()), Some(later)));
    }
}
