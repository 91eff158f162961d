//! Which files differ between two images, where a region is an ext4 file system.

use std::sync::Arc;

use serde::Serialize;
use store_format::{Envelope, Region};
use wire::Digest;

use super::ext4::{self, Failure};
use super::{ImageDiff, RegionDiff};
use crate::open::Repo;
use crate::read::ReadError;
use crate::reader::Reader;

/// The files of a region that two images have, and that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilesDiff {
    /// Name of the region in the wanted image.
    pub region: String,
    /// Number of the partition that it is there.
    pub partition: Option<u32>,
    /// Why its files were not compared; `None` where they were.
    pub skipped: Option<String>,
    /// The files that differ, by path.
    pub files: Vec<FileDiff>,
}

/// A file that differs, or that only one image has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDiff {
    /// Its path in the file system. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What became of it.
    pub change: Change,
    /// What of it differs; empty where only one image has it.
    pub differs: Vec<Aspect>,
    /// The file in the image that is there.
    pub from: Option<File>,
    /// The file in the wanted image.
    pub to: Option<File>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the wanted image has it.
    Added,
    /// Only the image that is there has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
}

/// What can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// Whether it is a file, a directory, or something else.
    Kind,
    /// The bytes of a file.
    Content,
    /// The permissions.
    Mode,
    /// User or group.
    Owner,
    /// Where a symbolic link leads.
    Target,
}

/// A file, directory, or something else in a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file, 0 for everything else.
    pub bytes: u64,
    /// Permissions in octal.
    pub mode: String,
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Where a symbolic link leads. Bytes that are no UTF-8 are replaced.
    pub target: Option<String>,
}

/// What something in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// A region of both images.
struct Pair {
    old: Reader,
    new: Reader,
}

impl Repo {
    /// Looks into the regions that differ and that both images have. Files of
    /// equal length are read and compared, those of the same directory one after
    /// the other; nothing is kept but what differs.
    pub async fn diff_files(
        self: &Arc<Self>,
        diff: &ImageDiff,
    ) -> Result<Vec<FilesDiff>, ReadError> {
        let (old, new) = (self.envelope(&diff.from).await?, self.envelope(&diff.to).await?);
        let mut found = Vec::new();
        for region in diff.regions.iter().filter(|region| !region.same) {
            let (Some(before), Some(after)) = (old_region(&old, region), new_region(&new, region))
            else {
                continue;
            };
            let pair = Pair {
                old: self.region(&diff.from, before).await?,
                new: self.region(&diff.to, after).await?,
            };
            let work = tokio::task::spawn_blocking(move || compare(pair));
            let (skipped, files) = match work.await.map_err(|_| ReadError::Broken)? {
                Ok(files) => (None, files),
                Err(Failure::Store(error)) => return Err(error),
                // Boot code and gaps are nothing that one expects files in.
                Err(Failure::Other { .. }) if region.partition.is_none() => continue,
                Err(Failure::Other { why }) => (Some(why), Vec::new()),
            };
            let (region, partition) = (region.name.clone(), region.partition);
            found.push(FilesDiff { region, partition, skipped, files });
        }
        Ok(found)
    }

    async fn region(
        self: &Arc<Self>,
        image: &Digest,
        region: &Region,
    ) -> Result<Reader, ReadError> {
        self.reader(image, region.start..region.start.saturating_add(region.bytes)).await
    }
}

fn old_region<'a>(envelope: &'a Envelope, diff: &RegionDiff) -> Option<&'a Region> {
    diff.from_bytes?;
    match diff.from_partition {
        Some(number) => envelope.region_of(number),
        None => envelope.regions.iter().find(|region| region.name == diff.name),
    }
}

fn new_region<'a>(envelope: &'a Envelope, diff: &RegionDiff) -> Option<&'a Region> {
    diff.to_bytes?;
    envelope.regions.iter().find(|region| region.name == diff.name)
}

fn compare(Pair { old, new }: Pair) -> Result<Vec<FileDiff>, Failure> {
    let old = ext4::open(old).map_err(|failure| failure.of("the first image"))?;
    let new = ext4::open(new).map_err(|failure| failure.of("the second image"))?;
    super::walk::compare(&old, &new)
}
