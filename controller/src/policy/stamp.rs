//! Whether a file that people edit has changed, and may be read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a file has to be left alone before it is read: an editor that
/// writes in place, or a copy, is half there for a moment.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// Of a file as it is now, if it is there.
    pub fn of(path: &Path) -> Option<Stamp> {
        let metadata = path.metadata().ok()?;
        let modified = metadata.modified().ok();
        Some(Stamp { modified, bytes: metadata.len(), inode: metadata.ino() })
    }

    /// Whether the file is left alone. One from the future is a clock that is
    /// wrong, and no reason to wait for.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let age = self.modified.and_then(|modified| now.duration_since(modified).ok());
        age.is_none_or(|age| age >= SETTLED)
    }
}
