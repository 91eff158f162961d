//! The root filesystem: an ext4 image made from the tree without mounting it,
//! its bytes a function of the tree alone.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::EPOCH;
use crate::cache::{CacheError, at};
use crate::geometry::{Geometry, Usage};
use crate::identity::Identities;
use crate::tool::{self, Log, ToolError};

const MKE2FS_CONF: &str = include_str!("assets/mke2fs.conf");
/// Block size in bytes, as in the mke2fs configuration.
const BLOCK_BYTES: u64 = 4096;

/// Why there is no root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// The image file.
    #[error(transparent)]
    File(#[from] CacheError),
    /// mke2fs failed.
    #[error("cannot make the root filesystem of {bytes} bytes; is [disk] size large enough?")]
    Make {
        /// Its size.
        bytes: u64,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// Its times or its journal could not be set.
    #[error("cannot finish the root filesystem")]
    Finish(#[source] ToolError),
    /// dumpe2fs said something else than expected.
    #[error("dumpe2fs does not tell how many inodes the root filesystem has")]
    Inodes,
}

/// What a tree needs on an ext4. Links are not followed.
pub(crate) fn usage(root: &Path) -> Result<Usage, CacheError> {
    let mut usage = Usage { bytes: BLOCK_BYTES, inodes: 1 };
    for entry in fs::read_dir(root).map_err(at("read", root))? {
        let entry = entry.map_err(at("read", root))?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(at("read", &path))?;
        let below = if metadata.is_dir() {
            self::usage(&path)?
        } else {
            // Sizes, not blocks: the host's filesystem may store files otherwise.
            Usage { bytes: metadata.size().next_multiple_of(BLOCK_BYTES), inodes: 1 }
        };
        usage.bytes += below.bytes;
        usage.inodes += below.inodes;
    }
    Ok(usage)
}

/// Makes the filesystem of the tree at `root` as the new file `image`.
///
/// The journal is added last: made at once, mke2fs would put it between the files.
pub(crate) fn make(
    work: &Path,
    root: &Path,
    image: &Path,
    geometry: Geometry,
    identities: &Identities,
    log: Log<'_>,
) -> Result<(), Ext4Error> {
    let bytes = geometry.root_bytes();
    let file = File::create(image).map_err(at("create", image))?;
    file.set_len(bytes).map_err(at("create", image))?;
    let config = work.join("mke2fs.conf");
    fs::write(&config, MKE2FS_CONF).map_err(at("write", &config))?;
    let extended = format!(
        "hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        identities.hash_seed
    );
    let mut mke2fs = e2fs("mke2fs", &config);
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-O", "^has_journal", "-E", &extended])
        .args(["-U", &identities.filesystem.to_string(), "-d"])
        .arg(root)
        .arg(image);
    tool::run(&mut mke2fs, log).map_err(|source| Ext4Error::Make { bytes, source })?;
    set_times(work, image, &config)?;
    let mut tune2fs = e2fs("tune2fs", &config);
    tool::run(tune2fs.args(["-O", "has_journal"]).arg(image), log).map_err(Ext4Error::Finish)
}

/// mke2fs copies the access and change times of the tree, which are those of
/// this build: every inode gets the epoch instead.
fn set_times(work: &Path, image: &Path, config: &Path) -> Result<(), Ext4Error> {
    let mut dump = e2fs("dumpe2fs", config);
    let header = tool::output(dump.arg("-h").arg(image)).map_err(Ext4Error::Finish)?;
    let used = used_inodes(&header).ok_or(Ext4Error::Inodes)?;
    let script = work.join("times.debugfs");
    let mut text = Vec::with_capacity(200 * 12_000);
    // A filesystem made in one go has its inodes in use at the front.
    for inode in 1..=used {
        for time in ["atime", "ctime", "crtime"] {
            let _ = writeln!(text, "sif <{inode}> {time} @{EPOCH}");
            let _ = writeln!(text, "sif <{inode}> {time}_extra 0");
        }
    }
    fs::write(&script, text).map_err(at("write", &script))?;
    let mut debugfs = e2fs("debugfs", config);
    // It repeats every request.
    tool::run(debugfs.arg("-w").arg("-f").arg(&script).arg(image), &mut |_| ())
        .map_err(Ext4Error::Finish)
}

fn used_inodes(header: &str) -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        header.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    value("Inode count:")?.checked_sub(value("Free inodes:")?)
}

/// A tool of e2fsprogs with the epoch as its clock: `SOURCE_DATE_EPOCH` is read
/// since 1.47.1 only.
fn e2fs(program: &str, config: &Path) -> Command {
    let mut command = tool::command(program, EPOCH);
    command.env("E2FSPROGS_FAKE_TIME", EPOCH.to_string()).env("MKE2FS_CONFIG", config);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_inodes_are_counted_from_the_superblock() {
        let header = "Filesystem state:         clean\nInode count:              65536\n\
                      Free inodes:              53496\n";
        assert_eq!(used_inodes(header), Some(12_040));
        for bad in ["", "Inode count: 5", "Inode count: 5\nFree inodes: 6\n", "Inode count: x\n"] {
            assert_eq!(used_inodes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn usage_counts_blocks_and_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/file"), vec![0; 5000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let usage = usage(dir.path()).unwrap();
        assert_eq!(usage, Usage { bytes: 2 * 4096 + 8192 + 4096, inodes: 4 });
    }
}
