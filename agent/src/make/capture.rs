//! From a disk that a script changed to an image in the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use store_format::{ChunkTable, Envelope, EnvelopeError, Region};
use store_remote::{Client, PushError, PushProgress, Pushed};
use store_scan::{About, Disk, Layout, LayoutError, Span, image};
use wire::{Configuration, Reference, Step};

use crate::receipt;
use crate::report::Report;
use crate::start::{self, LoadError};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The disk cannot be read.
    #[error("reading the disk failed")]
    Read(#[source] io::Error),
    /// Its partition table is not sound any more.
    #[error("the partition table that the script left is not sound")]
    Layout(#[from] LayoutError),
    /// Its partitions are others.
    #[error(
        "the script changed where the partitions are, and an image made from this base cannot \
         have others ({found}): make them in the base's recipe"
    )]
    Partitions {
        /// What is there now.
        found: String,
    },
    /// It could not be started.
    #[error("the script left a system that could not be started")]
    Boot(#[source] LoadError),
    /// It cannot be described.
    #[error("what the script left is no image")]
    Envelope(#[from] EnvelopeError),
    /// It cannot be sent.
    #[error("sending the image to the store failed")]
    Push(#[source] Box<PushError<io::Error>>),
}

/// What an image is made from and for.
pub struct Capture<'a> {
    /// The disk's device, or file.
    pub disk: &'a Path,
    /// What was installed on it.
    pub base: &'a Envelope,
    /// What the image is made for.
    pub configuration: &'a Configuration,
    /// Where it goes.
    pub client: &'a Client,
    /// Where to say what happens.
    pub report: &'a Report,
}

impl Capture<'_> {
    /// Reads the disk, and sends of it what the store lacks; gives the image.
    pub fn run(&self) -> Result<(Envelope, Pushed), CaptureError> {
        start_check(self.disk, self.base)?;
        let file = File::open(self.disk).map_err(CaptureError::Read)?;
        let disk = Disk::of(file, "the disk".to_owned()).map_err(CaptureError::Read)?;
        // As long as the base is, and without the receipt, which is of this machine.
        let disk = disk.part(self.base.disk_bytes, receipt::START..receipt::END);
        let layout = Layout::read(&disk, Some(self.base.sector_bytes))?;
        if !same(&layout.spans, &self.base.regions) {
            return Err(CaptureError::Partitions { found: list(&layout.spans) });
        }
        let gauge = self.report.gauge(Step::Capture, 0, disk.bytes);
        let scanned = image(&disk, &layout, |done| gauge.set(done)).map_err(CaptureError::Read)?;
        for region in &scanned.known {
            if let Some(why) = &region.plain {
                let line = format!("capture: {} is kept with its free space: {why}", region.name);
                self.report.say(&line);
            }
        }
        let (envelope, table, mut chunks) = scanned.describe(self.about())?;
        let pushed = self.push(&envelope, &table, |number| chunks.read(number))?;
        Ok((envelope, pushed))
    }

    /// What the base says still holds: no partition moved. What it is for is another thing.
    fn about(&self) -> About {
        let configuration = self.configuration.notes_over(&self.base.configuration);
        let base = BTreeMap::from([("base".to_owned(), self.base.digest().to_string())]);
        let provenance = self.base.provenance.clone().into_iter().chain(base).collect();
        let (boot, grow) = (self.base.boot.clone(), self.base.grow);
        About { configuration, provenance, boot, grow }
    }

    fn push(
        &self,
        envelope: &Envelope,
        table: &ChunkTable,
        source: impl FnMut(usize) -> io::Result<Vec<u8>>,
    ) -> Result<Pushed, CaptureError> {
        let reference: Reference = self.configuration.reference();
        self.report.say(&format!("capture: sending {reference} ({})", envelope.digest().short()));
        let mut gauge = None;
        let mut verifying = false;
        let told = |progress| {
            let (now, done, total) = match progress {
                PushProgress::Sending { done_bytes, total_bytes } => {
                    (false, done_bytes, total_bytes)
                }
                PushProgress::Verifying { done_bytes, total_bytes } => {
                    (true, done_bytes, total_bytes)
                }
            };
            if now != verifying {
                verifying = now;
                gauge = None;
                if now {
                    self.report.say("capture: the server reads it back");
                }
            }
            gauge.get_or_insert_with(|| self.report.gauge(Step::Capture, 0, total)).set(done);
        };
        // The controller names it, if this machine is still the one to make it.
        let pushed = self.client.push(envelope, table, None, source, told);
        pushed.map_err(|error| CaptureError::Push(Box::new(error)))
    }
}

/// An image whose kernel is gone is not worth sending.
fn start_check(disk: &Path, base: &Envelope) -> Result<(), CaptureError> {
    match &base.boot {
        Some(_) => start::read(disk, base).map(drop).map_err(CaptureError::Boot),
        None => Ok(()),
    }
}

fn same(spans: &[Span], regions: &[Region]) -> bool {
    let place = |span: &Span| (span.start, span.bytes, span.partition);
    let was = |region: &Region| (region.start, region.bytes, region.partition);
    spans.iter().map(place).eq(regions.iter().map(was))
}

fn list(spans: &[Span]) -> String {
    let text = |span: &Span| format!("{} of {} bytes at {}", span.name, span.bytes, span.start);
    spans.iter().map(text).collect::<Vec<_>>().join(", ")
}
