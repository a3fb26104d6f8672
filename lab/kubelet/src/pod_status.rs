//! Pod status, computed from container events. Pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::supervise::ContainerEvent;

/// The kind of a container in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Init container: exits before the next container starts.
    Init,
    /// Sidecar: an init container with `restartPolicy: Always`.
    Sidecar,
    /// App container.
    App,
}

impl ContainerKind {
    /// Whether readiness applies to it.
    pub fn serves(self) -> bool {
        self != ContainerKind::Init
    }
}

/// The containers of a pod in start order.
pub fn containers(pod: &Pod) -> Vec<(ContainerKind, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let kind = |container: &Container| match container.restart_policy.as_deref() {
        Some("Always") => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    };
    let first = spec.init_containers.iter().flatten().map(|one| (kind(one), one.clone()));
    first.chain(spec.containers.iter().map(|one| (ContainerKind::App, one.clone()))).collect()
}

/// The state of a pod on its node.
#[derive(Clone, Debug)]
pub struct Run {
    started: Time,
    host_ips: Vec<String>,
    pod_ips: Vec<String>,
    /// Why sandbox creation failed last, if it did.
    sandbox_error: Option<String>,
    containers: Vec<ContainerRun>,
}

#[derive(Clone, Debug)]
struct ContainerRun {
    name: String,
    image: String,
    kind: ContainerKind,
    id: String,
    state: ContainerState,
    last_state: Option<ContainerState>,
    starts: i32,
    started: bool,
    ready: bool,
    finished: Option<i32>,
}

impl Run {
    /// A pod that its node has just accepted.
    pub fn new(pod: &Pod, host_ips: Vec<String>, now: Time) -> Run {
        // Only present after a restart of the node.
        let before = |name: &str| status_of(pod, name).filter(|status| has_begun(status));
        let all = containers(pod);
        let waits = if all.iter().any(|(kind, _)| *kind != ContainerKind::App) {
            "PodInitializing"
        } else {
            CREATING
        };
        let containers = all.into_iter().map(|(kind, spec)| ContainerRun {
            image: spec.image.clone().unwrap_or_default(),
            kind,
            id: String::new(),
            state: waiting(if kind == ContainerKind::App { waits } else { CREATING }, ""),
            last_state: None,
            starts: before(&spec.name).map_or(0, |status| status.restart_count + 1),
            name: spec.name,
            started: false,
            ready: false,
            finished: None,
        });
        let containers = containers.collect();
        Run { started: now, host_ips, pod_ips: Vec::new(), sandbox_error: None, containers }
    }

    /// Whether the pod completed before its node was restarted. Pods with
    /// `restartPolicy: Never` are not started again.
    pub fn completed_before_reboot(&mut self, pod: &Pod, now: Time) -> bool {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let ended = matches!(
            pod.status.as_ref().and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        );
        let began = self.containers.iter().any(|container| container.starts > 0);
        let done = ended || (began && policy == Some("Never"));
        if !done {
            return false;
        }
        let exit_code = |name: &str| {
            let state = status_of(pod, name)?.state.as_ref()?;
            Some(state.terminated.as_ref()?.exit_code)
        };
        for index in 0..self.containers.len() {
            // Exit code unknown: killed, as the kubelet reports it.
            let exit_code = exit_code(&self.containers[index].name).unwrap_or(137);
            self.containers[index].starts -= i32::from(self.containers[index].starts > 0);
            let change = ContainerEvent::Ended { exit_code, message: String::new(), last: true };
            self.apply_event(index, change, now.clone());
        }
        true
    }

    /// The number of a container's next instance, counted from 0.
    pub fn next_run(&self, index: usize) -> i32 {
        self.containers.get(index).map_or(0, |container| container.starts)
    }

    /// The sandbox exists and has these addresses.
    pub fn sandbox_ready(&mut self, pod_ips: Vec<String>) {
        self.pod_ips = pod_ips;
        self.sandbox_error = None;
    }

    /// Creating the sandbox or the volumes failed.
    pub fn sandbox_failed(&mut self, message: String) {
        for container in &mut self.containers {
            container.state = waiting(CREATING, &message);
        }
        self.sandbox_error = Some(message);
    }

    /// Applies a container event.
    pub fn apply_event(&mut self, index: usize, change: ContainerEvent, now: Time) {
        let Some(container) = self.containers.get_mut(index) else { return };
        match change {
            ContainerEvent::Waiting { reason, message } => container.state = waiting(&reason, &message),
            ContainerEvent::Running { id } => {
                container.starts += 1;
                container.id = format!("beeline-lab://{id}");
                let running = ContainerStateRunning { started_at: Some(now) };
                container.state = ContainerState { running: Some(running), ..ContainerState::default() };
            }
            ContainerEvent::Started => container.started = true,
            ContainerEvent::Ready(ready) => container.ready = ready,
            ContainerEvent::Ended { exit_code, message, last } => {
                // It may exit before Running was reported.
                container.starts += i32::from(container.state.running.is_none());
                let ended = ended(exit_code, message, &container.id, &container.state, now);
                container.state = ended.clone();
                container.last_state = Some(ended);
                container.finished = last.then_some(exit_code);
                (container.started, container.ready) = (false, false);
            }
        }
    }

    /// Whether the container after this one may start.
    pub fn allows_next(&self, index: usize) -> bool {
        self.containers.get(index).is_some_and(|container| match container.kind {
            ContainerKind::Init => container.finished == Some(0),
            ContainerKind::Sidecar => container.started,
            ContainerKind::App => true,
        })
    }

    /// Whether an init container failed permanently.
    pub fn init_failed(&self) -> bool {
        let mut inits = self.containers.iter().filter(|container| container.kind == ContainerKind::Init);
        inits.any(|container| container.finished.is_some_and(|exit_code| exit_code != 0))
    }

    /// Whether no app container will run again.
    pub fn finished(&self) -> bool {
        let mut app_containers = self.app_containers().peekable();
        self.init_failed()
            || (app_containers.peek().is_some()
                && app_containers.all(|container| container.finished.is_some()))
    }

    fn app_containers(&self) -> impl Iterator<Item = &ContainerRun> {
        self.containers.iter().filter(|container| container.kind == ContainerKind::App)
    }

    fn initialized(&self) -> bool {
        let mut inits = self.containers.iter().enumerate().filter(|(_, one)| one.kind != ContainerKind::App);
        inits.all(|(index, one)| {
            self.allows_next(index) || (one.kind == ContainerKind::Sidecar && self.finished())
        })
    }

    /// The status to write; `previous` provides the transition times of
    /// unchanged conditions.
    pub fn status(&self, previous: Option<&PodStatus>, now: &Time) -> PodStatus {
        let serving = self.containers.iter().filter(|container| container.kind.serves());
        let all_ready = serving.clone().all(ContainerRun::is_ready);
        let ready = all_ready && !self.pod_ips.is_empty() && self.initialized() && !self.finished();
        let condition = |kind: &str, holds: bool| self.condition(kind, holds, previous, now);
        let statuses = |init: bool| -> Vec<ContainerStatus> {
            let of_kind = self.containers.iter().filter(|one| (one.kind != ContainerKind::App) == init);
            of_kind.map(ContainerRun::status).collect()
        };
        let init = statuses(true);
        PodStatus {
            phase: Some(self.phase().into()),
            conditions: Some(vec![
                condition("PodScheduled", true),
                condition("PodReadyToStartContainers", !self.pod_ips.is_empty()),
                condition("Initialized", self.initialized()),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ]),
            start_time: Some(self.started.clone()),
            host_ip: self.host_ips.first().cloned(),
            host_ips: Some(self.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
            pod_ip: self.pod_ips.first().cloned(),
            pod_ips: Some(self.pod_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
            init_container_statuses: (!init.is_empty()).then_some(init),
            container_statuses: Some(statuses(false)),
            ..PodStatus::default()
        }
    }

    fn phase(&self) -> &'static str {
        if self.finished() {
            let failed =
                self.init_failed() || self.app_containers().any(|container| container.finished != Some(0));
            return if failed { "Failed" } else { "Succeeded" };
        }
        let begun =
            |container: &ContainerRun| container.state.waiting.is_none() || container.last_state.is_some();
        if !self.pod_ips.is_empty() && self.app_containers().all(begun) { "Running" } else { "Pending" }
    }

    fn condition(&self, kind: &str, holds: bool, previous: Option<&PodStatus>, now: &Time) -> PodCondition {
        let status = if holds { "True" } else { "False" };
        let before = previous.and_then(|status| status.conditions.as_ref());
        let before = before.and_then(|all| all.iter().find(|one| one.type_ == kind && one.status == status));
        let since = before.and_then(|one| one.last_transition_time.clone());
        let reason = match (holds, kind) {
            (true, "Initialized") | (false, _) if self.finished() => {
                Some("PodCompleted").filter(|_| !self.init_failed())
            }
            (false, "Initialized") => Some("ContainersNotInitialized"),
            (false, "PodReadyToStartContainers") => None,
            (false, _) => Some("ContainersNotReady"),
            _ => None,
        };
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            reason: reason.map(str::to_owned),
            message: if holds { None } else { self.not_yet(kind) },
            ..PodCondition::default()
        }
    }

    /// The reason of a condition that is false.
    fn not_yet(&self, kind: &str) -> Option<String> {
        if self.sandbox_error.is_some() || self.finished() {
            return self.sandbox_error.clone();
        }
        let named = |verb: &str, wanted: &dyn Fn(&ContainerRun) -> bool| {
            let names: Vec<&str> =
                self.containers.iter().filter(|one| wanted(one)).map(|one| one.name.as_str()).collect();
            (!names.is_empty()).then(|| format!("containers with {verb} status: [{}]", names.join(" ")))
        };
        match kind {
            "Initialized" => {
                named("incomplete", &|one| one.kind == ContainerKind::Init && one.finished != Some(0))
            }
            "Ready" | "ContainersReady" => named("unready", &|one| one.kind.serves() && !one.is_ready()),
            _ => None,
        }
    }
}

/// State of a container that has not started.
const CREATING: &str = "ContainerCreating";

/// The status of a container in the Pod object.
fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// Whether the container ever started.
fn has_begun(status: &ContainerStatus) -> bool {
    let begun = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    [&status.state, &status.last_state].into_iter().flatten().any(begun)
}

impl ContainerRun {
    fn is_ready(&self) -> bool {
        self.ready && self.state.running.is_some()
    }

    fn status(&self) -> ContainerStatus {
        let running = self.state.running.is_some();
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: self.image.clone(),
            container_id: (!self.id.is_empty()).then(|| self.id.clone()),
            ready: match self.kind {
                // An init container is ready after it has succeeded.
                ContainerKind::Init => self.finished == Some(0),
                _ => self.is_ready(),
            },
            started: Some(running && self.started),
            restart_count: (self.starts - 1).max(0),
            state: Some(self.state.clone()),
            last_state: self.last_state.clone().filter(|last| *last != self.state),
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

fn ended(exit_code: i32, message: String, id: &str, before: &ContainerState, now: Time) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(if exit_code == 0 { "Completed" } else { "Error" }.into()),
        message: (!message.is_empty()).then_some(message),
        container_id: (!id.is_empty()).then(|| id.to_owned()),
        started_at: match &before.running {
            Some(running) => running.started_at.clone(),
            // It exited before Running was reported: the start time is
            // approximate.
            None => Some(now.clone()),
        },
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

    fn crashed(exit_code: i32, last: bool) -> ContainerEvent {
        ContainerEvent::Ended { exit_code, message: String::new(), last }
    }

    fn running(run: &mut Run, index: usize) {
        for change in
            [ContainerEvent::Running { id: "c".into() }, ContainerEvent::Started, ContainerEvent::Ready(true)]
        {
            run.apply_event(index, change, now());
        }
    }

    fn ready(run: &Run) -> bool {
        let status = run.status(None, &now());
        status.conditions.unwrap().iter().any(|one| one.type_ == "Ready" && one.status == "True")
    }

    fn restarts(run: &Run) -> i32 {
        run.status(None, &now()).container_statuses.unwrap()[0].restart_count
    }

    #[test]
    fn unit_a_pod_runs_crashes_and_runs_again() {
        let mut run = run();
        assert!(!ready(&run) && run.status(None, &now()).phase.unwrap() == "Pending");
        running(&mut run, 0);
        assert!(ready(&run) && restarts(&run) == 0);
        run.apply_event(0, crashed(1, false), now());
        let waiting = ContainerEvent::Waiting { reason: "CrashLoopBackOff".into(), message: String::new() };
        run.apply_event(0, waiting, now());
        let status = run.status(None, &now());
        assert!(!ready(&run) && status.phase.as_deref() == Some("Running"), "{status:?}");
        running(&mut run, 0);
        assert!(ready(&run) && restarts(&run) == 1);
    }

    #[test]
    fn unit_restarts_count_crashes_before_running_was_seen() {
        let mut run = run();
        for _ in 0..3 {
            run.apply_event(0, crashed(1, false), now());
        }
        assert_eq!(restarts(&run), 2);
        let status = run.status(None, &now());
        let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!((ended.started_at, ended.finished_at), (Some(now()), Some(now())));
    }

    #[test]
    fn unit_a_finished_pod_is_succeeded_or_failed() {
        for (exit_code, phase) in [(0, "Succeeded"), (1, "Failed")] {
            let mut run = run();
            run.apply_event(0, crashed(exit_code, true), now());
            assert!(run.finished());
            assert_eq!(run.status(None, &now()).phase.as_deref(), Some(phase));
        }
    }

    #[test]
    fn unit_last_transition_time_changes_only_with_the_condition() {
        let later = Time(Timestamp::from_second(5).unwrap());
        let mut run = run();
        let first = run.status(None, &now());
        running(&mut run, 0);
        let second = run.status(Some(&first), &later);
        let since = |kind: &str| {
            let all = second.conditions.as_ref().unwrap().iter();
            all.filter(|one| one.type_ == kind).find_map(|one| one.last_transition_time.clone())
        };
        assert_eq!((since("PodScheduled"), since("Ready")), (Some(now()), Some(later)));
    }

    fn of(spec: serde_json::Value) -> Run {
        let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": spec});
        let mut run = Run::new(&serde_json::from_value(pod).unwrap(), vec![], now());
        run.sandbox_ready(vec!["10.244.1.2".into()]);
        run
    }

    #[test]
    fn unit_init_containers_run_in_sequence_and_sidecars_keep_running() {
        let mut run = of(serde_json::json!({
            "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}],
            "containers": [{"name": "main"}],
        }));
        let condition = |run: &Run, kind: &str| {
            let status = run.status(None, &now());
            status.conditions.unwrap().into_iter().find(|one| one.type_ == kind).unwrap()
        };
        assert!(!run.allows_next(0));
        let initialized = condition(&run, "Initialized");
        assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [first]"));
        run.apply_event(0, ContainerEvent::Running { id: "a".into() }, now());
        run.apply_event(0, crashed(0, true), now());
        assert!(run.allows_next(0) && !run.allows_next(1) && !run.finished());
        running(&mut run, 1);
        assert!(run.allows_next(1) && condition(&run, "Initialized").status == "True" && !ready(&run));
        running(&mut run, 2);
        assert!(ready(&run));
        run.apply_event(1, ContainerEvent::Ready(false), now());
        assert!(!ready(&run), "a sidecar's readiness counts");
        run.apply_event(2, crashed(0, true), now());
        assert!(run.finished());
        assert_eq!(run.status(None, &now()).phase.as_deref(), Some("Succeeded"));
    }

    #[test]
    fn unit_a_permanently_failed_init_container_fails_the_pod() {
        let mut run =
            of(serde_json::json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}));
        run.apply_event(0, crashed(3, true), now());
        assert!(run.init_failed() && run.finished());
        assert_eq!(run.status(None, &now()).phase.as_deref(), Some("Failed"));
    }

    #[test]
    fn unit_a_container_is_ready_when_its_probe_says_so() {
        let mut run = run();
        run.apply_event(0, ContainerEvent::Running { id: "c".into() }, now());
        assert!(!ready(&run));
        run.apply_event(0, ContainerEvent::Ready(true), now());
        assert!(ready(&run));
        run.apply_event(0, ContainerEvent::Ready(false), now());
        let status = run.status(None, &now());
        assert!(!ready(&run) && status.phase.as_deref() == Some("Running"), "{status:?}");
    }
}
