//! What unit tests share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store_remote::Timing;

/// A clock that moves only when somebody sleeps, and counts as random numbers.
#[derive(Debug, Default)]
pub struct FastTiming {
    now_ms: AtomicU64,
    random: AtomicU64,
}

impl Timing for FastTiming {
    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
        std::thread::yield_now();
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(1, Ordering::Relaxed)
    }
}
