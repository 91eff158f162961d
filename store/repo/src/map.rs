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
