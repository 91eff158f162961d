//! A ramdisk: a `newc` cpio archive, the same bytes for the same content.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

/// Archives follow each other in one ramdisk; the kernel looks for the next one at a
/// multiple of 4, and 512 is what cpio tools use.
const BLOCK_BYTES: usize = 512;

/// Why a ramdisk cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file has 4 GiB or more.
    #[error("{0} does not fit into a ramdisk: it has 4 GiB or more")]
    TooLarge(String),
    /// The compressor failed.
    #[error("cannot pack the ramdisk")]
    Pack(#[from] std::io::Error),
}

enum Node<'a> {
    Folder,
    File(&'a [u8]),
    Device { major: u32, minor: u32 },
}

/// Files, folders and devices, all of root and without times.
#[derive(Default)]
pub(crate) struct Archive<'a> {
    /// Permissions and content by path without a leading slash. The order puts folders before
    /// what is in them.
    entries: BTreeMap<String, (u32, Node<'a>)>,
}

impl<'a> Archive<'a> {
    /// An empty folder, for example a mount point.
    pub(crate) fn folder(&mut self, path: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), (0o755, Node::Folder));
    }

    /// A file and the folders above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &'a [u8]) {
        self.parents(path);
        self.entries.insert(path.to_owned(), (mode, Node::File(content)));
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents(path);
        self.entries.insert(path.to_owned(), (mode, Node::Device { major, minor }));
    }

    /// The archive, padded so that another one may follow.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        for (inode, (path, (mode, node))) in (1..).zip(&self.entries) {
            let builder = Builder::new(path).ino(inode).mode(*mode);
            let (builder, content): (_, &[u8]) = match node {
                Node::Folder => (builder.nlink(2).set_mode_file_type(ModeFileType::Directory), &[]),
                Node::File(content) => (builder.set_mode_file_type(ModeFileType::Regular), content),
                Node::Device { major, minor } => {
                    let device = builder.rdev_major(*major).rdev_minor(*minor);
                    (device.set_mode_file_type(ModeFileType::Char), &[])
                }
            };
            let size = u32::try_from(content.len());
            let size = size.map_err(|_| ArchiveError::TooLarge(path.clone()))?;
            let mut writer = builder.write(&mut bytes, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        trailer(&mut bytes)?;
        pad(&mut bytes);
        Ok(bytes)
    }

    fn parents(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/') {
            let parent = path[..slash].to_owned();
            self.entries.entry(parent).or_insert((0o755, Node::Folder));
        }
    }
}

/// Compresses an archive for the kernel, padded so that another one may follow.
pub(crate) fn compress(plain: &[u8], level: i32) -> Result<Vec<u8>, ArchiveError> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(u64::try_from(plain.len()).ok())?;
    encoder.write_all(plain)?;
    let mut bytes = encoder.finish()?;
    pad(&mut bytes);
    Ok(bytes)
}

/// Like [`compress`], but done once for the same archive: the result is kept in `cache`.
pub(crate) fn compress_cached(
    plain: &[u8],
    level: i32,
    cache: &Path,
) -> Result<Vec<u8>, ArchiveError> {
    let name = format!("ramdisk-{}-{level}.zst", blake3::hash(plain).to_hex());
    let path = cache.join(name);
    if let Ok(kept) = std::fs::read(&path)
        && holds(&kept, plain)
    {
        return Ok(kept);
    }
    let bytes = compress(plain, level)?;
    std::fs::create_dir_all(cache)?;
    let mut file = tempfile::NamedTempFile::new_in(cache)?;
    file.write_all(&bytes)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(bytes)
}

/// Whether what a cache gave back is the packed form of `plain`.
fn holds(packed: &[u8], plain: &[u8]) -> bool {
    let limit = u64::try_from(plain.len()).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = zstd::Decoder::new(packed)
        .and_then(|decoder| decoder.single_frame().take(limit).read_to_end(&mut bytes));
    read.is_ok() && bytes == plain && packed.len().is_multiple_of(BLOCK_BYTES)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;

    use super::*;

    fn sample(content: &[u8]) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("lib/modules/x.ko", 0o644, content);
        archive.folder("proc");
        archive.device("dev/null", 0o666, 1, 3);
        archive.file("init", 0o755, b"#!");
        archive.to_bytes().unwrap()
    }

    #[test]
    fn folders_come_first_and_nothing_varies() {
        let bytes = sample(b"module");
        assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        assert_eq!(bytes, sample(b"module"));
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            seen.push((entry.name().to_owned(), entry.mode(), entry.rdev_major(), content));
            rest = reader.finish().unwrap();
        }
        let expected: [(&str, u32, u32, &[u8]); 7] = [
            ("dev", 0o40755, 0, b""),
            ("dev/null", 0o20666, 1, b""),
            ("init", 0o100755, 0, b"#!"),
            ("lib", 0o40755, 0, b""),
            ("lib/modules", 0o40755, 0, b""),
            ("lib/modules/x.ko", 0o100644, 0, b"module"),
            ("proc", 0o40755, 0, b""),
        ];
        let expected = expected
            .map(|(name, mode, major, content)| (name.to_owned(), mode, major, content.to_vec()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn compressed_archives_can_be_followed() {
        let plain = sample(&[7; 100_000]);
        let packed = compress(&plain, 3).unwrap();
        assert_eq!(packed.len() % BLOCK_BYTES, 0);
        assert!(holds(&packed, &plain));
    }

    #[test]
    fn damage_in_the_cache_is_noticed() {
        let cache = tempfile::tempdir().unwrap();
        let plain = sample(b"x");
        let packed = compress_cached(&plain, 3, cache.path()).unwrap();
        let kept = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
        for damage in [b"".as_slice(), b"text", &packed[..packed.len() / 2]] {
            std::fs::write(&kept, damage).unwrap();
            assert_eq!(compress_cached(&plain, 3, cache.path()).unwrap(), packed);
            assert_eq!(std::fs::read(&kept).unwrap(), packed);
        }
    }
}
