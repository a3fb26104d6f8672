//! A flow and its results.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Port of the backends.
pub const SERVER_PORT: u16 = 9000;

/// Timeout of a response, far longer than delays on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Results of a flow.
#[derive(Default)]
pub struct FlowStats {
    /// Number of responses: echoes, rounds of a stream, connections,
    /// datagrams.
    pub probes: u64,
    /// The longest response time.
    pub slowest: Duration,
    /// Number of segments retransmitted by TCP.
    pub retransmitted: u64,
    /// Error messages.
    pub errors: Vec<String>,
}

impl FlowStats {
    pub fn answered(&mut self, asked: Instant) {
        self.probes += 1;
        self.slowest = self.slowest.max(asked.elapsed());
    }

    pub fn error(&mut self, text: impl fmt::Display) {
        // Only the first errors are kept.
        if self.errors.len() < 20 {
            self.errors.push(text.to_string());
        }
    }
}

/// A flow from one host to a destination.
pub trait Flow: Send + Sync + 'static {
    /// Runs in the network namespace of its source host until told to stop.
    fn run(&self, ends: &AtomicBool) -> FlowStats;
}
