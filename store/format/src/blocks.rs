//! Which blocks of a disk differ from what they shall be.

use std::ops::Range;

/// The unit in which disks are compared and written: the page of the kernel's
/// cache, and the physical sector of most disks.
pub const BLOCK: usize = 4096;

/// The stretches of whole blocks, as the disk counts them, where two differ:
/// what is on the disk from `offset` on, and what shall be there. Both have the
/// same length.
pub fn differing(old: &[u8], new: &[u8], offset: u64) -> Vec<Range<usize>> {
    // Less than a block, so it fits.
    let before = (offset % BLOCK as u64) as usize;
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while start < new.len() {
        let end = ((before + start) / BLOCK * BLOCK + BLOCK - before).min(new.len());
        if old.get(start..end) != Some(&new[start..end]) {
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}
