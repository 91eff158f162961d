//! Fetching what is lacking: range after range, frame after frame.

use std::collections::VecDeque;
use std::io;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use store_format::frame::{Opened, Opener};
use store_format::plan::{Joiner, Stretch};
use store_format::{Location, PackName};
use tokio::task::JoinHandle;

use super::OpenImage;
use super::lacking::{FetchPlan, Want, decode_zeros};
use crate::packs;
use crate::read::{Piece, ReadError, damaged, scratch};
use crate::storage::{StorageError, pack_key};

/// Ranges in memory: one is on its way while the other is decompressed.
const RANGES: usize = 2;

/// What is decompressed.
#[derive(Default)]
struct Last {
    opener: Opener,
    opened: Opened,
    /// The frame that is opened.
    frame: Option<Stretch>,
    /// The chunk of it that was last wanted, in whatever place.
    chunk: Option<(Want, Bytes)>,
}

/// A range of a pack on its way.
struct Coming {
    range: Stretch,
    bytes: JoinHandle<Result<Bytes, StorageError>>,
}

impl OpenImage {
    /// Hands over what a plan for this image is of, every place once: first all
    /// zeros, then chunks as they lie in packs, each proven.
    pub fn deliver<E: From<ReadError>>(
        &self,
        plan: &FetchPlan,
        mut take: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| scratch(&plan.folder, source);
        for row in plan.zeros.iter().map_err(failed)? {
            let (offset, bytes) = decode_zeros(&row.map_err(failed)?);
            take(Piece::Hole { offset, bytes })?;
        }
        let mut wants = plan.wants().map_err(failed)?.peekable();
        let mut ranges = plan.ranges().map_err(failed)?;
        let mut coming = VecDeque::new();
        let mut last = Last::default();
        loop {
            while coming.len() < RANGES
                && let Some(range) = ranges.next()
            {
                coming.push_back(self.read(plan, range.map_err(failed)?)?);
            }
            let Some(Coming { range, bytes }) = coming.pop_front() else { break };
            let bytes = self.runtime.block_on(bytes).map_err(|_| ReadError::Broken)?;
            let bytes = bytes.map_err(ReadError::from)?;
            while let Some(want) = next_in(&mut wants, &range) {
                let want = want.map_err(failed)?;
                let bytes = last.chunk(plan, &want, range.start, &bytes)?;
                take(Piece::Data { offset: want.at, bytes })?;
            }
        }
        match wants.next() {
            None => Ok(()),
            Some(_) => Err(ReadError::Broken.into()),
        }
    }

    /// Begins to read a range.
    fn read(&self, plan: &FetchPlan, range: Stretch) -> Result<Coming, ReadError> {
        let pack = plan.pack(&range)?;
        let repo = Arc::clone(&self.repo);
        let bytes = self.runtime.spawn(async move {
            repo.storage.get_range(&pack_key(&pack), range.start..range.end).await
        });
        Ok(Coming { range, bytes })
    }
}

impl FetchPlan {
    /// What is wanted, in the order of the packs.
    fn wants(&self) -> io::Result<impl Iterator<Item = io::Result<Want>> + '_> {
        Ok(self.wants.iter()?.map(|row| row.map(|row| Want::decode(&row))))
    }

    /// The ranges that hold it, in the same order.
    fn ranges(&self) -> io::Result<impl Iterator<Item = io::Result<Stretch>> + '_> {
        Ok(Ranges { wants: self.wants()?, joiner: Some(Joiner::new(self.limits)) })
    }

    fn pack(&self, stretch: &Stretch) -> Result<PackName, ReadError> {
        let number = usize::try_from(stretch.pack).ok();
        number.and_then(|number| self.packs.get(number)).copied().ok_or(ReadError::Broken)
    }
}

/// The next one, if its frame is in this range.
fn next_in<I: Iterator<Item = io::Result<Want>>>(
    wants: &mut Peekable<I>,
    range: &Stretch,
) -> Option<io::Result<Want>> {
    wants.next_if(|want| want.as_ref().map_or(true, |want| range.has(&want.frame)))
}

impl Last {
    /// A chunk, of the frame that stands in a range which begins at `start`.
    fn chunk(
        &mut self,
        plan: &FetchPlan,
        want: &Want,
        start: u64,
        range: &[u8],
    ) -> Result<Bytes, ReadError> {
        let is_same = |other: &Want| {
            let of = |want: &Want| (want.frame, want.plain_offset, want.plain_len, want.id);
            of(other) == of(want)
        };
        if let Some((_, bytes)) = self.chunk.as_ref().filter(|(other, _)| is_same(other)) {
            return Ok(bytes.clone());
        }
        let wrong = |source| match plan.pack(&want.frame) {
            Ok(pack) => damaged(&pack, want.frame.start, source),
            Err(error) => error,
        };
        if self.frame != Some(want.frame) {
            // Whatever becomes of it: the one before is gone.
            self.frame = None;
            let frame_len = u32::try_from(want.frame.bytes()).unwrap_or(u32::MAX);
            let at = Location { pack: 0, offset: want.frame.start, frame_len, plain_offset: 0 };
            self.opener.open(packs::part(range, start, &at), &mut self.opened).map_err(wrong)?;
            self.frame = Some(want.frame);
        }
        let plain = self.opened.chunk(&want.id, want.plain_offset, want.plain_len);
        let bytes = Bytes::copy_from_slice(plain.map_err(wrong)?);
        self.chunk = Some((*want, bytes.clone()));
        Ok(bytes)
    }
}

/// The ranges of a plan, in the order of the packs.
struct Ranges<I> {
    wants: I,
    /// None once it has given the last one.
    joiner: Option<Joiner>,
}

impl<I: Iterator<Item = io::Result<Want>>> Iterator for Ranges<I> {
    type Item = io::Result<Stretch>;

    fn next(&mut self) -> Option<io::Result<Stretch>> {
        for want in &mut self.wants {
            let range = match want {
                Ok(want) => self.joiner.as_mut()?.push(want.frame),
                Err(error) => return Some(Err(error)),
            };
            if let Some(range) = range {
                return Some(Ok(range));
            }
        }
        self.joiner.take()?.finish().map(Ok)
    }
}
