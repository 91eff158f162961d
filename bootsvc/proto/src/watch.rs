//! Notices machines that fetch their boot program over and over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::Mac;

/// Counts fetches of boot programs per machine.
#[derive(Debug, Default)]
pub struct LoopWatch {
    fetches: BTreeMap<Mac, VecDeque<Duration>>,
}

/// A machine fetched more often than any boot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looping {
    /// The machine.
    pub mac: Mac,
    /// Fetches within [`LoopWatch::PERIOD`].
    pub fetches: usize,
}

impl LoopWatch {
    /// Fetches in a period that are still no loop: firmware, then iPXE, and one retry.
    pub const FETCHES_MAX: usize = 3;

    /// How far back fetches count.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// Most machines watched at a time. Beyond it, those without a fetch in the
    /// period are forgotten, then the one whose last fetch is the oldest.
    pub const MACHINES_MAX: usize = 4096;

    /// `mac` fetched a boot program. Tells of a loop once per
    /// [`FETCHES_MAX`](Self::FETCHES_MAX) + 1 fetches, not at every further one.
    pub fn fetched(&mut self, now: Duration, mac: Mac) -> Option<Looping> {
        if self.fetches.len() >= Self::MACHINES_MAX && !self.fetches.contains_key(&mac) {
            self.evict(now);
        }
        let times = self.fetches.entry(mac).or_default();
        times.retain(|time| now.saturating_sub(*time) < Self::PERIOD);
        times.push_back(now);
        let fetches = times.len();
        if fetches <= Self::FETCHES_MAX {
            return None;
        }
        times.clear();
        Some(Looping { mac, fetches })
    }

    fn evict(&mut self, now: Duration) {
        let last = |times: &VecDeque<Duration>| times.back().copied().unwrap_or_default();
        self.fetches.retain(|_, times| now.saturating_sub(last(times)) < Self::PERIOD);
        if self.fetches.len() >= Self::MACHINES_MAX {
            let oldest = self.fetches.iter().min_by_key(|(_, times)| last(times));
            if let Some(mac) = oldest.map(|(mac, _)| *mac) {
                self.fetches.remove(&mac);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn q11_more_than_three_fetches_in_a_minute_are_a_loop() {
        let mut watch = LoopWatch::default();
        let at = Duration::from_secs;
        for second in 0..3 {
            assert_eq!(watch.fetched(at(second), mac(1)), None);
        }
        assert_eq!(watch.fetched(at(59), mac(1)), Some(Looping { mac: mac(1), fetches: 4 }));
        assert_eq!(watch.fetched(at(60), mac(1)), None, "told once");
    }

    #[test]
    fn slow_fetches_are_no_loop() {
        let mut watch = LoopWatch::default();
        for n in 0..20 {
            assert_eq!(watch.fetched(Duration::from_secs(n * 21), mac(1)), None);
        }
    }

    #[test]
    fn remembers_a_bounded_number_of_machines() {
        let mut watch = LoopWatch::default();
        for n in 0..10_000 {
            watch.fetched(Duration::from_millis(n.into()), mac(n));
        }
        assert_eq!(watch.fetches.len(), LoopWatch::MACHINES_MAX);
        assert!(watch.fetches.contains_key(&mac(9_999)));
    }
}
