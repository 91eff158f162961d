//! `diff`.

use serde::Serialize;
use serde_json::Value;
use store_repo::{
    Aspect, Change, File, FileDiff, FilesDiff, ImageDiff, Kind, RegionDiff, Transfer,
};

use super::store::open;
use crate::args::store::Diff;
use crate::context::Context;
use crate::fault::Doing;
use crate::render::human::{count, printable, size};
use crate::render::progress::Reporter;
use crate::render::sheet::Sheet;
use crate::render::table::{Cell, Table};
use crate::render::{Out, Tone};

/// Files of a partition that are listed for people.
const FILES_SHOWN: usize = 20;

/// What `--json` has.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    images: ImageDiff,
    /// Null where it was not asked for.
    files: Option<Vec<FilesDiff>>,
}

/// `ingot diff`. That images differ is the result, not a failure.
pub async fn diff(args: &Diff, context: &Context) -> anyhow::Result<()> {
    let what = || format!("cannot compare {} with {}", args.from, args.to);
    let repo = open(context).await?;
    let from = repo.resolve(&args.from).await.doing(what)?;
    let to = repo.resolve(&args.to).await.doing(what)?;
    let images = repo.diff(&from, &to).await.doing(what)?;
    let files = match args.no_files {
        true => None,
        false => {
            let reporter = Reporter::new(&context.out);
            reporter.step("comparing files");
            let files = repo.diff_files(&images).await.doing(what);
            reporter.finish();
            Some(files?)
        }
    };
    let report = Report { images, files };
    match context.out.json {
        true => context.out.document(&report),
        false => context.out.lines(lines(&report, args, &context.out)),
    }
}

fn lines(report: &Report, args: &Diff, out: &Out) -> Vec<String> {
    let Report { images, files } = report;
    if images.from == images.to {
        return vec![format!("{} and {} are one image: {}", args.from, args.to, images.to)];
    }
    let mut sheet = Sheet::default();
    sheet.entry("from", format!("{}, {}", args.from, images.from.short()));
    sheet.entry("to", format!("{}, {}", args.to, images.to.short()));
    sheet.entry("transfer", transfer(&images.transfer));
    sheet.section("differs");
    for value in &images.values {
        sheet.entry(&value.key, from_to(&said(&value.from), &said(&value.to)));
    }
    let mut lines = sheet.lines(out);
    lines.push(String::new());
    lines.extend(regions(&images.regions).lines(out));
    for region in files.iter().flatten() {
        lines.push(String::new());
        lines.extend(files_of(region, out));
    }
    lines
}

fn transfer(transfer: &Transfer) -> String {
    let Transfer { chunks, stored_bytes, requests, wire_bytes, .. } = *transfer;
    match chunks {
        0 => "nothing: all chunks are there".to_owned(),
        _ => format!(
            "{} in {}; {} in {}",
            size(stored_bytes),
            count(chunks, "chunk"),
            size(wire_bytes),
            count(requests, "request"),
        ),
    }
}

fn regions(regions: &[RegionDiff]) -> Table {
    let titles = ["REGION", ">SIZE", ">CHANGED", ">CHUNKS", ">STORED", ">REQUESTS", ">WIRE"];
    let mut table = Table::new(&titles);
    for region in regions {
        let RegionDiff { from_bytes, to_bytes, transfer, .. } = region;
        let bytes = match (from_bytes, to_bytes) {
            (Some(from), Some(to)) if from == to => size(*to),
            (from, to) => from_to(&existing(*from), &existing(*to)),
        };
        let row: [Cell; 3] = [
            region.name.clone().into(),
            bytes.into(),
            match region.same {
                true => Cell::toned("same", Tone::Dim),
                false => size(region.changed_bytes).into(),
            },
        ];
        let numbers: Vec<Cell> = match transfer.chunks {
            0 => Vec::new(),
            chunks => vec![
                chunks.to_string().into(),
                size(transfer.stored_bytes).into(),
                transfer.requests.to_string().into(),
                size(transfer.wire_bytes).into(),
            ],
        };
        table.row(row.into_iter().chain(numbers));
    }
    table
}

fn files_of(region: &FilesDiff, out: &Out) -> Vec<String> {
    let name = out.paint(Tone::Heading, &region.region);
    if let Some(why) = &region.skipped {
        return vec![format!("{name}: files were not compared: {why}")];
    }
    let number = |change| region.files.iter().filter(|file| file.change == change).count() as u64;
    let added = count(number(Change::Added), "file");
    let (removed, changed) = (number(Change::Removed), number(Change::Changed));
    let mut lines = vec![format!("{name}: {added} added, {removed} removed, {changed} changed")];
    let mut table = Table::new(&["", "PATH", "WHAT"]);
    for file in region.files.iter().take(FILES_SHOWN) {
        let (sign, tone) = match file.change {
            Change::Added => ("+", Tone::Good),
            Change::Removed => ("-", Tone::Bad),
            Change::Changed => ("~", Tone::Warn),
        };
        // What a file is called may not write to the terminal.
        let path = printable(&file.path);
        table.row([Cell::toned(sign, tone), path.into(), what(file).into()]);
    }
    // The heading says it all.
    lines.extend(table.lines(out).into_iter().skip(1));
    if let Some(more) = region.files.len().checked_sub(FILES_SHOWN).filter(|more| *more > 0) {
        lines.push(format!("and {more} more; --json has them all"));
    }
    lines
}

fn what(file: &FileDiff) -> String {
    match (&file.from, &file.to) {
        (Some(from), Some(to)) => {
            let differs = file.differs.iter().map(|aspect| differs(*aspect, from, to));
            differs.collect::<Vec<_>>().join(", ")
        }
        (from, to) => from.iter().chain(to).map(alone).collect(),
    }
}

fn alone(file: &File) -> String {
    match (file.kind, &file.target) {
        (Kind::File, _) => size(file.bytes),
        (_, Some(target)) => format!("link to {}", printable(target)),
        (kind, _) => word(kind).to_owned(),
    }
}

fn differs(aspect: Aspect, from: &File, to: &File) -> String {
    let target = |file: &File| match &file.target {
        Some(target) => printable(target),
        None => "none".to_owned(),
    };
    match aspect {
        Aspect::Kind => from_to(word(from.kind), word(to.kind)),
        Aspect::Content if from.bytes == to.bytes => format!("content of {}", size(to.bytes)),
        Aspect::Content => format!("content {}", from_to(&size(from.bytes), &size(to.bytes))),
        Aspect::Mode => format!("mode {}", from_to(&from.mode, &to.mode)),
        Aspect::Owner => {
            let owner = |file: &File| format!("{}:{}", file.uid, file.gid);
            format!("owner {}", from_to(&owner(from), &owner(to)))
        }
        Aspect::Target => format!("link {}", from_to(&target(from), &target(to))),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::BlockDevice => "block device",
        Kind::CharacterDevice => "character device",
        Kind::Pipe => "pipe",
        Kind::Socket => "socket",
    }
}

fn from_to(from: &str, to: &str) -> String {
    format!("{from} → {to}")
}

fn existing(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "none".to_owned(), size)
}

/// A value of an envelope.
fn said(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}
