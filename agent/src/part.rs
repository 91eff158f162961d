//! A part of a disk as a file system that is read without mounting it.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;

use ext4_view::Ext4Read;

/// Part of a disk, for reading only.
pub struct Part {
    /// The disk.
    pub disk: File,
    /// The first byte of the part.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

impl Ext4Read for Part {
    fn read(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err("the filesystem reaches past its partition".into());
        }
        self.disk.read_exact_at(buffer, self.start + offset)?;
        Ok(())
    }
}
