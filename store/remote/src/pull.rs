//! Chunks, by ranges of packs.

use std::io::{self, Read};

use store_format::frame::{self, FrameError, Opened, Opener};
use store_format::{Location, RangeRequest};
use ureq::http::{StatusCode, header};
use wire::Digest;
use wire::api::PACKS;

use crate::client::{Client, Failures, Image, answered, broken, refused};
use crate::error::{FetchError, PullError};

/// What one thread reuses from request to request: no memory is taken per frame.
#[derive(Default)]
struct Buffers {
    opener: Opener,
    frame: Vec<u8>,
    opened: Opened,
}

impl Client {
    /// Pulls the chunks of one range of an image's packs and hands each to `sink`, once and
    /// verified, with its index in [`Image::chunks`]. What is not had at once is asked for
    /// again, from the first missing chunk on, for as long as [`crate::Options`] allow.
    pub fn pull<E: std::error::Error>(
        &self,
        image: &Image,
        request: &RangeRequest,
        mut sink: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), PullError<E>> {
        let mut buffers = Buffers::default();
        let mut failures = Failures::default();
        let mut left = request.chunks.as_slice();
        while !left.is_empty() {
            let before = left.len();
            let error = match self.pull_once(image, request, &mut left, &mut buffers, &mut sink) {
                Ok(()) => continue,
                Err(PullError::Fetch(error)) => error,
                Err(error) => return Err(error),
            };
            if left.len() < before {
                failures = Failures::default();
            }
            failures.wait(error, self)?;
        }
        Ok(())
    }

    /// One request; takes from `left` what it delivered.
    fn pull_once<E: std::error::Error>(
        &self,
        image: &Image,
        request: &RangeRequest,
        left: &mut &[usize],
        buffers: &mut Buffers,
        sink: &mut impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), PullError<E>> {
        let Some((first, _)) = left.first().and_then(|&index| place(image, index)) else {
            return Ok(());
        };
        let url = self.url(&format!("{PACKS}{}", request.pack));
        let mut body = self.open_range(&url, first.offset, request.end)?;
        let mut opened = None;
        while let Some((&index, rest)) = left.split_first() {
            let Some((location, chunk)) = place(image, index) else { break };
            if opened != Some(location.offset) {
                body.frame(location, chunk.0, buffers)?;
                opened = Some(location.offset);
            }
            let plain = buffers.opened.chunk(&chunk.0, location.plain_offset, chunk.1);
            let plain = plain.map_err(|source| body.wrong(location, chunk.0, Some(source)))?;
            sink(index, plain).map_err(PullError::Sink)?;
            *left = rest;
        }
        // Reading the end lets the connection be used again.
        let _ = body.reader.read(&mut [0]);
        Ok(())
    }

    fn open_range(&self, url: &str, start: u64, end: u64) -> Result<RangeBody<'_>, FetchError> {
        // HTTP names the last byte, not the one after it (RFC 9110, section 14.1.2).
        let range = format!("bytes={start}-{}", end.saturating_sub(1));
        let response = answered(url, self.http.get(url).header(header::RANGE, range).call())?;
        let url = url.to_owned();
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => return Err(FetchError::RangeIgnored { url }),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(FetchError::RangeOutside { url, start, end });
            }
            _ => return Err(refused(url, response)),
        }
        let found = response.headers().get(header::CONTENT_RANGE);
        let found = found.and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned();
        if !found.starts_with(&format!("bytes {start}-{}/", end.saturating_sub(1))) {
            return Err(FetchError::OtherRange { url, start, end, found });
        }
        let reader = Box::new(response.into_body().into_reader());
        Ok(RangeBody { client: self, url, reader, start, position: start, end })
    }
}

/// Where a chunk is, and what it should be.
fn place(image: &Image, index: usize) -> Option<(Location, (Digest, u32))> {
    Some((*image.locations.chunks.get(index)?, *image.chunks.get(index)?))
}

/// The body of an answer to a range.
struct RangeBody<'a> {
    client: &'a Client,
    url: String,
    reader: Box<dyn Read>,
    start: u64,
    /// Offset in the pack of the byte that comes next.
    position: u64,
    end: u64,
}

impl RangeBody<'_> {
    /// Reads up to the end of the frame that a chunk is in, and opens it.
    fn frame(
        &mut self,
        location: Location,
        id: Digest,
        buffers: &mut Buffers,
    ) -> Result<(), FetchError> {
        let Some(gap) = location.offset.checked_sub(self.position) else {
            return Err(self.wrong(location, id, None));
        };
        self.skip(gap)?;
        // Locations were decoded, so that a frame has at most FRAME_MAX bytes.
        let length = usize::try_from(location.frame_len.min(frame::FRAME_MAX)).unwrap_or(0);
        buffers.frame.resize(length, 0);
        self.fill(&mut buffers.frame)?;
        let opened = buffers.opener.open(&buffers.frame, &mut buffers.opened);
        opened.map_err(|source| self.wrong(location, id, Some(source)))
    }

    /// What came is not what should be there.
    fn wrong(&self, location: Location, id: Digest, source: Option<FrameError>) -> FetchError {
        FetchError::Chunk { url: self.url.clone(), offset: location.offset, id, source }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), FetchError> {
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink());
        let skipped = skipped.map_err(|error| self.broken(error))?;
        self.client.count(usize::try_from(skipped).unwrap_or(usize::MAX));
        self.position += skipped;
        match skipped == bytes {
            true => Ok(()),
            false => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), FetchError> {
        while !buffer.is_empty() {
            match self.reader.read(buffer) {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => {
                    self.client.count(read);
                    self.position += read as u64;
                    buffer = &mut buffer[read..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn broken(&self, error: io::Error) -> FetchError {
        broken(self.url.clone(), error, self.end - self.start, self.position - self.start)
    }
}
