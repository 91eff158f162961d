//! The ext4 file system in a region of an image.

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata, Path};

use super::files::{File, Kind};
use crate::read::ReadError;
use crate::reader::Reader;

/// Where a file system of the ext family says that it is one, and what it says.
const MAGIC_OFFSET: u64 = 1024 + 56;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// Why files were not compared.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store failed.
    Store(ReadError),
    /// There is no file system that can be read.
    Other {
        /// A phrase.
        why: String,
    },
}

impl Failure {
    fn other(why: impl Into<String>) -> Failure {
        Failure::Other { why: why.into() }
    }

    /// Says in which image.
    pub(super) fn of(self, image: &str) -> Failure {
        match self {
            Failure::Other { why } => Failure::other(format!("in {image}, {why}")),
            store => store,
        }
    }
}

impl From<Ext4Error> for Failure {
    fn from(error: Ext4Error) -> Failure {
        let why = |error: &dyn std::fmt::Display| format!("its ext4 cannot be read: {error}");
        match error {
            Ext4Error::Io(source) => match source.downcast::<ReadError>().map(|error| *error) {
                // A file system that says it is larger than where it is.
                Ok(error @ ReadError::Range { .. }) => Failure::other(why(&error)),
                Ok(error) => Failure::Store(error),
                Err(source) => Failure::other(why(&source)),
            },
            error => Failure::other(why(&error)),
        }
    }
}

/// What `ext4-view` reads from.
struct Source(Reader);

impl Ext4Read for Source {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.read_at(buffer, start)?)
    }
}

/// Opens the file system of a region.
pub(super) fn open(reader: Reader) -> Result<Ext4, Failure> {
    let mut magic = [0; MAGIC.len()];
    if reader.bytes() >= MAGIC_OFFSET + magic.len() as u64 {
        reader.read_at(&mut magic, MAGIC_OFFSET).map_err(Failure::Store)?;
    }
    match magic == MAGIC {
        true => Ok(Ext4::load(Box::new(Source(reader)))?),
        false => Err(Failure::other("it is no ext4 file system")),
    }
}

/// What is to be said of a file.
pub(super) fn file(fs: &Ext4, path: Path<'_>, meta: &Metadata) -> Result<File, Ext4Error> {
    let kind = kind(meta.file_type());
    let target = match kind {
        Kind::Link => Some(fs.read_link(path)?.display().to_string()),
        _ => None,
    };
    let bytes = if kind == Kind::File { meta.len() } else { 0 };
    let mode = format!("{:04o}", meta.mode());
    Ok(File { kind, bytes, mode, uid: meta.uid(), gid: meta.gid(), target })
}

fn kind(of: FileType) -> Kind {
    match of {
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::Directory => Kind::Directory,
        FileType::Fifo => Kind::Pipe,
        FileType::Regular => Kind::File,
        FileType::Socket => Kind::Socket,
        FileType::Symlink => Kind::Link,
    }
}
