//! How far frames are read together, found out without keeping any of them.

use super::{GAP_BYTES, PlanLimits, RANGE_BYTES_MAX, REQUEST_BYTES, UNWANTED_PART};

/// A stretch of a pack: a frame, or a range that holds some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Number of the pack; packs are ordered by it.
    pub pack: u32,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

/// What it takes to read some frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests for ranges of packs.
    pub requests: u64,
    /// Bytes of the frames.
    pub wanted_bytes: u64,
    /// Bytes of the ranges: the frames and what lies between them.
    pub wire_bytes: u64,
}

/// Joins frames, which come by rising place in pack after pack, to ranges.
#[derive(Debug, Clone)]
pub struct Joiner {
    limits: PlanLimits,
    last: Option<Stretch>,
}

/// Weighs bytes that are read in vain against requests.
#[derive(Debug, Clone)]
pub struct Weigher {
    /// The narrowest limits first.
    scales: Vec<Scale>,
    last: Option<Stretch>,
}

/// What limits lead to.
#[derive(Debug, Clone)]
struct Scale {
    joiner: Joiner,
    cost: Cost,
}

impl Stretch {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether another stretch lies in it.
    pub fn has(&self, other: &Stretch) -> bool {
        self.pack == other.pack && self.start <= other.start && other.end <= self.end
    }

    /// Whether a frame behind it is read along.
    pub(super) fn joins(&self, next: &Stretch, limits: PlanLimits) -> bool {
        self.pack == next.pack
            && next.start.saturating_sub(self.end) <= limits.gap_bytes_max
            && next.end.max(self.end) - self.start <= limits.range_bytes_max
    }

    fn is_frame(&self, other: &Stretch) -> bool {
        (self.pack, self.start) == (other.pack, other.start)
    }
}

impl Cost {
    /// Bytes that are read in vain.
    pub fn unwanted_bytes(&self) -> u64 {
        self.wire_bytes.saturating_sub(self.wanted_bytes)
    }

    fn has_small_requests(&self) -> bool {
        self.requests > self.wire_bytes.div_ceil(REQUEST_BYTES)
    }

    fn add(&mut self, range: Option<Stretch>) {
        if let Some(range) = range {
            self.requests += 1;
            self.wire_bytes += range.bytes();
        }
    }
}

impl Joiner {
    /// Nothing was joined yet.
    pub fn new(limits: PlanLimits) -> Joiner {
        Joiner { limits, last: None }
    }

    /// Takes a frame, which may come repeatedly; returns the range that ends
    /// before it, if one does.
    pub fn push(&mut self, frame: Stretch) -> Option<Stretch> {
        match &mut self.last {
            Some(last) if last.joins(&frame, self.limits) => {
                last.end = last.end.max(frame.end);
                None
            }
            last => last.replace(frame),
        }
    }

    /// The last range.
    pub fn finish(self) -> Option<Stretch> {
        self.last
    }
}

impl Default for Weigher {
    fn default() -> Weigher {
        let gaps = std::iter::successors(Some(GAP_BYTES), |gap| gap.checked_mul(2));
        let scale = |gap_bytes_max| {
            let limits = PlanLimits { gap_bytes_max, ..PlanLimits::default() };
            Scale { joiner: Joiner::new(limits), cost: Cost::default() }
        };
        let scales = gaps.take_while(|gap| *gap <= RANGE_BYTES_MAX).map(scale).collect();
        Weigher { scales, last: None }
    }
}

impl Weigher {
    /// Takes a frame; they come by rising place in pack after pack, some
    /// repeatedly.
    pub fn push(&mut self, frame: Stretch) {
        let is_new = !self.last.is_some_and(|last| last.is_frame(&frame));
        self.last = Some(frame);
        for Scale { joiner, cost } in &mut self.scales {
            cost.wanted_bytes += if is_new { frame.bytes() } else { 0 };
            cost.add(joiner.push(frame));
        }
    }

    /// The limits to keep: wider ones as long as requests are small and little
    /// is read in vain.
    pub fn choose(mut self) -> (PlanLimits, Cost) {
        self.scales.iter_mut().for_each(|scale| scale.cost.add(scale.joiner.last));
        let mut chosen = (PlanLimits::default(), Cost::default());
        for (number, Scale { joiner, cost }) in self.scales.iter().enumerate() {
            let is_dear = cost.unwanted_bytes() > cost.wanted_bytes / UNWANTED_PART;
            if number > 0 && (is_dear || !chosen.1.has_small_requests()) {
                break;
            }
            chosen = (joiner.limits, *cost);
        }
        chosen
    }
}
