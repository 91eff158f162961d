//! Fetching what is missing and writing it where it belongs.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use store_format::RangeRequest;
use store_format::blocks::differing;
use store_remote::{Client, FetchError, Image, PullError};

use super::layout::Withheld;
use super::plan::Plan;
use crate::report::{Gauge, Tally};

/// Ranges in flight: enough to hide the latency of a network behind the
/// writing, few enough for a server of many machines.
const THREADS: usize = 3;
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 4 << 20;
/// Writes end at multiples of this, so that the kernel need not read the rest
/// of a page from the disk first.
const PAGE: u64 = 4096;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store did not deliver.
    #[error("fetching the image failed")]
    Fetch(#[from] FetchError),
    /// The disk did not take it.
    #[error("writing to the disk at {offset} failed")]
    Write {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another thread failed; its error is the one to report.
    #[error("stopped, because another part of the transfer failed")]
    Stopped,
}

fn write_error(offset: u64) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::Write { offset, source }
}

/// What the threads of a transfer share.
struct Transfer<'a> {
    client: &'a Client,
    image: &'a Image,
    plan: &'a Plan,
    disk: &'a Withheld<'a>,
    gauge: &'a Gauge<'a>,
    tally: &'a Tally,
    next: AtomicU64,
    stopped: AtomicBool,
}

/// Zeroes holes, copies what the disk has elsewhere, fetches the rest. What
/// is written is not durable yet.
pub fn transfer(
    client: &Client,
    image: &Image,
    plan: &Plan,
    disk: &Withheld<'_>,
    gauge: &Gauge<'_>,
    tally: &Tally,
) -> Result<(), TransferError> {
    zero_holes(plan, disk, tally)?;
    copy(plan, disk, tally)?;
    let transfer = Transfer {
        client,
        image,
        plan,
        disk,
        gauge,
        tally,
        next: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
    };
    let threads = THREADS.min(plan.requests.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| transfer.work())).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let mut stopped = None;
    for result in results {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(TransferError::Stopped)) => stopped = Some(TransferError::Stopped),
            Ok(Err(error)) => return Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    stopped.map_or(Ok(()), Err)
}

fn zero_holes(plan: &Plan, disk: &Withheld<'_>, tally: &Tally) -> Result<(), TransferError> {
    for &(offset, bytes) in &plan.holes {
        tally.wrote(disk.zero(offset, bytes).map_err(write_error(offset))?);
    }
    Ok(())
}

fn copy(plan: &Plan, disk: &Withheld<'_>, tally: &Tally) -> Result<(), TransferError> {
    let mut buffer = Vec::new();
    let mut run = Run::new(disk, tally, plan.compared);
    for copy in &plan.copies {
        buffer.resize(copy.bytes, 0);
        disk.read_at(copy.from, &mut buffer).map_err(write_error(copy.from))?;
        run.write(copy.to, &buffer)?;
    }
    run.flush()
}

impl Transfer<'_> {
    /// Takes ranges until there is none left or somebody failed.
    fn work(&self) -> Result<(), TransferError> {
        let mut run = Run::new(self.disk, self.tally, self.plan.compared);
        while let Some(request) = self.take() {
            let result = self.pull(request, &mut run).and_then(|()| run.flush());
            if result.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(())
    }

    fn take(&self) -> Option<&RangeRequest> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.plan.requests.get(usize::try_from(next).ok()?)
    }

    fn pull(&self, request: &RangeRequest, run: &mut Run<'_>) -> Result<(), TransferError> {
        let pulled = self.client.pull(self.image, request, |chunk, plain| {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(TransferError::Stopped);
            }
            for offset in self.plan.places(chunk) {
                run.write(offset, plain)?;
                self.gauge.add(plain.len() as u64);
            }
            Ok(())
        });
        pulled.map_err(|error| match error {
            PullError::Fetch(error) => TransferError::Fetch(error),
            PullError::Sink(error) => error,
        })
    }
}

/// Bytes that follow each other on the disk, gathered into large writes.
struct Run<'a> {
    disk: &'a Withheld<'a>,
    tally: &'a Tally,
    /// Whether what is there may be right in part.
    compares: bool,
    start: u64,
    bytes: Vec<u8>,
    old: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(disk: &'a Withheld<'a>, tally: &'a Tally, compares: bool) -> Run<'a> {
        Run { disk, tally, compares, start: 0, bytes: Vec::new(), old: Vec::new() }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TransferError> {
        if offset != self.start + self.bytes.len() as u64 {
            self.flush()?;
            self.start = offset;
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= WRITE_BYTES {
            let end = self.start + self.bytes.len() as u64;
            let rest = usize::try_from(end % PAGE).unwrap_or(0);
            self.write_out(self.bytes.len() - rest)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TransferError> {
        self.write_out(self.bytes.len())
    }

    fn write_out(&mut self, length: usize) -> Result<(), TransferError> {
        for part in self.wrong_parts(length) {
            let offset = self.start + part.start as u64;
            let written = self.disk.write_at(offset, &self.bytes[part.clone()]);
            written.map_err(write_error(offset))?;
            self.tally.wrote(part.len() as u64);
        }
        self.bytes.drain(..length);
        self.start += length as u64;
        Ok(())
    }

    /// What of the first bytes is to be written: all, or where the disk is read,
    /// the pages that differ. What cannot be read is written.
    fn wrong_parts(&mut self, length: usize) -> Vec<Range<usize>> {
        self.old.resize(if self.compares { length } else { 0 }, 0);
        match self.compares && self.disk.read_at(self.start, &mut self.old).is_ok() {
            true => differing(&self.old, &self.bytes[..length], self.start),
            false => std::iter::once(0..length).filter(|part| !part.is_empty()).collect(),
        }
    }
}
