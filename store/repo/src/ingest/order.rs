//! Putting in order what several threads finish in any order.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

/// What has a place in an order, counted from 0 without gaps.
pub(super) trait Numbered {
    fn number(&self) -> u64;
}

/// What a channel brings, in order, until it ends. As much waits as those who
/// send may be apart.
pub(super) fn in_order<T: Numbered>(from: &Receiver<T>) -> impl Iterator<Item = T> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    std::iter::from_fn(move || {
        loop {
            if let Some(item) = early.remove(&next) {
                next += 1;
                return Some(item);
            }
            let item = from.recv().ok()?;
            early.insert(item.number(), item);
        }
    })
}
