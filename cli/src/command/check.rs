//! `check`, and `check --repair`.

use serde::Serialize;
use store_repo::{CheckReport, Donor, Problem, RepairPlan, RepairReport, Repaired};
use wire::Digest;

use super::store::open;
use crate::args::store::Check;
use crate::context::Context;
use crate::exit::Code;
use crate::fault::Doing;
use crate::render::human::{count, size};
use crate::render::{Out, Tone};

/// `ingot check`. Problems are the result, not a failure to find them.
pub async fn check(args: &Check, context: &Context) -> anyhow::Result<Code> {
    if args.repair {
        return repair(args, context).await;
    }
    let repo = open(context).await?;
    let report = repo.check(args.data).await.doing(|| "cannot check the store")?;
    if context.out.json {
        context.out.document(&report)?;
    } else {
        context.out.lines(report.problems.iter().map(|p| problem_line(p, &context.out)))?;
        context.out.line(check_line(&report, &context.out))?;
    }
    Ok(code(&report.problems))
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

/// What `check --repair --dry-run` reports with `--json`.
#[derive(Debug, Serialize)]
struct Planned {
    found: CheckReport,
    plan: RepairPlan,
}

async fn repair(args: &Check, context: &Context) -> anyhow::Result<Code> {
    let repo = open(context).await?;
    let mut donors = Vec::new();
    for from in &args.from {
        let donor = Donor::open(from).await;
        donors.push(donor.doing(|| format!("cannot take anything from {from}"))?);
    }
    let out = &context.out;
    if args.dry_run {
        let planned = repo.repair_plan(donors).await;
        let (found, plan) = planned.doing(|| "cannot tell what a repair would do")?;
        let code = code(&found.problems);
        if out.json {
            out.document(&Planned { found, plan })?;
            return Ok(code);
        }
        out.lines(found.problems.iter().map(|problem| found_line(problem, out)))?;
        out.lines(plan_lines(&plan))?;
        out.line(check_line(&found, out))?;
        return Ok(code);
    }
    let report = repo.repair(donors).await.doing(|| "cannot repair the store")?;
    if out.json {
        out.document(&report)?;
    } else {
        out.lines(repair_lines(&report, out))?;
    }
    Ok(code(&report.left))
}

fn code(problems: &[Problem]) -> Code {
    if problems.is_empty() { Code::Done } else { Code::Damaged }
}

fn found_line(problem: &Problem, out: &Out) -> String {
    format!("{} {}", out.paint(Tone::Bad, &problem.file), problem.what)
}

fn plan_lines(plan: &RepairPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for segment in &plan.segments {
        lines.push(format!("build {segment} again from the packs"));
    }
    for pack in &plan.packs {
        let (kept, bytes) = (count(pack.kept_chunks, "chunk"), size(pack.kept_bytes));
        lines.push(format!("write {kept} of {} anew, {bytes}, and remove it", pack.file));
    }
    for blob in &plan.blobs {
        lines.push(format!("write {blob} anew, as another store has it"));
    }
    for blob in &plan.lost_blobs {
        lines.push(format!("no store has {blob}"));
    }
    if plan.missing_chunks > 0 {
        let (missing, bytes) = (count(plan.missing_chunks, "chunk"), size(plan.missing_bytes));
        lines.push(format!("look for {missing}, {bytes}, that no pack has"));
    }
    if !lines.is_empty() {
        lines.push("nothing was changed".to_owned());
    }
    lines
}

fn repair_lines(report: &RepairReport, out: &Out) -> Vec<String> {
    let RepairReport { found, done, left } = report;
    if found.problems.is_empty() {
        let whole = check_line(found, out);
        return vec![format!("{whole}\nnothing to repair")];
    }
    let mut lines: Vec<_> = found.problems.iter().map(|p| found_line(p, out)).collect();
    lines.extend(done_lines(done));
    lines.extend(left.iter().map(|problem| problem_line(problem, out)));
    lines.push(match left.len() as u64 {
        0 => format!("{} the store is whole", out.paint(Tone::Good, "repaired:")),
        number => {
            let left = format!("{} left", count(number, "problem"));
            let mut images: Vec<_> = report.left.iter().flat_map(|p| &p.images).collect();
            images.sort_unstable();
            images.dedup();
            let images = count(images.len() as u64, "image");
            format!(
                "{} {images} cannot be read as a whole",
                out.paint(Tone::Bad, &format!("{left}:"))
            )
        }
    });
    lines
}

fn done_lines(done: &Repaired) -> Vec<String> {
    let Repaired { plan, taken, deleted_packs, kept_packs } = done;
    let mut lines = Vec::new();
    if !plan.segments.is_empty() {
        let number = count(plan.segments.len() as u64, "file");
        lines.push(format!("{number} of the index built again from the packs"));
    }
    if !plan.packs.is_empty() {
        let chunks = plan.packs.iter().map(|pack| pack.kept_chunks).sum();
        let bytes = plan.packs.iter().map(|pack| pack.kept_bytes).sum();
        let number = count(plan.packs.len() as u64, "damaged pack");
        lines.push(format!("{} of {number} written anew, {}", count(chunks, "chunk"), size(bytes)));
    }
    for taken in taken {
        let from = taken.from.as_deref().unwrap_or("packs that were to be deleted");
        lines.push(format!("{} taken from {from}", count(taken.chunks, "chunk")));
    }
    for blob in &plan.blobs {
        lines.push(format!("{blob} written anew, as another store has it"));
    }
    if *deleted_packs > 0 {
        lines.push(format!("{} deleted", count(*deleted_packs, "damaged pack")));
    }
    if *kept_packs > 0 {
        lines.push(format!(
            "{} kept for who may still read what is good in it: a later gc deletes it",
            count(*kept_packs, "damaged pack")
        ));
    }
    lines
}
