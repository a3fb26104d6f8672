//! The queue of problems to publish: bounded, rate limited, and spread over the
//! nodes. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use beeline_model::Problem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::debug;

use super::{EventCounts, ProblemChanges};

/// Maximum number of queued problems. A further one replaces the problem that
/// was published longest ago, which is then not repeated. If none was published
/// yet, the new one is dropped and counted.
pub(super) const PROBLEMS_MAX: usize = 512;
/// Events that a node may write in a burst.
pub(super) const BURST: u32 = 25;
/// Interval after which one more event may be written.
pub(super) const REFILL_INTERVAL: Duration = Duration::from_secs(5);
/// A cluster-wide problem is published after a random delay of up to this time
/// per node,
const JITTER_PER_NODE: Duration = Duration::from_millis(20);
/// and up to this time in total.
const JITTER_MAX: Duration = Duration::from_secs(60);
/// Kubernetes keeps an event for an hour. The node that wrote it repeats it
/// after this time,
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_secs(3600);
/// and the other nodes check later, with a random delay, whether it still
/// exists.
pub(super) const RECHECK: Duration = Duration::from_secs(3720);
const RECHECK_JITTER: Duration = Duration::from_secs(300);
/// Backoff after a failure, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Retry interval if the API server forbids writing events.
pub(super) const FORBIDDEN_RETRY: Duration = Duration::from_secs(600);

/// The outcome of an attempt to write an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written by this node; how often so far.
    Created(i32),
    /// The event already exists.
    AlreadyExists,
    /// The object, or its namespace, does not exist.
    ObjectDeleted,
    /// The agent is not permitted to write events.
    Forbidden(String),
    /// The API server rejects this event permanently.
    Invalid(String),
    /// Temporary failure.
    Failed(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write the event; the number is how often this node wrote it before.
    Publish(Problem, i32),
    /// Nothing is due before this time, unless problems change.
    Wait(Duration),
    /// The queue is empty.
    Idle,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    /// An event exists.
    published: bool,
    /// How often this node wrote it.
    written: i32,
}

#[derive(Debug)]
pub(super) struct EventQueue {
    entries: BTreeMap<Problem, Entry>,
    tokens: u32,
    refilled: Instant,
    /// No attempt is made before this time.
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

    /// Takes a token of the rate limit, or returns the time until there is one.
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

    /// Records the outcome of [`Next::Publish`]. The problem may be resolved in
    /// the meantime.
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
