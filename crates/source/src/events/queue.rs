//! Which problem is to be told when: bounded, limited, spread over the nodes.
//! Pure: time comes in, what to do comes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use beeline_model::Problem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::debug;

use super::{EventCounts, ProblemChanges};

/// Problems that are kept. One more takes the place of the one that was told
/// longest ago, which is then not repeated; if none was told yet, it is
/// dropped and counted.
pub(super) const PROBLEMS_MAX: usize = 512;
/// Events that a node may write at once...
pub(super) const BURST: u32 = 25;
/// ...and then one in each of these.
pub(super) const REFILL_INTERVAL: Duration = Duration::from_secs(5);
/// A problem of the whole cluster is published within this time for each node that
/// may tell it...
const JITTER_PER_NODE: Duration = Duration::from_millis(20);
/// ...and within this.
const JITTER_MAX: Duration = Duration::from_secs(60);
/// Kubernetes keeps an event for an hour: whoever wrote it repeats it then,
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_secs(3600);
/// and the others look later whether somebody did, at some time in the span.
pub(super) const RECHECK: Duration = Duration::from_secs(3720);
const RECHECK_JITTER: Duration = Duration::from_secs(300);
/// After a failure: the first pause, and the last, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Without the right to write events it is tried as rarely as this.
pub(super) const FORBIDDEN_RETRY: Duration = Duration::from_secs(600);

/// What came of an attempt to write an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This node wrote it, for the time of this number.
    Created(i32),
    /// It is there already.
    AlreadyExists,
    /// The object, or its namespace, is not there any more.
    ObjectDeleted,
    /// This node may not.
    Forbidden(String),
    /// The API server does not take this event, now or later.
    Invalid(String),
    /// It may work another time.
    Failed(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write the event; the number says how often this node wrote it before.
    Publish(Problem, i32),
    /// Nothing before this time has passed, unless problems change.
    Wait(Duration),
    /// Nothing at all.
    Idle,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    /// There is an event.
    published: bool,
    /// How often this node wrote it.
    written: i32,
}

#[derive(Debug)]
pub(super) struct EventQueue {
    entries: BTreeMap<Problem, Entry>,
    tokens: u32,
    refilled: Instant,
    /// Nothing is tried before.
    resume: Instant,
    backoff: Duration,
    counts: EventCounts,
    random: StdRng,
}

impl EventQueue {
    pub(super) fn new(now: Instant, seed: u64) -> EventQueue {
        EventQueue {
            entries: BTreeMap::new(),
            tokens: BURST,
            refilled: now,
            resume: now,
            backoff: BACKOFF_MIN,
            counts: EventCounts::default(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn counts(&self) -> EventCounts {
        self.counts
    }

    pub(super) fn update(&mut self, now: Instant, changes: ProblemChanges) {
        for resolved in &changes.resolved {
            self.entries.remove(resolved);
        }
        let nodes = u32::try_from(changes.nodes).unwrap_or(u32::MAX);
        let spread = JITTER_PER_NODE.saturating_mul(nodes).min(JITTER_MAX);
        for problem in changes.added {
            if !self.make_room() {
                self.counts.dropped += 1;
                debug!("event queue is full, no event for: {problem}");
                continue;
            }
            let delay = if problem.is_local() { Duration::ZERO } else { self.random_up_to(spread) };
            self.entries.insert(problem, Entry { due: now + delay, published: false, written: 0 });
        }
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() < PROBLEMS_MAX {
            return true;
        }
        let published = self.entries.iter().filter(|(_, entry)| entry.published);
        let Some(oldest) = published.min_by_key(|(_, entry)| entry.due).map(|(problem, _)| problem.clone())
        else {
            return false;
        };
        self.entries.remove(&oldest).is_some()
    }

    fn random_up_to(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.random.random_range(0.0..1.0))
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        let Some((problem, entry)) = self.entries.iter().min_by_key(|(_, entry)| entry.due) else {
            return Next::Idle;
        };
        let due = entry.due.max(self.resume);
        if due > now {
            return Next::Wait(due - now);
        }
        let next = Next::Publish(problem.clone(), entry.written);
        match self.take_token(now) {
            Ok(()) => next,
            Err(pause) => Next::Wait(pause),
        }
    }

    /// A right to write, or how long it takes until there is one.
    fn take_token(&mut self, now: Instant) -> Result<(), Duration> {
        while self.tokens < BURST && now >= self.refilled + REFILL_INTERVAL {
            self.tokens += 1;
            self.refilled += REFILL_INTERVAL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.refilled + REFILL_INTERVAL - now),
        }
    }

    /// What came of [`Next::Publish`]. The problem may be gone meanwhile.
    pub(super) fn report(&mut self, now: Instant, problem: &Problem, outcome: Outcome) {
        match outcome {
            Outcome::Created(written) => self.mark_published(problem, written, now + REPEAT_INTERVAL),
            Outcome::AlreadyExists => {
                let due = now + RECHECK + self.random_up_to(RECHECK_JITTER);
                self.mark_published(problem, 0, due);
            }
            Outcome::ObjectDeleted => drop(self.entries.remove(problem)),
            Outcome::Invalid(why) => {
                debug!("the API server rejected the event ({why}) for: {problem}");
                self.counts.failed += 1;
                self.entries.remove(problem);
            }
            Outcome::Forbidden(_) => {
                self.counts.failed += 1;
                self.resume = now + FORBIDDEN_RETRY;
            }
            Outcome::Failed(why) => {
                debug!("cannot write an event ({why}), retrying: {problem}");
                self.counts.failed += 1;
                self.resume = now + self.backoff / 2 + self.random_up_to(self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    fn mark_published(&mut self, problem: &Problem, written: i32, due: Instant) {
        self.backoff = BACKOFF_MIN;
        self.counts.published += 1;
        if let Some(entry) = self.entries.get_mut(problem) {
            *entry = Entry { due, published: true, written };
        }
    }
}

#[cfg(test)]
mod tests;
