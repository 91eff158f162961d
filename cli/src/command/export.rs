//! `export`.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt;
use store_format::Envelope;
use store_repo::{ExportFormat, ExportOptions, ExportProgress, Piece, Repo};
use wire::Digest;

use super::image::{Made, is_stream};
use super::store::open;
use crate::args::image::{Export, Format};
use crate::context::Context;
use crate::exit::{Code, Failure, OutputClosed};
use crate::fault::Doing;
use crate::render::human::size;
use crate::render::progress::Reporter;

/// `ingot export`.
pub async fn export(args: &Export, context: &Context) -> anyhow::Result<()> {
    let target = args.target.display();
    let what = || format!("cannot export {} to {target}", args.reference);
    refuse_what_is_no_file(&args.target).with_context(what)?;
    let format = format(args).with_context(what)?;
    let repo = open(context).await?;
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    let envelope = repo.envelope(&digest).await.doing(what)?;
    let range = range(args, &envelope).with_context(what)?;
    let reporter = Arc::new(Reporter::new(&context.out));
    reporter.step(&format!("writing {} to {target}", args.reference));
    if is_stream(&args.target) {
        return stream(&repo, &digest, range, &reporter).await.with_context(what);
    }
    let progress = {
        let reporter = Arc::clone(&reporter);
        move |p: ExportProgress| reporter.bytes(p.done_bytes, Some(p.disk_bytes))
    };
    let options = ExportOptions { range: Some(range), format };
    let exported = repo.export_as(&digest, &args.target, options, progress).await.doing(what)?;
    reporter.finish();
    if context.out.json {
        return context.out.document(&Made { reference: &args.reference, made: &exported });
    }
    if exported.added_bytes > 0 {
        let added = exported.added_bytes;
        context.out.note(format!(
            "the disk in {target} is {added} B longer than the image, with zeros: qcow2 has whole \
             sectors of 512 B"
        ));
    }
    context.out.line(format!(
        "{target}: {}, {} of content",
        size(exported.disk_bytes),
        size(exported.data_bytes)
    ))
}

/// What the file shall be.
fn format(args: &Export) -> Result<ExportFormat, Failure> {
    match args.format {
        Format::Raw => Ok(ExportFormat::Raw),
        Format::Qcow2 if is_stream(&args.target) => {
            let what =
                "a qcow2 file is not written from front to back, as standard output needs it";
            Err(Failure::new(Code::Usage, what).next("name a file"))
        }
        Format::Qcow2 => Ok(ExportFormat::Qcow2),
    }
}

/// What of the disk is wanted.
fn range(args: &Export, image: &Envelope) -> Result<Range<u64>, Failure> {
    if let Some(number) = args.partition {
        let region = image.region_of(number).ok_or_else(|| {
            Failure::new(Code::NotFound, format!("the image has no partition {number}"))
                .next(format!("`ingot show {}` lists its partitions", args.reference))
        })?;
        return Ok(region.start..region.start + region.bytes);
    }
    let start = args.offset.unwrap_or(0);
    let end = match args.bytes {
        None => Some(image.disk_bytes),
        Some(bytes) => start.checked_add(bytes),
    };
    end.filter(|end| start <= *end && *end <= image.disk_bytes).map(|end| start..end).ok_or_else(
        || {
            let disk = image.disk_bytes;
            let what = match args.bytes {
                None => format!("byte {start} is not in the image, which has {disk}"),
                Some(n) => format!("{n} bytes from {start} are not in the image, which has {disk}"),
            };
            Failure::new(Code::Usage, what)
        },
    )
}

/// Disks are for `ingot write`, which asks first; a terminal is no file either.
fn refuse_what_is_no_file(target: &Path) -> anyhow::Result<()> {
    let refused = |what: &str, next: &str| Err(Failure::new(Code::Refused, what).next(next).into());
    if is_stream(target) && io::stdout().is_terminal() {
        return refused("standard output is a terminal", "send it to a file or a pipe");
    }
    match target.metadata() {
        Ok(meta) if meta.is_dir() => refused("it is a folder", "name a file in it"),
        Ok(meta) if !meta.is_file() && !is_stream(target) => {
            refused("it is not a plain file", "`ingot write` writes to disks")
        }
        _ => Ok(()),
    }
}

/// Zeros for holes, where a pipe has none.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

async fn stream(
    repo: &Arc<Repo>,
    image: &Digest,
    range: Range<u64>,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    let (start, total) = (range.start, range.end - range.start);
    let pieces = repo.read_range(image, range).await;
    let mut pieces = pieces.doing(|| "cannot read the image")?;
    let mut out = io::stdout().lock();
    while let Some(piece) = pieces.try_next().await.doing(|| "cannot read the image")? {
        let end = match piece {
            Piece::Data { offset, bytes } => {
                out.write_all(&bytes).map_err(closed)?;
                offset + bytes.len() as u64
            }
            Piece::Hole { offset, bytes } => {
                zeros(&mut out, bytes).map_err(closed)?;
                offset + bytes
            }
        };
        reporter.bytes(end - start, Some(total));
    }
    out.flush().map_err(closed)
}

fn zeros(out: &mut impl Write, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let len = usize::try_from(bytes).map_or(ZEROS.len(), |bytes| bytes.min(ZEROS.len()));
        out.write_all(&ZEROS[..len])?;
        bytes -= len as u64;
    }
    Ok(())
}

fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use store_format::{Envelope, envelope};

    use super::*;
    use crate::args::{Cli, Command};

    fn args(options: &str) -> Export {
        let typed = format!("ingot export x - {options}");
        match Cli::try_parse_from(typed.split_whitespace()).unwrap().command {
            Command::Export(export) => export,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn offset_and_bytes_name_a_range_that_must_be_in_the_image() {
        let image = Envelope {
            format: envelope::FORMAT.to_owned(),
            disk_bytes: 4 << 20,
            sector_bytes: 512,
            table: None,
            regions: Vec::new(),
            grow: None,
            boot: None,
            configuration: Default::default(),
            provenance: Default::default(),
        };
        let mib = 1 << 20;
        for (options, expected) in [
            ("", 0..4 * mib),
            ("--offset 1MiB", mib..4 * mib),
            ("--bytes 512", 0..512),
            ("--offset 3MiB --bytes 1MiB", 3 * mib..4 * mib),
            ("--offset 4MiB", 4 * mib..4 * mib),
        ] {
            assert_eq!(range(&args(options), &image).unwrap(), expected, "{options}");
        }
        for options in [
            "--offset 4194305",
            "--offset 3MiB --bytes 1048577",
            "--offset 18446744073709551615 --bytes 2",
        ] {
            let failure = range(&args(options), &image).unwrap_err();
            assert!(failure.to_string().contains("which has 4194304"), "{failure}");
        }
        let failure = range(&args("--partition 2"), &image).unwrap_err();
        assert_eq!(failure.to_string(), "the image has no partition 2");
    }
}
