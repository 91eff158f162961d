//! Root trees: kept as compressed tar streams whose bytes depend only on the
//! content of the tree, and worked on as folders.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::Digest;

use crate::cache::{Cache, CacheError, Kind, at};
use crate::tool::{self, Log, ToolError};

/// Fast: a tree is packed once and unpacked a few times.
const ZSTD_LEVEL: i32 = 1;
/// Name of the stream in its entry.
const TAR: &str = "tree.tar.zst";

/// Where a tree is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// Base, or result of a step.
    pub kind: Kind,
    /// The entry.
    pub key: Digest,
}

/// A stored tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Of the tar stream: what the tree is, however it came about.
    pub digest: Digest,
}

/// Why a tree cannot be stored or brought back.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// tar, or what feeds it.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What is stored is not what was stored.
    #[error("{} is damaged, or was replaced just now: delete it and build again", path.display())]
    Damaged {
        /// The entry in the cache.
        path: PathBuf,
    },
}

/// Stores the tar stream that `command` prints.
pub(crate) fn store(
    place: Place<'_>,
    work: &Path,
    command: &mut std::process::Command,
    log: Log<'_>,
) -> Result<Layer, TreeError> {
    let folder = work.join("entry");
    crate::cache::remove(&folder)?;
    fs::create_dir(&folder).map_err(at("create", &folder))?;
    let path = folder.join(TAR);
    let mut file = File::create(&path).map_err(at("create", &path))?;
    let mut sink = |out: &mut dyn Read| compress(out, &mut file);
    let digest = tool::read_from(command, &mut sink, log)?;
    let layer = Layer { digest };
    place.cache.store(place.kind, &place.key, &folder, &layer)?;
    Ok(layer)
}

/// Stores a folder. Times after the epoch become the epoch.
pub(crate) fn pack(
    place: Place<'_>,
    work: &Path,
    root: &Path,
    epoch: u64,
    log: Log<'_>,
) -> Result<Layer, TreeError> {
    let mut tar = tool::command("tar", epoch);
    tar.args(["--create", "--file=-", "--sort=name", "--numeric-owner", "--one-file-system"])
        .args([
            "--format=pax",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        ])
        .args(["--xattrs", "--xattrs-include=*", "--clamp-mtime"])
        .arg(format!("--mtime=@{epoch}"))
        .arg("--directory")
        .arg(root)
        .arg(".");
    store(place, work, &mut tar, log)
}

/// Brings the tree `layer` back as the new folder `root`.
pub(crate) fn restore(
    place: Place<'_>,
    layer: &Layer,
    root: &Path,
    log: Log<'_>,
) -> Result<(), TreeError> {
    let Place { cache, kind, key } = place;
    let _lease = cache.lease(kind, &key)?;
    crate::cache::remove(root)?;
    fs::create_dir(root).map_err(at("create", root))?;
    let path: PathBuf = cache.entry_path(kind, &key).join(TAR);
    let plain =
        File::open(&path).and_then(zstd::stream::read::Decoder::new).map_err(at("read", &path))?;
    let mut stream = Hashed { plain, hasher: blake3::Hasher::new() };
    let mut tar = tool::command("tar", 0);
    tar.args(["--extract", "--file=-", "--numeric-owner", "--same-permissions", "--same-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore"])
        .arg("--directory")
        .arg(root);
    tool::write_to(&mut tar, &mut stream, log)?;
    if Digest(*stream.hasher.finalize().as_bytes()) != layer.digest {
        return Err(TreeError::Damaged { path: cache.entry_path(kind, &key) });
    }
    Ok(())
}

/// A stream that is hashed while it is read.
struct Hashed<R> {
    plain: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.plain.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Copies the stream, compressed, and returns the digest of its plain bytes.
fn compress(stream: &mut dyn Read, file: &mut File) -> io::Result<Digest> {
    let mut plain = Hashed { plain: stream, hasher: blake3::Hasher::new() };
    let mut encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)?;
    io::copy(&mut plain, &mut encoder)?;
    encoder.finish()?;
    Ok(Digest(*plain.hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const EPOCH: u64 = 1_000_000;

    fn tree(folder: &Path, mtime: u64) {
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/file"), "content").unwrap();
        fs::hard_link(folder.join("a/file"), folder.join("z")).unwrap();
        symlink("/nowhere", folder.join("a/link")).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(mtime);
        File::options().append(true).open(folder.join("z")).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_tree_comes_back_as_it_was_and_its_digest_is_that_of_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache")).unwrap();
        let place = |byte| Place { cache: &cache, kind: Kind::Tree, key: Digest([byte; 32]) };
        let mut layers = Vec::new();
        // Two times after the epoch, one before it.
        for (i, mtime) in [EPOCH + 5, EPOCH + 9, EPOCH - 5].into_iter().enumerate() {
            let root = dir.path().join(format!("tree-{i}"));
            tree(&root, mtime);
            let place = place(u8::try_from(i).unwrap());
            layers.push(pack(place, dir.path(), &root, EPOCH, &mut |_| ()).unwrap());
        }
        assert_eq!(layers[0], layers[1]);
        assert_ne!(layers[0], layers[2]);

        let back = dir.path().join("back");
        restore(place(0), &layers[0], &back, &mut |_| ()).unwrap();
        assert_eq!(fs::read_to_string(back.join("z")).unwrap(), "content");
        assert_eq!(fs::read_link(back.join("a/link")).unwrap(), Path::new("/nowhere"));
        let metadata = |name: &str| fs::symlink_metadata(back.join(name)).unwrap();
        assert_eq!(metadata("a/file").ino(), metadata("z").ino());
        assert_eq!(metadata("z").mtime(), 1_000_000);
    }

    #[test]
    fn a_tree_that_is_not_the_one_stored_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache")).unwrap();
        let place = Place { cache: &cache, kind: Kind::Tree, key: Digest([0; 32]) };
        let root = dir.path().join("tree");
        tree(&root, EPOCH);
        pack(place, dir.path(), &root, EPOCH, &mut |_| ()).unwrap();
        let other = Layer { digest: Digest([1; 32]) };
        let error = restore(place, &other, &dir.path().join("back"), &mut |_| ()).unwrap_err();
        assert!(matches!(error, TreeError::Damaged { .. }), "{error:?}");
    }
}
