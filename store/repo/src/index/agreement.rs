//! Whether the index says what packs say.

use store_format::PackName;
use store_format::pack::Entry;
use store_format::segment::Place;

use super::snapshot::{Marks, Snapshot, Spot, Walk};
use crate::storage;

/// Entries of packs that are looked up together: 88 bytes each.
const TOGETHER: usize = 1 << 16;

/// What packs have, compared with what the segments of an index list: a bit for
/// each entry that is right.
pub(crate) struct Agreement {
    snapshot: Snapshot,
    right: Marks,
    waiting: Vec<Place>,
}

impl Agreement {
    /// No pack was looked at yet.
    pub(crate) fn new(snapshot: &Snapshot) -> Agreement {
        let waiting = Vec::with_capacity(TOGETHER);
        Agreement { snapshot: snapshot.clone(), right: snapshot.marks(), waiting }
    }

    /// A pack has these.
    pub(crate) fn push(&mut self, pack: PackName, entries: &[Entry]) {
        for entry in entries {
            self.waiting.push(Place { pack, entry: *entry });
            if self.waiting.len() == TOGETHER {
                self.look_up();
            }
        }
    }

    /// Segment by segment and from its start to its end, so that no more than a
    /// part of one is in memory at a time.
    fn look_up(&mut self) {
        self.waiting.sort_unstable_by_key(|place| place.entry.id);
        for (number, mapped) in self.snapshot.segments.iter().enumerate() {
            let Some(segment) = mapped.segment() else { continue };
            let mut walk = Walk::new(mapped);
            for place in &self.waiting {
                if let Some((entry, _)) =
                    segment.all(&place.entry.id).find(|(_, found)| found == place)
                {
                    self.right.insert(Spot { segment: number, number: entry });
                    walk.reach(entry);
                }
            }
        }
        self.waiting.clear();
    }

    /// The files of segments that are damaged, or list what is not in packs that
    /// were looked at, and what is wrong with them.
    pub(crate) fn finish(mut self, is_known: impl Fn(&PackName) -> bool) -> Vec<(String, String)> {
        self.look_up();
        let mut wrong = Vec::new();
        for (number, mapped) in self.snapshot.segments.iter().enumerate() {
            let what = match mapped.verify() {
                Err(error) => error.to_string(),
                Ok(()) if self.lists_others(number, &is_known) => {
                    "it lists chunks that are not in the packs".to_owned()
                }
                Ok(()) => continue,
            };
            wrong.push((storage::index_key(&mapped.name).to_string(), what));
        }
        wrong
    }

    /// Whether a segment lists what is not in packs that were looked at.
    fn lists_others(&self, number: usize, is_known: impl Fn(&PackName) -> bool) -> bool {
        let Some(mapped) = self.snapshot.segments.get(number) else { return false };
        let Some(segment) = mapped.segment() else { return true };
        let mut walk = Walk::new(mapped);
        segment.iter().enumerate().any(|(entry, place)| {
            walk.reach(entry);
            let is_right = || self.right.contains(Spot { segment: number, number: entry });
            place.is_ok_and(|place| is_known(&place.pack) && !is_right())
        })
    }
}
