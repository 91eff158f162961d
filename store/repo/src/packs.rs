//! Packs as they are: their tables, and their bytes for those who ask.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use crate::blocks::BlockRead;
use crate::read::{ReadError, damaged};
use crate::storage::{Content, Storage, StorageError, pack_key};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::{GetOptions, GetRange, GetResultPayload};
use sha2::{Digest as _, Sha256};
use store_format::frame::{Opened, Opener};
use store_format::pack::{self, Entry, Trailer};
use store_format::plan::Stretch;
use store_format::segment::Place;
use store_format::{DecodeError, Location, PackName};

/// Bytes of a pack that are read from a file at a time.
const READ: u64 = 256 << 10;

/// Why a pack's table could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Reads the table of a pack of `len` bytes.
pub(crate) async fn table(
    storage: &Storage,
    name: &PackName,
    len: u64,
) -> Result<Vec<Entry>, PackError> {
    const TRAILER: u64 = Trailer::LEN as u64;
    let truncated = || DecodeError::Truncated { what: "a pack" };
    let key = pack_key(name);
    let at = len.checked_sub(TRAILER).ok_or_else(truncated)?;
    let trailer = storage.get_range(&key, at..len).await?;
    let trailer = Trailer::decode(trailer.first_chunk().ok_or_else(truncated)?)?;
    let offset = trailer.table_offset(len)?;
    let header = storage.get_range(&key, 0..pack::HEADER_LEN as u64).await?;
    pack::check_header(&header)?;
    let bytes = match trailer.table_len() {
        0 => Bytes::new(),
        _ => storage.get_range(&key, offset..at).await?,
    };
    Ok(pack::decode_table(&trailer, &bytes, offset)?)
}

/// Packs in the order in which they are met, and their numbers in it.
#[derive(Debug, Default)]
pub(crate) struct PackNumbers {
    pub names: Vec<PackName>,
    numbers: HashMap<PackName, u32>,
}

impl PackNumbers {
    /// The number of a pack: the next one, where it is new. There are far fewer
    /// packs than numbers.
    pub(crate) fn of(&mut self, pack: PackName) -> u32 {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(pack).or_insert(next);
        if number == next {
            self.names.push(pack);
        }
        number
    }

    /// The frame of a chunk.
    pub(crate) fn frame(&mut self, Place { pack, entry }: &Place) -> Stretch {
        let end = entry.offset.saturating_add(u64::from(entry.frame_len));
        Stretch { pack: self.of(*pack), start: entry.offset, end }
    }
}

/// Whether these are the bytes that the name names.
pub(crate) fn is_named(bytes: &[u8], name: &PackName) -> bool {
    Sha256::digest(bytes)[..] == name.0
}

/// All bytes of a pack, as far as a pack can have them: more are no part of it.
pub(crate) async fn bytes(storage: &Storage, name: &PackName) -> Result<Bytes, StorageError> {
    let key = pack_key(name);
    match storage.len(&key).await?.min(pack::BYTES_MAX) {
        0 => Ok(Bytes::new()),
        len => storage.get_range(&key, 0..len).await,
    }
}

/// Whether a pack is there and has the bytes that its name names.
pub(crate) async fn is_whole(storage: &Storage, name: &PackName) -> Result<bool, StorageError> {
    let bytes = match bytes(storage, name).await {
        Err(StorageError::Missing { .. }) => return Ok(false),
        other => other?,
    };
    let (key, name) = (pack_key(name), *name);
    let hash = tokio::task::spawn_blocking(move || is_named(&bytes, &name));
    hash.await.map_err(|e| StorageError::new(key.as_ref(), Box::new(e)))
}

/// The bytes of an entry's frame, as far as the pack has them.
pub(crate) fn frame_of<'a>(pack: &'a [u8], entry: &Entry) -> &'a [u8] {
    let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
    let len = usize::try_from(entry.frame_len).unwrap_or(usize::MAX);
    pack.get(start..start.saturating_add(len)).unwrap_or_default()
}

/// The bytes of a frame in a stretch of its pack that begins at `start`, as far
/// as they are in it.
pub(crate) fn part<'a>(stretch: &'a [u8], start: u64, at: &Location) -> &'a [u8] {
    let index = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let from = index(at.offset.saturating_sub(start));
    stretch.get(from..from.saturating_add(index(at.frame_len.into()))).unwrap_or_default()
}

/// Shows the chunks of some entries of a pack, which stand as in its table, each
/// proven.
pub(crate) fn each_chunk<E: From<ReadError>>(
    name: &PackName,
    pack: &[u8],
    entries: &[Entry],
    mut show: impl FnMut(&Entry, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut opener, mut opened) = (Opener::default(), Opened::default());
    for chunks in pack::frames(entries) {
        let wrong = |source| damaged(name, chunks[0].offset, source);
        opener.open(frame_of(pack, &chunks[0]), &mut opened).map_err(wrong)?;
        for entry in chunks {
            let plain = opened.chunk(&entry.id, entry.plain_offset, entry.plain_len);
            show(entry, plain.map_err(wrong)?)?;
        }
    }
    Ok(())
}

/// Some bytes of a pack, as a stream.
pub struct PackRead {
    /// Bytes of the whole pack.
    pub pack_len: u64,
    /// Which of them come.
    pub range: Range<u64>,
    /// The bytes.
    pub bytes: PackBytes,
}

/// The bytes of a [`PackRead`], in order.
pub type PackBytes = BoxStream<'static, Result<Bytes, StorageError>>;

/// Opens a pack; without a range, all of it. The range must lie in the pack.
pub(crate) async fn open(
    storage: &Storage,
    name: &PackName,
    range: Option<Range<u64>>,
) -> Result<PackRead, StorageError> {
    let key = pack_key(name);
    if let Some(blocks) = &storage.blocks {
        let BlockRead { pack_len, range, bytes } =
            blocks.open(&storage.objects, &key, range).await?;
        return Ok(PackRead { pack_len, range, bytes });
    }
    let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
    let found =
        storage.objects.get_opts(&key, options).await.map_err(|e| StorageError::object(&key, e))?;
    let (pack_len, range) = (found.meta.size, found.range.clone());
    let name = key.to_string();
    let bytes = match found.payload {
        GetResultPayload::File(file, _) => file_stream(file, range.clone(), name),
        GetResultPayload::Stream(bytes) => {
            bytes.map(move |bytes| bytes.map_err(|e| StorageError::new(&name, Box::new(e)))).boxed()
        }
    };
    Ok(PackRead { pack_len, range, bytes })
}

/// The bytes of something that is open.
pub(crate) fn content_stream(content: Arc<Content>, len: u64, key: Arc<str>) -> PackBytes {
    stream::try_unfold((content, 0, key), move |(content, at, key)| async move {
        if at == len {
            return Ok(None);
        }
        let (end, read_from) = (len.min(at + READ), Arc::clone(&content));
        let failed = |e| StorageError::new(&key, e);
        let read = match &*content {
            Content::Memory(bytes) => {
                return Ok(Some((bytes.clone(), (content.clone(), len, key))));
            }
            Content::File(_) => tokio::task::spawn_blocking(move || read_from.range(at..end)),
        };
        let bytes = read.await.map_err(|e| failed(Box::new(e)))?;
        let bytes = bytes.map_err(|e| failed(Box::new(e)))?;
        Ok(Some((bytes, (content, end, key))))
    })
    .boxed()
}

/// As the backend's own stream, in larger pieces: each costs a hand-over to
/// another thread and back.
fn file_stream(file: File, range: Range<u64>, key: String) -> PackBytes {
    stream::try_unfold((file, range, key), |(mut file, range, key)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start.saturating_add(READ));
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = Vec::new();
            file.seek(SeekFrom::Start(range.start))?;
            (&mut file).take(end - range.start).read_to_end(&mut buffer)?;
            std::io::Result::Ok((file, buffer))
        });
        let failed = |e| StorageError::new(&key, e);
        let (file, buffer) =
            read.await.map_err(|e| failed(Box::new(e)))?.map_err(|e| failed(Box::new(e)))?;
        if buffer.len() as u64 != end - range.start {
            return Err(failed("it became shorter while it was read".into()));
        }
        Ok(Some((Bytes::from(buffer), (file, end..range.end, key))))
    })
    .boxed()
}
