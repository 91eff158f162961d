//! A disk of this computer that an image shall be written to: what it is, and
//! why it must not be touched.

mod compare;
mod medium;
#[cfg(test)]
mod testing;
mod usage;
mod write;

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{major, minor};
use serde::Serialize;

use crate::exit::{Code, Failure};
pub use compare::{Lack, compare};
pub use medium::{How, Medium};
use usage::Number;
pub use write::{Ends, Writer, Written};

/// A disk that may be written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// As it was named.
    pub path: PathBuf,
    /// Whether it is a block device; else a file that stands for one.
    pub block_device: bool,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes of one of its sectors; a file takes any.
    pub sector_bytes: Option<u32>,
    /// What it calls itself: model and serial number.
    pub model: Option<String>,
}

/// Looks at `path` and refuses what cannot or must not be written to.
pub fn inspect(path: &Path) -> anyhow::Result<Disk> {
    let name = path.display();
    let meta = fs::metadata(path).map_err(|error| not_there(path, error))?;
    let kind = meta.file_type();
    if kind.is_file() {
        let size_bytes = meta.len();
        return Ok(Disk {
            path: path.to_owned(),
            block_device: false,
            size_bytes,
            sector_bytes: None,
            model: None,
        });
    }
    if !kind.is_block_device() {
        return Err(Failure::new(Code::Refused, format!("{name} is not a disk"))
            .next("name a block device such as /dev/sdx, or an existing file")
            .into());
    }
    let number = Number { major: major(meta.rdev()), minor: minor(meta.rdev()) };
    let usage =
        usage::of(number).with_context(|| format!("cannot tell what {name} is used for"))?;
    if let Some(whole) = usage.part_of {
        return Err(Failure::new(Code::Refused, format!("{name} is a partition, not a disk"))
            .next(format!("an image is a whole disk: name /dev/{whole}"))
            .into());
    }
    if let Some(user) = usage.in_use {
        return Err(Failure::new(Code::Refused, format!("{name} is in use: {user}"))
            .next("unmount it, or choose another disk")
            .into());
    }
    Ok(Disk {
        path: path.to_owned(),
        block_device: true,
        size_bytes: size(path)?,
        sector_bytes: usage.sector_bytes,
        model: usage.model,
    })
}

/// Opens the disk for writing and for reading back. A block device is claimed:
/// the kernel refuses that while anything else uses it, and keeps others off.
pub fn open(disk: &Disk) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if disk.block_device {
        options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
    }
    options.open(&disk.path).with_context(|| {
        Failure::new(Code::Refused, format!("cannot claim {} for writing", disk.path.display()))
            .next("something else uses it, or you lack the permission: try as root")
    })
}

/// Opens the disk for looking at it.
pub fn open_to_read(disk: &Disk) -> anyhow::Result<File> {
    File::open(&disk.path).with_context(|| {
        Failure::new(Code::Refused, format!("cannot read {}", disk.path.display()))
            .next("you lack the permission: try as root")
    })
}

/// A block device has no length in its metadata; its end can be sought.
fn size(path: &Path) -> anyhow::Result<u64> {
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .with_context(|| format!("cannot tell the size of {}", path.display()))
}

fn not_there(path: &Path, error: std::io::Error) -> anyhow::Error {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Failed,
    };
    let next = "`lsblk` lists the disks; a file must exist and have the disk's size: \
                truncate -s 10G FILE";
    anyhow::Error::new(error)
        .context(Failure::new(code, format!("cannot look at {}", path.display())).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    #[test]
    fn a_file_stands_for_a_disk_and_a_folder_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        fs::write(&file, [0; 512]).unwrap();
        let disk = inspect(&file).unwrap();
        assert_eq!((disk.block_device, disk.size_bytes, disk.sector_bytes), (false, 512, None));
        let code = |path: &Path| code_of(&inspect(path).unwrap_err());
        assert_eq!(code(folder.path()), Code::Refused);
        assert_eq!(code(&folder.path().join("none")), Code::NotFound);
        assert_eq!(code(Path::new("/dev/null")), Code::Refused);
    }
}
