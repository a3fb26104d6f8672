use super::*;
use beeline_model::{Kind, ObjectName, Reason};

const MINUTE: Duration = Duration::from_secs(60);

fn problem(number: usize) -> Problem {
    Problem {
        kind: Kind::Service,
        name: ObjectName::new("shop", format!("web-{number}")),
        reason: Reason::FrontendCollision,
        message: "its port is another's".to_owned(),
    }
}

fn appear(problems: impl IntoIterator<Item = Problem>, nodes: usize) -> ProblemChanges {
    ProblemChanges { added: problems.into_iter().collect(), resolved: Vec::new(), nodes }
}

/// A node and its clock.
struct Node {
    queue: EventQueue,
    start: Instant,
    now: Instant,
}

impl Node {
    fn new(seed: u64) -> Node {
        let now = Instant::now();
        Node { queue: EventQueue::new(now, seed), start: now, now }
    }

    /// Runs until a time relative to the start. Returns the times of the
    /// attempts.
    fn work_until(
        &mut self,
        end: Duration,
        mut answer: impl FnMut(&Problem, i32) -> Outcome,
    ) -> Vec<Duration> {
        let end = self.start + end;
        let mut published = Vec::new();
        loop {
            match self.queue.next(self.now) {
                Next::Publish(problem, written) => {
                    published.push(self.now - self.start);
                    let outcome = answer(&problem, written);
                    self.queue.report(self.now, &problem, outcome);
                }
                Next::Wait(pause) if self.now + pause <= end => self.now += pause,
                _ => {
                    self.now = end;
                    return published;
                }
            }
        }
    }
}

fn created(_: &Problem, written: i32) -> Outcome {
    Outcome::Created(written + 1)
}

#[test]
fn unit_a_burst_is_published_at_once_and_the_rest_at_a_steady_rate() {
    let mut node = Node::new(1);
    node.queue.update(node.now, appear((0..100).map(problem), 0));
    let published = node.work_until(30 * MINUTE, created);
    assert_eq!(published.len(), 100, "nothing is forgotten");
    assert_eq!(published[BURST as usize - 1], Duration::ZERO);
    for (number, at) in published.iter().enumerate().skip(BURST as usize) {
        assert_eq!(*at, REFILL_INTERVAL * (number as u32 + 1 - BURST), "event {number}");
    }
    assert_eq!(node.queue.counts(), EventCounts { published: 100, ..EventCounts::default() });
    // After a pause a new burst is allowed.
    node.queue.update(node.now, appear((100..200).map(problem), 0));
    let published = node.work_until(31 * MINUTE, created);
    assert_eq!(published.iter().filter(|at| **at == 30 * MINUTE).count(), BURST as usize);
}

#[test]
fn unit_the_queue_is_bounded_and_counts_what_it_drops() {
    let mut node = Node::new(2);
    node.queue.update(node.now, appear((0..PROBLEMS_MAX + 7).map(problem), 1));
    assert_eq!((node.queue.entries.len(), node.queue.counts().dropped), (PROBLEMS_MAX, 7));
    // Published problems are evicted for new ones, others are not.
    node.work_until(MINUTE, created);
    let published = node.queue.counts().published as usize;
    assert!((BURST as usize..PROBLEMS_MAX).contains(&published), "{published}");
    node.queue.update(node.now, appear((1000..1000 + published + 1).map(problem), 1));
    assert_eq!((node.queue.entries.len(), node.queue.counts().dropped), (PROBLEMS_MAX, 8));
}

#[test]
fn unit_a_cluster_publishes_once_and_spreads_attempts_over_time() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    for (nodes, longest) in [(1, 40), (2, 80), (100, 4_000), (10_000, 60_000)] {
        let longest = Duration::from_millis(longest);
        let mut tries: Vec<Duration> = (0..nodes.min(200) as u64)
            .map(|number| {
                let mut node = Node::new(seed.wrapping_add(number));
                node.queue.update(node.now, appear([problem(1)], nodes));
                node.work_until(10 * MINUTE, |_, _| Outcome::AlreadyExists)[0]
            })
            .collect();
        tries.sort();
        assert!(*tries.last().unwrap() <= longest, "{nodes} nodes: {tries:?}");
        // A tenth of the time has about a tenth of the attempts.
        if nodes >= 100 {
            let spread = Duration::from_millis(20 * nodes as u64).min(MINUTE);
            let early = tries.iter().filter(|at| **at < spread / 10).count();
            assert!(early < tries.len() / 3, "seed {seed}: {nodes} nodes: {early} of {}", tries.len());
        }
    }
    let mut local = problem(1);
    local.kind = Kind::Pod;
    let mut node = Node::new(seed);
    node.queue.update(node.now, appear([local], 10_000));
    assert_eq!(node.work_until(MINUTE, created), [Duration::ZERO], "no other node can report it");
}

#[test]
fn unit_lasting_problems_are_repeated_by_the_writer_and_rechecked_by_other_nodes() {
    let mut writer = Node::new(3);
    writer.queue.update(writer.now, appear([problem(1)], 0));
    let mut numbers = Vec::new();
    let published = writer.work_until(REPEAT_INTERVAL * 3, |_, written| {
        numbers.push(written);
        Outcome::Created(written + 1)
    });
    assert_eq!(published, [Duration::ZERO, REPEAT_INTERVAL, REPEAT_INTERVAL * 2, REPEAT_INTERVAL * 3]);
    assert_eq!(numbers, [0, 1, 2, 3]);

    let mut other = Node::new(4);
    other.queue.update(other.now, appear([problem(1)], 0));
    let published = other.work_until(REPEAT_INTERVAL * 2, |_, written| {
        assert_eq!(written, 0, "it is not this node's to repeat");
        Outcome::AlreadyExists
    });
    assert_eq!(published.len(), 2, "{published:?}");
    assert!(
        published[1] >= RECHECK && published[1] <= RECHECK + RECHECK_JITTER,
        "after the writer: {published:?}"
    );
}

#[test]
fn unit_resolved_problems_are_not_published() {
    let mut node = Node::new(5);
    node.queue.update(node.now, appear((0..3).map(problem), 0));
    node.queue.update(node.now, ProblemChanges { resolved: vec![problem(1)], ..ProblemChanges::default() });
    let mut published = Vec::new();
    node.work_until(MINUTE, |problem, _| {
        published.push(problem.clone());
        if *problem == self::problem(0) { Outcome::ObjectDeleted } else { Outcome::Created(1) }
    });
    assert_eq!(published, [problem(0), problem(2)]);
    let again = node.work_until(REPEAT_INTERVAL + MINUTE, created);
    assert_eq!(again.len(), 1, "the object of the first is gone");
    // A recreated object has its problem again.
    let changes = ProblemChanges { resolved: vec![problem(2)], ..appear([problem(2)], 0) };
    node.queue.update(node.now, changes);
    assert_eq!(node.queue.next(node.now), Next::Publish(problem(2), 0));
}

#[test]
fn unit_failures_back_off_and_missing_permission_is_retried_rarely() {
    let mut node = Node::new(6);
    node.queue.update(node.now, appear((0..2).map(problem), 0));
    let tries = node.work_until(60 * MINUTE, |_, _| Outcome::Failed("no answer".to_owned()));
    assert!((40..140).contains(&tries.len()), "{} attempts", tries.len());
    assert!(tries[1] - tries[0] <= BACKOFF_MIN * 2, "{tries:?}");
    let published = node.work_until(64 * MINUTE, created);
    assert_eq!(published.len(), 2, "both at once, when it works again");
    assert_eq!(node.queue.counts().failed, tries.len() as u64);

    let mut node = Node::new(7);
    node.queue.update(node.now, appear((0..2).map(problem), 0));
    let tries = node.work_until(35 * MINUTE, |_, _| Outcome::Forbidden("no right".to_owned()));
    assert_eq!(tries, [0, 1, 2, 3].map(|number| FORBIDDEN_RETRY * number));
    node.queue.report(node.now, &problem(0), Outcome::Invalid("no".to_owned()));
    let published = node.work_until(45 * MINUTE, created);
    assert_eq!(published.len(), 1, "what the API server does not take is given up");
}
