//! How the heap is kept.
#![expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")]

use std::thread;

/// Most arenas of glibc's allocator. It would make up to eight for each core, and each keeps
/// the largest buffers that a thread ever freed in it.
const ARENAS_MAX: usize = 16;

/// Lets the heap have as many arenas as there are cores. To be called first, before there
/// are threads.
pub fn limit() {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(ARENAS_MAX);
    let Ok(arenas) = libc::c_int::try_from(cores) else { return };
    // SAFETY: it sets a number of the allocator, which locks itself for it. Where that is
    // refused nothing changes.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
}
