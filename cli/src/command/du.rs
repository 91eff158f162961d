//! `du`.

use store_repo::{Overhead, Usage};

use super::store::open;
use crate::args::store::Du;
use crate::context::Context;
use crate::fault::Doing;
use crate::render::Out;
use crate::render::human::{count, ratio, size};
use crate::render::sheet::Sheet;

/// `ingot du`.
pub async fn du(_: &Du, context: &Context) -> anyhow::Result<()> {
    let usage = open(context).await?.usage().await.doing(|| "cannot tell what the store takes")?;
    match context.out.json {
        true => context.out.document(&usage),
        false => context.out.lines(lines(&usage, &context.out)),
    }
}

fn lines(usage: &Usage, out: &Out) -> Vec<String> {
    let Usage { data_bytes, plain_bytes, stored_bytes, .. } = *usage;
    let mut sheet = Sheet::default();
    let mut images = count(usage.images, "image");
    if usage.unnamed > 0 {
        images
            .push_str(&format!("; not counted: {} without a name", count(usage.unnamed, "image")));
    }
    sheet.entry("logical", format!("{}, the disks of {images}", size(usage.disk_bytes)));
    sheet.entry("content", format!("{}, what of them is not in holes", size(data_bytes)));
    sheet.entry(
        "deduplicated",
        format!(
            "{} in {}, {}",
            size(plain_bytes),
            count(usage.chunks, "chunk"),
            ratio(data_bytes, plain_bytes)
        ),
    );
    sheet.entry(
        "compressed",
        format!("{}, {}", size(stored_bytes), ratio(plain_bytes, stored_bytes)),
    );
    sheet.section("on disk");
    sheet.entry("chunks", size(stored_bytes));
    sheet.entry("overhead", overhead(&usage.overhead));
    sheet.entry("spare", spare(usage.spare_bytes));
    sheet.entry("garbage", garbage(usage.garbage_bytes));
    sheet.entry("total", size(usage.total_bytes));
    sheet.lines(out)
}

fn overhead(overhead: &Overhead) -> String {
    let parts = [
        (overhead.pack_bytes, "tables of packs"),
        (overhead.blob_bytes, "envelopes and chunk tables"),
        (overhead.index_bytes, "index"),
        (overhead.database_bytes, "database"),
        (overhead.other_bytes, "other"),
    ];
    let parts = parts.map(|(bytes, what)| format!("{what} {}", size(bytes)));
    format!("{}: {}", size(overhead.bytes()), parts.join(", "))
}

fn spare(bytes: u64) -> String {
    match bytes {
        0 => size(0),
        _ => format!("{}, which nothing needs, in packs that are mostly needed", size(bytes)),
    }
}

fn garbage(bytes: u64) -> String {
    match bytes {
        0 => size(0),
        _ => format!("{}, which `ingot gc` frees", size(bytes)),
    }
}
