//! Root trees: kept as compressed tar streams whose bytes depend only on the
//! content of the tree, and worked on as folders.

use std::fs::{self, File};
use std::io::{self, Read, Write};
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

/// Brings a tree back as the new folder `root`.
pub(crate) fn restore(place: Place<'_>, root: &Path, log: Log<'_>) -> Result<(), TreeError> {
    let Place { cache, kind, key } = place;
    let _lease = cache.lease(kind, &key)?;
    crate::cache::remove(root)?;
    fs::create_dir(root).map_err(at("create", root))?;
    let path: PathBuf = cache.entry_path(kind, &key).join(TAR);
    let mut stream =
        File::open(&path).and_then(zstd::stream::read::Decoder::new).map_err(at("read", &path))?;
    let mut tar = tool::command("tar", 0);
    tar.args(["--extract", "--file=-", "--numeric-owner", "--same-permissions", "--same-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore"])
        .arg("--directory")
        .arg(root);
    Ok(tool::write_to(&mut tar, &mut stream, log)?)
}

/// Copies the stream, compressed, and returns the digest of its plain bytes.
fn compress(stream: &mut dyn Read, file: &mut File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        encoder.write_all(&buffer[..read])?;
    }
    encoder.finish()?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}
