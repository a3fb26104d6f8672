//! Exponential backoff. Pure.

use std::time::Duration;

/// Exponential backoff that doubles from a minimum to a maximum.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Starts at `min` and doubles up to `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { next: min, min, max }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// Starts again at the minimum.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_backoff_doubles_up_to_a_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let mut pauses = || -> Vec<u128> { (0..5).map(|_| backoff.pause().as_millis()).collect() };
        assert_eq!(pauses(), [200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.pause().as_millis(), 200);
    }
}
