//! Files as memory: the one place of this crate with unsafe code.
#![expect(unsafe_code, reason = "mapping a file is unsafe by nature")]

use std::fs::File;
use std::io;
use std::path::Path;

/// Maps a whole file that nobody writes to any more.
pub(crate) fn map(path: &Path) -> io::Result<memmap2::Mmap> {
    let file = File::open(path)?;
    // SAFETY: index segments are complete before they get their name and are
    // never written to again; removing one leaves what is mapped in place.
    // Somebody who truncates files inside the store can end the process, not
    // mislead it: what the map says is checked by the digests of the chunks.
    unsafe { memmap2::Mmap::map(&file) }
}

/// Lets the memory go that a map takes: what is looked at again comes from the
/// file again.
pub(crate) fn release(map: &memmap2::Mmap) {
    // SAFETY: the map is shared, of a file, and never written to, so that its
    // pages have the same bytes when they come back.
    let released = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    // It was advice.
    drop(released);
}
