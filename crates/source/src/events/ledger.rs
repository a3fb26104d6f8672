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
pub(super) const REFILL: Duration = Duration::from_secs(5);
/// A problem of the whole cluster is told within this time for each node that
/// may tell it...
const SPREAD_PER_NODE: Duration = Duration::from_millis(20);
/// ...and within this.
const SPREAD_MAX: Duration = Duration::from_secs(60);
/// Kubernetes keeps an event for an hour: whoever wrote it repeats it then,
pub(super) const REPEAT: Duration = Duration::from_secs(3600);
/// and the others look later whether somebody did, at some time in the span.
pub(super) const LOOK: Duration = Duration::from_secs(3720);
const LOOK_SPAN: Duration = Duration::from_secs(300);
/// After a failure: the first pause, and the last, doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(60);
/// Without the right to write events it is tried as rarely as this.
pub(super) const FORBIDDEN_PAUSE: Duration = Duration::from_secs(600);

/// What came of an attempt to write an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This node wrote it, for the time of this number.
    Created(i32),
    /// It is there already.
    Known,
    /// The object, or its namespace, is not there any more.
    Gone,
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
    Tell(Problem, i32),
    /// Nothing before this time has passed, unless problems change.
    Wait(Duration),
    /// Nothing at all.
    Idle,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    /// There is an event.
    told: bool,
    /// How often this node wrote it.
    written: i32,
}

#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<Problem, Entry>,
    tokens: u32,
    refilled: Instant,
    /// Nothing is tried before.
    resume: Instant,
    backoff: Duration,
    counts: EventCounts,
    random: StdRng,
}

impl Ledger {
    pub(super) fn new(now: Instant, seed: u64) -> Ledger {
        Ledger {
            entries: BTreeMap::new(),
            tokens: BURST,
            refilled: now,
            resume: now,
            backoff: BACKOFF_FIRST,
            counts: EventCounts::default(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn counts(&self) -> EventCounts {
        self.counts
    }

    pub(super) fn change(&mut self, now: Instant, changes: ProblemChanges) {
        for gone in &changes.gone {
            self.entries.remove(gone);
        }
        let nodes = u32::try_from(changes.nodes).unwrap_or(u32::MAX);
        let spread = SPREAD_PER_NODE.saturating_mul(nodes).min(SPREAD_MAX);
        for problem in changes.appeared {
            if !self.make_room() {
                self.counts.dropped += 1;
                debug!("too many problems at once, no event about this one: {problem}");
                continue;
            }
            let delay = if problem.is_local() { Duration::ZERO } else { self.within(spread) };
            self.entries.insert(problem, Entry { due: now + delay, told: false, written: 0 });
        }
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() < PROBLEMS_MAX {
            return true;
        }
        let told = self.entries.iter().filter(|(_, entry)| entry.told);
        let Some(oldest) = told.min_by_key(|(_, entry)| entry.due).map(|(problem, _)| problem.clone()) else {
            return false;
        };
        self.entries.remove(&oldest).is_some()
    }

    fn within(&mut self, span: Duration) -> Duration {
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
        let next = Next::Tell(problem.clone(), entry.written);
        match self.take_token(now) {
            Ok(()) => next,
            Err(pause) => Next::Wait(pause),
        }
    }

    /// A right to write, or how long it takes until there is one.
    fn take_token(&mut self, now: Instant) -> Result<(), Duration> {
        while self.tokens < BURST && now >= self.refilled + REFILL {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.refilled + REFILL - now),
        }
    }

    /// What came of [`Next::Tell`]. The problem may be gone meanwhile.
    pub(super) fn report(&mut self, now: Instant, problem: &Problem, outcome: Outcome) {
        match outcome {
            Outcome::Created(written) => self.told(problem, written, now + REPEAT),
            Outcome::Known => {
                let due = now + LOOK + self.within(LOOK_SPAN);
                self.told(problem, 0, due);
            }
            Outcome::Gone => drop(self.entries.remove(problem)),
            Outcome::Invalid(why) => {
                debug!("the API server does not take an event ({why}) about {problem}");
                self.counts.failed += 1;
                self.entries.remove(problem);
            }
            Outcome::Forbidden(_) => {
                self.counts.failed += 1;
                self.resume = now + FORBIDDEN_PAUSE;
            }
            Outcome::Failed(why) => {
                debug!("an event is not written ({why}), trying again: {problem}");
                self.counts.failed += 1;
                self.resume = now + self.backoff / 2 + self.within(self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF_LAST);
            }
        }
    }

    fn told(&mut self, problem: &Problem, written: i32, due: Instant) {
        self.backoff = BACKOFF_FIRST;
        self.counts.told += 1;
        if let Some(entry) = self.entries.get_mut(problem) {
            *entry = Entry { due, told: true, written };
        }
    }
}

#[cfg(test)]
mod tests;
