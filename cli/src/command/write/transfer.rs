//! What `write` does on a thread of its own.

use std::fs::File;

use anyhow::Context as _;
use store_format::Envelope;
use store_repo::{FetchPlan, OpenImage, Piece, ReadError};

use crate::disk::{self, Lack, Medium as _, Writer};
use crate::fault::Doing;

/// What is written to, and what is read.
pub(super) struct Job {
    pub file: File,
    pub source: OpenImage,
}

impl Job {
    /// How the disk stands to the image, and how what it lacks is fetched.
    pub fn look(
        &self,
        disk_bytes: u64,
        envelope: &Envelope,
        progress: &dyn Fn(u64),
    ) -> anyhow::Result<(Lack, FetchPlan)> {
        // Only what is on the medium counts.
        self.file.settle().context("cannot empty the cache")?;
        let doing = || "cannot read the image";
        let mut lacking = self.source.lacking();
        let extents = || self.source.extents().map(|placed| placed.doing(doing));
        let lacks = |(at, extent)| lacking.push(at, extent).doing(doing);
        let lack = disk::compare(&self.file, disk_bytes, envelope, extents, lacks, progress)?;
        if lack.nothing {
            lacking = self.source.lacking();
        }
        let fetch = lacking.plan().doing(doing)?;
        Ok((lack, fetch))
    }
}

/// Writes what the disk lacks.
pub(super) fn transfer(
    source: &OpenImage,
    fetch: &FetchPlan,
    writer: &mut Writer<File>,
    progress: &dyn Fn(u64),
) -> anyhow::Result<()> {
    let mut done_bytes = 0;
    source
        .deliver(fetch, |piece| {
            done_bytes += match piece {
                Piece::Hole { offset, bytes } => {
                    writer.zeros(&(offset..offset + bytes)).map_err(Stop::Disk)?;
                    bytes
                }
                Piece::Data { offset, bytes } => {
                    writer.data(offset, &bytes).map_err(Stop::Disk)?;
                    bytes.len() as u64
                }
            };
            progress(done_bytes);
            Ok(())
        })
        .or_else(|stop| match stop {
            Stop::Store(error) => Err(error).doing(|| "cannot read the image"),
            Stop::Disk(error) => Err(error),
        })
}

/// What ended the writing early.
enum Stop {
    Store(ReadError),
    Disk(anyhow::Error),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        Stop::Store(error)
    }
}
