//! How far a long step is, for people and for the log, at a bearable rate.

use std::time::Duration;

/// Decides when a long step says how far it is.
#[derive(Debug)]
pub struct Meter {
    first: u64,
    total: u64,
    started: Duration,
    next: Duration,
}

/// Least time between two reports of one step.
const INTERVAL: Duration = Duration::from_secs(2);

impl Meter {
    /// Starts measuring at `now`, from `first` bytes that were done before
    /// towards `total` bytes.
    pub fn new(first: u64, total: u64, now: Duration) -> Meter {
        Meter { first, total, started: now, next: now + INTERVAL }
    }

    /// Whether it is time to report again.
    pub fn due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + INTERVAL;
        }
        due
    }

    /// `42 %, 512 of 1200 MiB, 88 MiB/s, 0:12 left`.
    pub fn line(&self, done: u64, now: Duration) -> String {
        let elapsed = now.saturating_sub(self.started).as_millis().max(1);
        let moved = u128::from(done.saturating_sub(self.first));
        let rate = u64::try_from(moved * 1000 / elapsed).unwrap_or(u64::MAX);
        let percent = u128::from(done) * 100 / u128::from(self.total.max(1));
        let mut line =
            format!("{percent} %, {} of {}, {}/s", size(done), size(self.total), size(rate));
        if let Some(left) = self.total.saturating_sub(done).checked_div(rate) {
            line += &format!(", {}:{:02} left", left / 60, left % 60);
        }
        line
    }
}

/// A size as people read it: `512 B`, `37 KiB`, `1.4 MiB`, `88 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_percent_rate_and_time_left() {
        let start = Duration::from_secs(10);
        let mut meter = Meter::new(0, 1200 << 20, start);
        assert!(!meter.due(start + Duration::from_secs(1)));
        let now = start + Duration::from_secs(4);
        assert!(meter.due(now));
        assert!(!meter.due(now));
        assert_eq!(meter.line(400 << 20, now), "33 %, 400 MiB of 1.1 GiB, 100 MiB/s, 0:08 left");
        assert_eq!(meter.line(0, now), "0 %, 0 B of 1.1 GiB, 0 B/s");
        let resumed = Meter::new(80, 100, start);
        assert_eq!(resumed.line(90, now), "90 %, 90 B of 100 B, 2 B/s, 0:05 left");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 20, "10 MiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16383 PiB");
    }
}
