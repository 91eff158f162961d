//! `gc`.

use store_repo::{GarbagePlan, GarbageReport, PackPlan};

use super::store::open;
use crate::args::store::Gc;
use crate::context::Context;
use crate::fault::Doing;
use crate::render::human::{count, size};

/// `ingot gc`.
pub async fn gc(args: &Gc, context: &Context) -> anyhow::Result<()> {
    let repo = open(context).await?;
    if args.dry_run {
        let plan = repo.garbage().await.doing(|| "cannot tell what nothing needs")?;
        return match context.out.json {
            true => context.out.document(&plan),
            false => context.out.lines(plan_lines(&plan)),
        };
    }
    let report = repo.collect_garbage().await.doing(|| "cannot remove what nothing needs")?;
    match context.out.json {
        true => context.out.document(&report),
        false => context.out.lines(report_lines(&report)),
    }
}

fn plan_lines(plan: &GarbagePlan) -> Vec<String> {
    let GarbagePlan { images, packs, rewrites, blobs, blob_bytes, .. } = plan;
    let sum = |packs: &[PackPlan], of: fn(&PackPlan) -> u64| size(packs.iter().map(of).sum());
    let mut lines = Vec::new();
    for image in images {
        lines.push(format!("remove image {}, which has no name", image.short()));
    }
    if !packs.is_empty() {
        let (number, bytes) = (count(packs.len() as u64, "pack"), sum(packs, |pack| pack.bytes));
        lines.push(format!("remove {number} that nothing needs, {bytes}"));
    }
    if !rewrites.is_empty() {
        let (number, bytes) = (count(rewrites.len() as u64, "pack"), sum(rewrites, |p| p.bytes));
        let needed = sum(rewrites, |pack| pack.needed_bytes);
        lines.push(format!("write {needed} of {number} anew, {bytes}"));
    }
    if *blobs > 0 {
        lines.push(format!(
            "remove {} that nothing needs, {}",
            count(*blobs, "blob"),
            size(*blob_bytes)
        ));
    }
    if plan.waiting > 0 {
        let (number, bytes) = (count(plan.waiting, "file"), size(plan.waiting_bytes));
        lines.push(format!("remove {number} that an earlier gc had to keep, {bytes}"));
    }
    lines.push(match plan.freed_bytes {
        0 if lines.is_empty() => "nothing to remove".to_owned(),
        bytes => format!("would free {}; nothing was changed", size(bytes)),
    });
    lines
}

fn report_lines(report: &GarbageReport) -> Vec<String> {
    let GarbageReport { images, rewritten, deleted, freed_bytes, kept, kept_bytes } = report;
    let mut lines = Vec::new();
    if *deleted == 0 && images.is_empty() {
        lines.push("nothing to remove".to_owned());
    } else {
        let mut line = format!(
            "freed {}: {} and {} removed",
            size(*freed_bytes),
            count(images.len() as u64, "image"),
            count(*deleted, "file"),
        );
        if *rewritten > 0 {
            line.push_str(&format!(", {} written anew", count(*rewritten, "pack")));
        }
        lines.push(line);
    }
    if *kept > 0 {
        lines.push(format!(
            "kept {}, {}, which an import, a reader or a machine may still need (one that was \
             killed counts for ten minutes, a machine for an hour): a later gc removes the rest",
            count(*kept, "file"),
            size(*kept_bytes),
        ));
    }
    lines
}
