//! Probe schedule and thresholds. Pure: time is given as the time since the
//! container started.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Startup: delays the other probes; failure restarts the container.
    Startup,
    /// Liveness: failure restarts the container.
    Liveness,
    /// Readiness: whether the pod is an endpoint of Services.
    Readiness,
}

impl ProbeKind {
    /// Name in events.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// State of a probe.
#[derive(Clone, Debug)]
pub struct Prober {
    period: Duration,
    successes_needed: u32,
    failures_needed: u32,
    due: Duration,
    last: Option<bool>,
    repeated: u32,
    verdict: Option<bool>,
}

impl Prober {
    /// Starts now; `initialDelaySeconds` counts from the container's start.
    pub fn new(probe: &Probe, now: Duration) -> Prober {
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or_default())
        };
        let count =
            |value: Option<i32>, default: i32| u32::try_from(value.unwrap_or(default)).unwrap_or(1).max(1);
        Prober {
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            successes_needed: count(probe.success_threshold, 1),
            failures_needed: count(probe.failure_threshold, 3),
            due: seconds(probe.initial_delay_seconds, 0).max(now),
            last: None,
            repeated: 0,
            verdict: None,
        }
    }

    /// Time of the next probe.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// Records a probe result; returns the new state if it has changed.
    pub fn answered(&mut self, success: bool, now: Duration) -> Option<bool> {
        // The schedule does not shift with the duration of a probe.
        while self.due <= now {
            self.due += self.period;
        }
        self.repeated = if self.last == Some(success) { self.repeated + 1 } else { 1 };
        self.last = Some(success);
        let needed = if success { self.successes_needed } else { self.failures_needed };
        if self.repeated < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn prober(delay: i32, period: i32, successes: i32, failures: i32) -> Prober {
        let probe = Probe {
            initial_delay_seconds: Some(delay),
            period_seconds: Some(period),
            success_threshold: Some(successes),
            failure_threshold: Some(failures),
            ..Probe::default()
        };
        Prober::new(&probe, Duration::ZERO)
    }

    /// Takes results as `+` and `-`; returns the state changes, `.` for none.
    fn verdicts(mut prober: Prober, answers: &str) -> String {
        let verdict = |answer: char| {
            let now = prober.due();
            match prober.answered(answer == '+', now) {
                Some(true) => 'T',
                Some(false) => 'F',
                None => '.',
            }
        };
        answers.chars().map(verdict).collect()
    }

    #[test]
    fn unit_thresholds_count_consecutive_results() {
        assert_eq!(verdicts(prober(0, 1, 1, 3), "+--+---+"), "T.....FT");
        assert_eq!(verdicts(prober(0, 1, 2, 1), "+-++-+"), ".F.TF.");
        assert_eq!(verdicts(prober(0, 1, 1, 3), "-----"), "..F..");
        assert_eq!(verdicts(prober(0, 1, 1, 1), "++++"), "T...");
    }

    #[test]
    fn unit_probes_start_after_the_delay_and_keep_the_period() {
        let mut prober = prober(5, 10, 1, 1);
        assert_eq!(prober.due(), seconds(5));
        prober.answered(true, seconds(7));
        assert_eq!(prober.due(), seconds(15), "a slow answer does not shift the next question");
        prober.answered(true, seconds(36));
        assert_eq!(prober.due(), seconds(45), "those that were missed are not made up for");
    }

    #[test]
    fn unit_a_probe_that_starts_late_runs_at_once() {
        let probe = Probe { initial_delay_seconds: Some(5), ..Probe::default() };
        assert_eq!(Prober::new(&probe, seconds(60)).due(), seconds(60));
        assert_eq!(Prober::new(&probe, seconds(2)).due(), seconds(5));
    }
}
