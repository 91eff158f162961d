//! What is known of a partition.

use std::ops::Range;

use crate::{EDGES_MAX, FREE_MAX, Kind};

/// The free bytes of a partition, and the edges of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// The file system.
    pub kind: Kind,
    /// Bytes that are never read, by rising offset, not touching each other.
    pub free: Vec<Range<u64>>,
    /// Offsets at which a file, or a structure of the file system, begins or
    /// ends, rising. Empty if there are too many.
    pub edges: Vec<u64>,
}

impl Map {
    /// Bytes that are never read.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }
}

/// Ranges that are collected in any order.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range; nothing where there are too many.
    pub(crate) fn add(&mut self, range: Range<u64>) -> Option<()> {
        if range.is_empty() {
            return Some(());
        }
        let full = self.0.len() >= FREE_MAX;
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if full => return None,
            _ => self.0.push(range),
        }
        Some(())
    }

    /// By rising offset, those that touch put together.
    pub(crate) fn merged(mut self) -> Vec<Range<u64>> {
        self.0.sort_unstable_by_key(|range| range.start);
        self.0.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
        self.0
    }
}

/// Whether a range shares something with one of some merged ranges.
pub(crate) fn overlaps(merged: &[Range<u64>], range: &Range<u64>) -> bool {
    let next = merged.partition_point(|other| other.end <= range.start);
    merged.get(next).is_some_and(|other| other.start < range.end && !range.is_empty())
}

/// A range without some merged ranges.
pub(crate) fn without(range: Range<u64>, merged: &[Range<u64>]) -> Vec<Range<u64>> {
    let first = merged.partition_point(|other| other.end <= range.start);
    let mut left = Vec::new();
    let mut at = range.start;
    for other in merged[first..].iter().take_while(|other| other.start < range.end) {
        if at < other.start {
            left.push(at..other.start);
        }
        at = other.end.max(at);
    }
    if at < range.end {
        left.push(at..range.end);
    }
    left
}

/// Edges that are collected in any order.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    list: Vec<u64>,
    too_many: bool,
}

impl Edges {
    pub(crate) fn add(&mut self, range: &Range<u64>) {
        if self.list.len() + 2 > EDGES_MAX {
            self.too_many = true;
        }
        if !self.too_many {
            self.list.extend([range.start, range.end]);
        }
    }

    /// By rising offset, each once; none if there were too many.
    pub(crate) fn sorted(mut self) -> Vec<u64> {
        if self.too_many {
            return Vec::new();
        }
        self.list.sort_unstable();
        self.list.dedup();
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_subtracted_and_compared() {
        let mut ranges = Ranges::default();
        for range in [40..50, 0..10, 10..20, 45..60, 70..70] {
            ranges.add(range).unwrap();
        }
        let merged = ranges.merged();
        assert_eq!(merged, [0..20, 40..60]);
        assert!(overlaps(&merged, &(19..21)) && overlaps(&merged, &(30..41)));
        assert!(!overlaps(&merged, &(20..40)) && !overlaps(&merged, &(60..90)));
        assert_eq!(without(10..70, &merged), [20..40, 60..70]);
        assert_eq!(without(0..20, &merged), []);
        assert_eq!(without(20..40, &merged).as_slice(), std::slice::from_ref(&(20..40)));
    }
}
