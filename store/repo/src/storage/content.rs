//! Objects that are not all in memory: of the largest images, chunk tables.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{GetResultPayload, MultipartUpload, ObjectStoreExt};

use super::{Storage, StorageError};

/// What comes from far away is kept in memory up to this length, and in an
/// unnamed file beyond.
const MEMORY_BYTES: u64 = 8 << 20;
/// What is longer is written in parts of this length. Backends want at least
/// 5 MiB, and 10,000 parts at most.
const PART_BYTES: u64 = 8 << 20;
/// Bytes that are read at a time from front to back.
const BUFFER: usize = 256 << 10;

/// The bytes of an object.
#[derive(Debug)]
pub(crate) enum Content {
    /// In a file that nobody writes to any more.
    File(File),
    Memory(Bytes),
}

impl Content {
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Content::File(file) => Ok(file.metadata()?.len()),
            Content::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// A range that lies in it.
    pub(crate) fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let too_long = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(range.end - range.start).map_err(too_long)?;
        match self {
            Content::File(file) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            Content::Memory(bytes) => {
                let start = usize::try_from(range.start).map_err(too_long)?;
                match start + len <= bytes.len() {
                    true => Ok(bytes.slice(start..start + len)),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }

    /// All of it, in memory.
    pub(crate) fn all(&self) -> io::Result<Bytes> {
        self.range(0..self.len()?)
    }

    /// Reads it from its first byte on.
    pub(crate) fn front(&self) -> impl Read {
        BufReader::with_capacity(BUFFER, Front { content: self, at: 0 })
    }
}

/// How far a content is read.
struct Front<'a> {
    content: &'a Content,
    at: u64,
}

impl Read for Front<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.content {
            Content::File(file) => file.read_at(buffer, self.at)?,
            Content::Memory(bytes) => {
                let start = usize::try_from(self.at).map_or(bytes.len(), |at| at.min(bytes.len()));
                (&bytes[start..]).read(buffer)?
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Storage {
    /// A whole object of at most `limit` bytes.
    pub(crate) async fn open(&self, key: &Key, limit: u64) -> Result<Content, StorageError> {
        let failed = |e| StorageError::object(key, e);
        let found = self.objects.get(key).await.map_err(failed)?;
        let len = found.meta.size;
        if len > limit {
            return Err(StorageError::TooLong { key: key.to_string(), len });
        }
        let mut stream = match found.payload {
            GetResultPayload::File(file, _) => return Ok(Content::File(file)),
            GetResultPayload::Stream(_) if len <= MEMORY_BYTES => {
                return Ok(Content::Memory(found.bytes().await.map_err(failed)?));
            }
            GetResultPayload::Stream(stream) => stream,
        };
        let io_failed = |e: io::Error| StorageError::new(key.as_ref(), Box::new(e));
        let mut file = tempfile::tempfile_in(&self.home).map_err(io_failed)?;
        while let Some(bytes) = stream.try_next().await.map_err(failed)? {
            file.write_all(&bytes).map_err(io_failed)?;
        }
        Ok(Content::File(file))
    }

    /// Writes an object, a part at a time where it is long.
    pub(crate) async fn put_content(
        &self,
        key: &Key,
        content: &Content,
    ) -> Result<(), StorageError> {
        let io_failed = |e: io::Error| StorageError::new(key.as_ref(), Box::new(e));
        let len = content.len().map_err(io_failed)?;
        if len <= PART_BYTES {
            return self.put(key, content.all().map_err(io_failed)?).await;
        }
        let failed = |e| StorageError::write(key, e);
        let mut upload = self.objects.put_multipart(key).await.map_err(failed)?;
        let written = write_parts(&mut upload, key, content, len).await;
        if let Err(error) = written {
            // A bucket keeps the parts, and asks money for them, until it is told.
            if let Err(error) = upload.abort().await {
                tracing::warn!(%key, %error, "parts of an object may be left in the bucket");
            }
            return Err(error);
        }
        if let Some(blocks) = &self.blocks {
            blocks.forget(key);
        }
        Ok(())
    }
}

async fn write_parts(
    upload: &mut Box<dyn MultipartUpload>,
    key: &Key,
    content: &Content,
    len: u64,
) -> Result<(), StorageError> {
    let failed = |e| StorageError::write(key, e);
    let mut at = 0;
    while at < len {
        let end = len.min(at + PART_BYTES);
        let part = content.range(at..end);
        let part = part.map_err(|e| StorageError::new(key.as_ref(), Box::new(e)))?;
        upload.put_part(part.into()).await.map_err(failed)?;
        at = end;
    }
    upload.complete().await.map_err(failed).map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn both(home: &Path) -> [Storage; 2] {
        let apart = Storage::apart(Arc::new(InMemory::new()), home, "memory").unwrap();
        [Storage::folder(home).unwrap(), apart]
    }

    #[tokio::test]
    async fn what_is_written_in_parts_or_at_once_comes_back_at_any_place() {
        let home = tempfile::tempdir().unwrap();
        for len in [0, 5, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 70_001] {
            let mut noise = vec![0; len as usize];
            blake3::Hasher::new().finalize_xof().fill(&mut noise);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&noise).unwrap();
            let key = Key::from("blobs/aa/aabb");
            for storage in both(home.path()) {
                for content in [Content::File(file.try_clone().unwrap()), noise.clone().into()] {
                    storage.put_content(&key, &content).await.unwrap();
                    let back = storage.open(&key, len).await.unwrap();
                    let is_file = matches!(back, Content::File(_));
                    assert_eq!(is_file, !storage.is_apart() || len > MEMORY_BYTES, "{len}");
                    assert!(back.all().unwrap() == noise);
                    let mut front = Vec::new();
                    back.front().read_to_end(&mut front).unwrap();
                    assert!(front == noise);
                    assert!(back.range(len / 3..len).unwrap() == noise[(len / 3) as usize..]);
                    assert!(back.range(len..len + 1).is_err(), "{len}");
                    if let Some(limit) = len.checked_sub(1) {
                        let error = storage.open(&key, limit).await.unwrap_err();
                        assert!(matches!(error, StorageError::TooLong { .. }), "{error}");
                    }
                }
            }
        }
    }

    impl From<Vec<u8>> for Content {
        fn from(bytes: Vec<u8>) -> Content {
            Content::Memory(bytes.into())
        }
    }
}
