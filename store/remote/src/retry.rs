//! Waiting between tries.

use std::time::{Duration, Instant};

/// Time and randomness, so that tests need neither.
pub trait Timing: Send + Sync {
    /// Time since some moment, never going back.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration);
    /// Any number, evenly spread.
    fn random(&self) -> u64;
}

/// The clock of the system, and the random numbers that the standard library
/// seeds its hash maps with: good for spreading load, not for secrets.
#[derive(Debug)]
pub struct SystemTiming {
    start: Instant,
}

impl Default for SystemTiming {
    fn default() -> SystemTiming {
        SystemTiming { start: Instant::now() }
    }
}

impl Timing for SystemTiming {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}

/// How long to wait before the next try: twice as long after each, up to a
/// limit, and a random half less, so that a thousand machines do not come
/// back in the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row, 1 or more.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let half = full / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_millis(random % spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_are_spread() {
        let backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(10) };
        for (failures, full) in [(1, 200), (2, 400), (3, 800), (7, 10_000), (u32::MAX, 10_000)] {
            let half = full / 2;
            assert_eq!(backoff.delay(failures, 0), Duration::from_millis(half));
            assert_eq!(backoff.delay(failures, half), Duration::from_millis(full));
        }
    }
}
