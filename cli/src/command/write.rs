//! `write`: an image onto a disk of this computer.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::TryStreamExt;
use serde::Serialize;
use store_format::Envelope;
use store_repo::{ImageDetails, Repo};
use wire::{Digest, Reference};

use super::store::open;
use crate::args::image::Write;
use crate::context::Context;
use crate::disk::{self, Disk, Writer};
use crate::exit::{Code, Failure};
use crate::fault::Doing;
use crate::render::Out;
use crate::render::human::{duration, rate, size};
use crate::render::progress::Reporter;
use crate::render::sheet::Sheet;

/// What will be done, before it is done.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    reference: &'a Reference,
    image: Digest,
    /// Bytes of the image, all of which are written.
    image_bytes: u64,
    /// Of these, bytes that are not zeros.
    data_bytes: u64,
    /// Bytes at the disk's end, behind the image, that become zeros.
    cleared_bytes: u64,
    /// Bytes of the disk behind the image, which are left as they are.
    untouched_bytes: u64,
    disk: Disk,
}

/// `ingot write`.
pub async fn write(args: &Write, context: &Context) -> anyhow::Result<()> {
    let what = || format!("cannot write {} to {}", args.reference, args.device.display());
    let repo = open(context).await?;
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    let image = repo.details(&digest).await.doing(what)?;
    let plan = plan(args, &image).with_context(what)?;
    if args.plan && context.out.json {
        return context.out.document(&plan);
    }
    if args.plan {
        return context.out.lines(plan_lines(&plan, &context.out));
    }
    plan_lines(&plan, &context.out).iter().for_each(|line| context.out.note(line));
    if plan.disk.block_device && !args.yes {
        let device = args.device.display();
        return Err(Failure::new(Code::Refused, format!("everything on {device} would be lost"))
            .next("look at it with --plan; go ahead with --yes"))
        .with_context(what);
    }
    perform(&repo, &image, &plan, context).await.with_context(what)?;
    if context.out.json {
        return context.out.document(&plan);
    }
    Ok(())
}

fn plan<'a>(args: &'a Write, image: &ImageDetails) -> anyhow::Result<Plan<'a>> {
    let disk = disk::inspect(&args.device)?;
    let image_bytes = image.envelope.disk_bytes;
    let behind_bytes = fits(&disk, &image.envelope)?;
    let cleared_bytes = disk::cleared_bytes(disk.size_bytes, image_bytes);
    Ok(Plan {
        reference: &args.reference,
        image: image.digest,
        image_bytes,
        data_bytes: image.data_bytes,
        cleared_bytes,
        untouched_bytes: behind_bytes - cleared_bytes,
        disk,
    })
}

/// Refuses a disk that cannot hold the image or could not read it; returns the
/// bytes that are left behind it.
fn fits(disk: &Disk, image: &Envelope) -> Result<u64, Failure> {
    if let Some(found) = disk.sector_bytes.filter(|found| *found != image.sector_bytes) {
        let needed = image.sector_bytes;
        let what = format!(
            "the disk has sectors of {found} bytes and the image is for sectors of {needed}: \
             no firmware would find its partitions"
        );
        let next = format!("choose a disk with sectors of {needed} bytes");
        return Err(Failure::new(Code::Refused, what).next(next));
    }
    disk.size_bytes.checked_sub(image.disk_bytes).ok_or_else(|| {
        let (found, needed) = (size(disk.size_bytes), size(image.disk_bytes));
        let what = format!("the disk has {found} and the image needs {needed}");
        let next = match disk.block_device {
            true => "choose a larger disk".to_owned(),
            false => format!("truncate -s {} {}", image.disk_bytes, disk.path.display()),
        };
        Failure::new(Code::Refused, what).next(next)
    })
}

fn plan_lines(plan: &Plan<'_>, out: &Out) -> Vec<String> {
    let mut sheet = Sheet::default();
    sheet.entry("image", format!("{} ({})", plan.reference, plan.image.short()));
    let model = plan.disk.model.as_deref().map_or_else(String::new, |model| format!(", {model}"));
    let kind = if plan.disk.block_device { "" } else { ", a file" };
    let disk = size(plan.disk.size_bytes);
    sheet.entry("disk", format!("{}: {disk}{model}{kind}", plan.disk.path.display()));
    let zeros = plan.image_bytes.saturating_sub(plan.data_bytes);
    sheet
        .entry("writes", format!("{} of content, {} of zeros", size(plan.data_bytes), size(zeros)));
    if plan.cleared_bytes > 0 {
        let cleared = size(plan.cleared_bytes);
        sheet.entry("clears", format!("the last {cleared}: an old partition table may be there"));
    }
    if plan.untouched_bytes > 0 {
        let left = size(plan.untouched_bytes);
        sheet.entry("leaves", format!("{left} behind the image as they are"));
    }
    sheet.lines(out)
}

async fn perform(
    repo: &Arc<Repo>,
    image: &ImageDetails,
    plan: &Plan<'_>,
    context: &Context,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let total = Some(plan.image_bytes);
    let reporter = Reporter::new(&context.out);
    let mut pieces = repo.read(&image.digest).await.doing(|| "cannot read the image")?;
    let mut writer = {
        let file = disk::open(&plan.disk)?;
        Writer::begin(file, plan.disk.size_bytes, &image.envelope)?
    };
    reporter.step("writing");
    while let Some(piece) = pieces.try_next().await.doing(|| "cannot read the image")? {
        writer.write(&piece)?;
        reporter.bytes(writer.done_bytes(), total);
    }
    reporter.step("reading back and comparing");
    // On a thread of its own, so that Ctrl-C is still heard.
    let envelope = image.envelope.clone();
    let reporter = tokio::task::spawn_blocking(move || {
        writer.seal(&envelope, &|done| reporter.bytes(done, total)).map(|()| reporter)
    })
    .await
    .context("comparing ended in the middle; please report this")??;
    reporter.finish();
    let (took, path) = (began.elapsed(), plan.disk.path.display());
    context.out.note(format!(
        "{path} is {} now, every byte read back and compared: {}, {}",
        plan.reference,
        duration(took),
        rate(plan.image_bytes, took)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_for_other_sectors_is_refused_with_the_numbers() {
        let disk = |sector_bytes: Option<u32>| Disk {
            path: "/dev/sdx".into(),
            block_device: sector_bytes.is_some(),
            size_bytes: 8192,
            sector_bytes,
            model: None,
        };
        let image = |sector_bytes| Envelope {
            format: store_format::envelope::FORMAT.to_owned(),
            disk_bytes: 4096,
            sector_bytes,
            table: None,
            regions: Vec::new(),
            grow: None,
            boot: None,
            configuration: Default::default(),
            provenance: Default::default(),
        };
        for (found, needed) in [(4096, 512), (512, 4096)] {
            let failure = fits(&disk(Some(found)), &image(needed)).unwrap_err();
            let numbers =
                format!("sectors of {found} bytes and the image is for sectors of {needed}");
            assert!(failure.to_string().contains(&numbers), "{failure}");
            assert_eq!(fits(&disk(Some(needed)), &image(needed)).unwrap(), 4096);
            assert_eq!(fits(&disk(None), &image(needed)).unwrap(), 4096, "a file takes any");
        }
    }
}
