//! `ls`, `show`, `tag`, `rm` and `check`.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use store_format::PartitionTable;
use store_repo::{CheckReport, ImageDetails, ImageSummary, Problem, Repo};
use wire::{Digest, Reference};

use crate::args::store::{Check, Ls, Rm, Show, Tag};
use crate::context::Context;
use crate::exit::Code;
use crate::fault::Doing;
use crate::render::human::{ago_ms, count, size};
use crate::render::sheet::Sheet;
use crate::render::table::{Cell, Table};
use crate::render::{Out, Tone};

/// Opens the store that exists.
pub async fn open(context: &Context) -> anyhow::Result<Arc<Repo>> {
    let place = context.store()?;
    Ok(Arc::new(Repo::open(place).await.doing(|| "cannot open the store")?))
}

/// Opens the store, and makes it where there is none.
pub async fn open_or_create(context: &Context) -> anyhow::Result<Arc<Repo>> {
    let place = context.store()?;
    Ok(Arc::new(Repo::open_or_create(place).await.doing(|| "cannot open the store")?))
}

/// `ingot ls`.
pub async fn ls(_: &Ls, context: &Context) -> anyhow::Result<()> {
    let images = open(context).await?.images().await.doing(|| "cannot list the images")?;
    if context.out.json {
        return context.out.document(&images);
    }
    if images.is_empty() {
        context.out.note("the store has no images yet: `ingot build` or `ingot import` makes one");
        return Ok(());
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["REFERENCE", "IMAGE", "MADE", ">DISK", ">STORED", ">OWN"]);
    images.iter().for_each(|image| table.row(row(image, now)));
    context.out.lines(table.lines(&context.out))
}

fn row(image: &ImageSummary, now: Timestamp) -> [Cell; 6] {
    let name = match &image.reference {
        Some(reference) => reference.to_string().into(),
        None => Cell::toned("(no name)", Tone::Dim),
    };
    [
        name,
        image.digest.short().into(),
        ago_ms(image.created_ms, now).into(),
        size(image.disk_bytes).into(),
        size(image.stored_bytes).into(),
        size(image.unique_bytes).into(),
    ]
}

/// `ingot show`.
pub async fn show(args: &Show, context: &Context) -> anyhow::Result<()> {
    let repo = open(context).await?;
    let what = || format!("cannot show {}", args.reference);
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    let image = repo.details(&digest).await.doing(what)?;
    if context.out.json {
        return context.out.document(&image);
    }
    context.out.lines(show_lines(&image, Timestamp::now(), &context.out))
}

fn show_lines(image: &ImageDetails, now: Timestamp, out: &Out) -> Vec<String> {
    let envelope = &image.envelope;
    let names: Vec<_> = image.references.iter().map(ToString::to_string).collect();
    let mut sheet = Sheet::default();
    sheet.entry("image", image.digest.to_string());
    sheet.entry("names", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    sheet.entry("made", ago_ms(image.created_ms, now));
    let sectors = envelope.sector_bytes;
    sheet.entry("disk", format!("{}, sectors of {sectors} B", size(envelope.disk_bytes)));
    sheet.entry(
        "content",
        format!("{} in {}", size(image.data_bytes), count(image.chunks, "chunk")),
    );
    sheet
        .entry("stored", format!("{} in {}", size(image.stored_bytes), count(image.packs, "pack")));
    sheet.entry("table", partition_table(envelope.table.as_ref()));
    if let Some(partition) = envelope.grow {
        sheet.entry("grows", format!("partition {partition}, to the end of the disk"));
    }
    if let Some(boot) = &envelope.boot {
        sheet.section("starts");
        sheet.entry("partition", boot.partition.to_string());
        sheet.entry("kernel", boot.kernel.clone());
        boot.initrd.iter().for_each(|initrd| sheet.entry("initrd", initrd.clone()));
        sheet.entry("command line", boot.cmdline.clone());
    }
    for (title, notes) in
        [("built for", &envelope.configuration), ("comes from", &envelope.provenance)]
    {
        sheet.section(title);
        notes.iter().for_each(|(key, value)| sheet.entry(key, value.clone()));
    }
    let mut lines = sheet.lines(out);
    lines.push(String::new());
    lines.extend(regions(image).lines(out));
    lines
}

fn partition_table(table: Option<&PartitionTable>) -> String {
    match table {
        None => "none".to_owned(),
        Some(PartitionTable::Gpt { disk_guid, .. }) => format!("GPT {disk_guid}"),
        Some(PartitionTable::Mbr { signature, .. }) => format!("MBR {signature}"),
    }
}

fn regions(image: &ImageDetails) -> Table {
    let mut table = Table::new(&["REGION", ">PARTITION", ">START", ">SIZE", ">CONTENT", "DIGEST"]);
    for (region, data_bytes) in image.envelope.regions.iter().zip(&image.region_data_bytes) {
        table.row([
            region.name.clone().into(),
            region.partition.map_or_else(String::new, |number| number.to_string()).into(),
            size(region.start).into(),
            size(region.bytes).into(),
            size(*data_bytes).into(),
            region.digest.short().into(),
        ]);
    }
    table
}

/// What `tag`, `rm` and their like report with `--json`.
#[derive(Debug, Serialize)]
struct Named<'a> {
    reference: &'a Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

/// `ingot tag`.
pub async fn tag(args: &Tag, context: &Context) -> anyhow::Result<()> {
    let (image, new) = (&args.reference, &args.new);
    let repo = open(context).await?;
    let digest = repo.tag(image, new).await.doing(|| format!("cannot name {image} {new}"))?;
    if context.out.json {
        return context.out.document(&Named { reference: new, digest: Some(digest) });
    }
    context.out.note(format!("{new} is {}", digest.short()));
    Ok(())
}

/// `ingot rm`.
pub async fn rm(args: &Rm, context: &Context) -> anyhow::Result<()> {
    let reference = &args.reference;
    let repo = open(context).await?;
    repo.remove(reference).await.doing(|| format!("cannot remove {reference}"))?;
    if context.out.json {
        return context.out.document(&Named { reference, digest: None });
    }
    context.out.note(format!("removed {reference}"));
    Ok(())
}

/// `ingot check`. Problems are the result, not a failure to find them.
pub async fn check(args: &Check, context: &Context) -> anyhow::Result<Code> {
    let repo = open(context).await?;
    let report = repo.check(args.data).await.doing(|| "cannot check the store")?;
    if context.out.json {
        context.out.document(&report)?;
    } else {
        context.out.lines(report.problems.iter().map(|p| problem_line(p, &context.out)))?;
        context.out.line(check_line(&report, &context.out))?;
    }
    Ok(if report.problems.is_empty() { Code::Done } else { Code::Damaged })
}

fn problem_line(problem: &Problem, out: &Out) -> String {
    let mut line = format!("{} {}", out.paint(Tone::Bad, &problem.file), problem.what);
    if !problem.images.is_empty() {
        let images: Vec<_> = problem.images.iter().map(Digest::short).collect();
        line.push_str(&format!("\n  affects: {}", images.join(", ")));
    }
    format!("{line}\n  try: {}", problem.advice)
}

fn check_line(report: &CheckReport, out: &Out) -> String {
    let CheckReport { images, packs, chunks, hashed_bytes, unneeded_packs, problems } = report;
    let counts = [(*images, "image"), (*packs, "pack"), (*chunks, "chunk")];
    let mut looked = counts.map(|(number, thing)| count(number, thing)).join(", ");
    if *hashed_bytes > 0 {
        looked.push_str(&format!(", {} read and verified", size(*hashed_bytes)));
    }
    if *unneeded_packs > 0 {
        looked.push_str(&format!(", {} that nothing needs", count(*unneeded_packs, "pack")));
    }
    let (verdict, tone) = match problems.len() as u64 {
        0 => ("the store is whole".to_owned(), Tone::Good),
        number => (count(number, "problem"), Tone::Bad),
    };
    format!("{} {looked}", out.paint(tone, &format!("{verdict}:")))
}
