//! A folder of boot assets and the note about what is in it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::Digest;

/// Format name in `assets.json`; another number means another meaning.
pub(crate) const FORMAT: &str = "ingot.assets/1";
const MANIFEST: &str = "assets.json";
pub(crate) const VMLINUZ: &str = "vmlinuz";
pub(crate) const INITRAMFS: &str = "initramfs.img";
pub(crate) const STUB_FILE: &str = "stub.efi";

/// The largest file that is read into memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Size and digest of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// How many.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub digest: Digest,
}

impl Stamp {
    pub(crate) fn of(content: &[u8]) -> Stamp {
        Stamp::of_both(content, &[])
    }

    /// Of two pieces that follow each other.
    pub(crate) fn of_both(first: &[u8], second: &[u8]) -> Stamp {
        let mut hasher = blake3::Hasher::new();
        hasher.update(first).update(second);
        Stamp { bytes: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) }
    }
}

/// The content of `assets.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `ingot.assets/1`.
    pub format: String,
    /// Where the kernel comes from: package and version, or a path.
    pub origin: String,
    /// The kernel's release, `uname -r`.
    pub release: String,
    /// How many modules are in the ramdisk.
    pub modules: u32,
    /// The agent's program.
    pub agent: Stamp,
    /// The ramdisk before compression; equal ones need not be compressed again.
    pub ramdisk: Stamp,
    /// How it was compressed.
    pub zstd_level: i32,
    /// The file `vmlinuz`.
    pub vmlinuz: Stamp,
    /// The file `stub.efi`.
    pub stub: Stamp,
    /// The file `initramfs.img`.
    pub initramfs: Stamp,
}

impl Manifest {
    /// Whether packing the inputs of `other` would give these files again.
    pub(crate) fn same_inputs(&self, other: &Manifest) -> bool {
        Manifest { initramfs: other.initramfs, ..self.clone() } == *other
    }
}

/// Why a folder of boot assets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be read.
    #[error("cannot read {path}; make the boot assets again with `ingot boot assets`")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `assets.json` is not understood.
    #[error("{path} is not understood; make the boot assets again with `ingot boot assets`")]
    Manifest {
        /// Its place.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Made by another version of this program.
    #[error("{path} has format {format:?}, expected {FORMAT:?}; make the boot assets again")]
    Format {
        /// The place of `assets.json`.
        path: PathBuf,
        /// What it says.
        format: String,
    },
    /// A file is not the one that `assets.json` describes.
    #[error("{0} is not the file that assets.json describes; make the boot assets again")]
    Changed(PathBuf),
}

/// A folder of boot assets, read and checked against its manifest.
#[derive(Debug)]
pub struct AssetsDir {
    path: PathBuf,
    manifest: Manifest,
    pub(crate) vmlinuz: Vec<u8>,
    pub(crate) initramfs: Vec<u8>,
    pub(crate) stub: Vec<u8>,
}

impl AssetsDir {
    /// Reads a folder that [`prepare`](crate::prepare) has made.
    pub fn open(path: &Path) -> Result<AssetsDir, OpenError> {
        let place = path.join(MANIFEST);
        let text = read(&place)?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| OpenError::Manifest { path: place.clone(), source })?;
        if manifest.format != FORMAT {
            return Err(OpenError::Format { path: place, format: manifest.format });
        }
        Ok(AssetsDir {
            path: path.to_owned(),
            vmlinuz: checked(path.join(VMLINUZ), manifest.vmlinuz)?,
            initramfs: checked(path.join(INITRAMFS), manifest.initramfs)?,
            stub: checked(path.join(STUB_FILE), manifest.stub)?,
            manifest,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Writes the files of a folder, the manifest last: a folder without one is not used.
pub(crate) fn write(
    path: &Path,
    manifest: &Manifest,
    files: [(&str, &[u8]); 3],
) -> std::io::Result<()> {
    match fs::remove_file(path.join(MANIFEST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    for (name, content) in files.into_iter().chain([(MANIFEST, text.as_slice())]) {
        // There are no secrets in them, and a server need not run as who made them.
        let readable = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(path)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path.join(name))?;
    }
    File::open(path)?.sync_all()
}

fn checked(path: PathBuf, stamp: Stamp) -> Result<Vec<u8>, OpenError> {
    let content = read(&path)?;
    if Stamp::of(&content) == stamp { Ok(content) } else { Err(OpenError::Changed(path)) }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    read_file(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })
}

/// All of a file, unless it is absurdly large.
pub(crate) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let count = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if u64::try_from(count).is_ok_and(|count| count <= FILE_BYTES_MAX) {
        Ok(content)
    } else {
        Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it has more than 1 GiB"))
    }
}
