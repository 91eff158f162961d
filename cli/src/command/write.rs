//! `write`: an image onto a disk of this computer.

mod transfer;

use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use store_format::Envelope;
use store_repo::{FetchPlan, ImageDetails, OpenImage};
use wire::{Digest, Reference};

use super::store::open;
use crate::args::image::Write;
use crate::context::Context;
use crate::disk::{self, Disk, Ends, How, Lack, Writer, Written};
use crate::exit::{Code, Failure};
use crate::fault::Doing;
use crate::render::Out;
use crate::render::human::{duration, rate, size};
use crate::render::progress::Reporter;
use crate::render::sheet::Sheet;

use transfer::{Job, transfer};

/// What will be done, before it is done.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    reference: &'a Reference,
    image: Digest,
    /// Bytes of the image.
    image_bytes: u64,
    /// Of these, bytes that are not zeros.
    data_bytes: u64,
    /// Bytes at the disk's end, behind the image, that become zeros.
    cleared_bytes: u64,
    /// Bytes of the disk behind the image, which are left as they are.
    untouched_bytes: u64,
    disk: Disk,
}

/// What the disk has of the image, and what it takes to bring the rest.
#[derive(Debug, Serialize)]
struct Work {
    /// Bytes of the image that are right in their place, and stay.
    present_bytes: u64,
    /// Bytes of the image that are written unless they turn out to be right:
    /// where a chunk differs, its blocks are compared.
    write_bytes: u64,
    /// Bytes read from the store.
    fetch_bytes: u64,
    /// Requests to the store.
    requests: u64,
    #[serde(skip)]
    lack: Lack,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    plan: &'a Plan<'a>,
    #[serde(flatten)]
    work: &'a Work,
    /// Only once it is done.
    #[serde(flatten)]
    written: Option<Written>,
}

/// `ingot write`.
pub async fn write(args: &Write, context: &Context) -> anyhow::Result<()> {
    let what = || format!("cannot write {} to {}", args.reference, args.device.display());
    let repo = open(context).await?;
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    let image = repo.details(&digest).await.doing(what)?;
    let plan = plan(args, &image).with_context(what)?;
    let say = |lines: Vec<String>| lines.iter().for_each(|line| context.out.note(line));
    if plan.disk.block_device && !args.yes && !args.plan {
        say(plan_lines(&plan, None, &context.out));
        let device = args.device.display();
        return Err(Failure::new(Code::Refused, format!("everything on {device} would be lost"))
            .next("look at it with --plan; go ahead with --yes"))
        .with_context(what);
    }
    let file = match args.plan {
        true => disk::open_to_read(&plan.disk),
        false => disk::open(&plan.disk),
    };
    let source = repo.open_image(&digest).await.doing(what)?;
    let job = Job { file: file.with_context(what)?, source };
    let (job, fetch, work) = look(job, &image, &plan, context).await.with_context(what)?;
    let mut written = None;
    let source = match args.plan {
        true => job.source,
        false => {
            say(plan_lines(&plan, Some(&work), &context.out));
            let done = perform(job, fetch, &image, &plan, &work, context).await;
            let (source, done) = done.with_context(what)?;
            written = Some(done);
            source
        }
    };
    source.close().await;
    match (context.out.json, args.plan) {
        (true, _) => context.out.document(&Document { plan: &plan, work: &work, written }),
        (false, true) => context.out.lines(plan_lines(&plan, Some(&work), &context.out)),
        (false, false) => Ok(()),
    }
}

fn plan<'a>(args: &'a Write, image: &ImageDetails) -> anyhow::Result<Plan<'a>> {
    let disk = disk::inspect(&args.device)?;
    let image_bytes = image.envelope.disk_bytes;
    let behind_bytes = fits(&disk, &image.envelope)?;
    let cleared = Ends::of(disk.size_bytes, &image.envelope).cleared;
    let cleared_bytes = cleared.end - cleared.start;
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

fn plan_lines(plan: &Plan<'_>, work: Option<&Work>, out: &Out) -> Vec<String> {
    let mut sheet = Sheet::default();
    sheet.entry("image", format!("{} ({})", plan.reference, plan.image.short()));
    let model = plan.disk.model.as_deref().map_or_else(String::new, |model| format!(", {model}"));
    let kind = if plan.disk.block_device { "" } else { ", a file" };
    let disk = size(plan.disk.size_bytes);
    sheet.entry("disk", format!("{}: {disk}{model}{kind}", plan.disk.path.display()));
    let zeros = plan.image_bytes.saturating_sub(plan.data_bytes);
    let content = format!("{} of content, {} of zeros", size(plan.data_bytes), size(zeros));
    match work {
        None => sheet.entry("writes", content),
        Some(work) => work_entries(&mut sheet, &content, work),
    }
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

fn work_entries(sheet: &mut Sheet, content: &str, work: &Work) {
    sheet.entry("holds", content);
    sheet.entry("keeps", format!("{} that the disk has in place", size(work.present_bytes)));
    let most = if work.lack.related { "at most " } else { "" };
    sheet.entry("writes", format!("{most}{}", size(work.write_bytes)));
    let requests = work.requests;
    let plural = if requests == 1 { "" } else { "s" };
    let fetch = size(work.fetch_bytes);
    sheet.entry("reads", format!("{fetch} from the store, in {requests} request{plural}"));
}

/// Compares the disk with the image; gives both back. On a thread of its own, so
/// that Ctrl-C is heard.
async fn look(
    job: Job,
    image: &ImageDetails,
    plan: &Plan<'_>,
    context: &Context,
) -> anyhow::Result<(Job, FetchPlan, Work)> {
    let reporter = Reporter::new(&context.out);
    reporter.step("comparing with what is on the disk");
    let envelope = image.envelope.clone();
    let (disk_bytes, image_bytes) = (plan.disk.size_bytes, plan.image_bytes);
    let looked = tokio::task::spawn_blocking(move || {
        let progress = |done| reporter.bytes(done, Some(image_bytes));
        let looked = job.look(disk_bytes, &envelope, &progress)?;
        reporter.finish();
        anyhow::Ok((job, looked))
    });
    let (job, (lack, fetch)) =
        looked.await.context("comparing ended in the middle; please report this")??;
    let work = Work {
        present_bytes: lack.present_bytes,
        write_bytes: image_bytes - lack.present_bytes,
        fetch_bytes: fetch.cost.wire_bytes,
        requests: fetch.cost.requests,
        lack,
    };
    Ok((job, fetch, work))
}

/// Writes what is lacking and proves everything; gives the image back.
async fn perform(
    job: Job,
    fetch: FetchPlan,
    image: &ImageDetails,
    plan: &Plan<'_>,
    work: &Work,
    context: &Context,
) -> anyhow::Result<(OpenImage, Written)> {
    let began = Instant::now();
    let reporter = Reporter::new(&context.out);
    let (envelope, total) = (image.envelope.clone(), Some(plan.image_bytes));
    let ends = Ends::of(plan.disk.size_bytes, &envelope);
    let how = if work.lack.related { How::Changed } else { How::Whole };
    let (nothing, write_bytes) = (work.lack.nothing, work.write_bytes);
    // On a thread of its own, so that Ctrl-C is still heard.
    let done = tokio::task::spawn_blocking(move || {
        let Job { file, source } = job;
        let writer = match nothing {
            true => Writer::already(file, &envelope),
            false => {
                let mut writer = Writer::begin(file, ends, how)?;
                reporter.step("writing");
                let progress = |done| reporter.bytes(done, Some(write_bytes));
                transfer(&source, &fetch, &mut writer, &progress)?;
                writer
            }
        };
        reporter.step("reading back and comparing");
        let written = writer.seal(&envelope, &|done| reporter.bytes(done, total))?;
        reporter.finish();
        anyhow::Ok((source, written))
    });
    let (source, written) =
        done.await.context("writing ended in the middle; please report this")??;
    let (took, path) = (began.elapsed(), plan.disk.path.display());
    context.out.note(format!(
        "{path} is {} now, every byte read back and compared: {} written, {}, {}",
        plan.reference,
        size(written.written_bytes),
        duration(took),
        rate(plan.image_bytes, took)
    ));
    Ok((source, written))
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
