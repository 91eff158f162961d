//! `ls`, `show`, `tag` and `rm`.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use store_format::PartitionTable;
use store_repo::{ImageDetails, ImageSummary, Repo, SharedWith, Sharing};
use wire::{Digest, Reference};

use crate::args::store::{Ls, Rm, Show, Tag};
use crate::context::Context;
use crate::fault::Doing;
use crate::render::human::{ago_ms, count, ratio, size};
use crate::render::sheet::Sheet;
use crate::render::table::{Cell, Table};
use crate::render::{Out, Tone};

/// Images with shared content that are listed for people.
const SHARED_SHOWN: usize = 10;

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
    let sharing = repo.sharing(&digest).await.doing(what)?;
    let shown = Shown { image, sharing };
    if context.out.json {
        return context.out.document(&shown);
    }
    context.out.lines(show_lines(&shown, Timestamp::now(), &context.out))
}

/// What `show` has to say.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    image: ImageDetails,
    #[serde(flatten)]
    sharing: Sharing,
}

fn show_lines(Shown { image, sharing }: &Shown, now: Timestamp, out: &Out) -> Vec<String> {
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
    let (stored, packs) = (size(image.stored_bytes), count(image.packs, "pack"));
    let compressed = ratio(sharing.plain_bytes, image.stored_bytes);
    sheet.entry("stored", format!("{stored} in {packs}, compressed {compressed}"));
    let unique = size(sharing.unique_bytes);
    sheet.entry("its own", format!("{unique} that no other image has"));
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
    lines.extend(shared_lines(&sharing.shared, out));
    lines
}

fn shared_lines(shared: &[SharedWith], out: &Out) -> Vec<String> {
    if shared.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&["SHARED WITH", "IMAGE", ">CHUNKS", ">CONTENT", ">STORED"]);
    for other in shared.iter().take(SHARED_SHOWN) {
        let names: Vec<_> = other.references.iter().map(ToString::to_string).collect();
        table.row([
            match names.is_empty() {
                true => Cell::toned("(no name)", Tone::Dim),
                false => names.join(", ").into(),
            },
            other.image.short().into(),
            other.chunks.to_string().into(),
            size(other.plain_bytes).into(),
            size(other.stored_bytes).into(),
        ]);
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines(out));
    if let Some(more) = shared.len().checked_sub(SHARED_SHOWN).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
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
