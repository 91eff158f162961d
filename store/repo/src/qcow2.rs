//! Writing QEMU's disk format (docs/interop/qcow2.txt of QEMU). What is not
//! written stays unallocated and reads as zeros.

use std::fs::File;
use std::io;

use imago::file::File as Storage;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, qcow2::Qcow2,
};

/// The unit of a disk's size in this format.
const SECTOR_BYTES: u64 = 512;

/// A file in this format that is being written.
pub(crate) struct Writer(FormatAccess<Storage>);

/// The size of the disk that holds as many bytes.
pub(crate) fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

impl Writer {
    /// Makes an empty file a disk of zeros, as long as [`rounded`] says.
    pub(crate) fn create(file: &File, bytes: u64) -> io::Result<Writer> {
        let storage = Storage::try_from(file.try_clone()?)?;
        let new = Qcow2::<Storage>::create_builder(storage).size(rounded(bytes));
        let disk: Qcow2<Storage> = new.create_open(DenyImplicitOpenGate::default(), |storage| {
            Ok(Qcow2::builder(storage).write(true))
        })?;
        Ok(Writer(FormatAccess::new(disk)))
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write(bytes, offset)
    }

    /// Writes what says where everything is. Durable it is not yet.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.0.flush()
    }
}
