//! `import` and `export`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt;
use serde::Serialize;
use store_repo::{Exported, ImportOptions, Imported, ImportedRegion, Piece, Repo, Source};
use wire::{Digest, Reference};

use super::store::{open, open_or_create};
use crate::args::image::{Export, Format, Import};
use crate::context::Context;
use crate::exit::{Code, Failure, OutputClosed};
use crate::fault::Doing;
use crate::render::Out;
use crate::render::human::size;
use crate::render::progress::Reporter;

/// An image that a command named.
#[derive(Debug, Serialize)]
struct Made<'a, T> {
    reference: &'a Reference,
    #[serde(flatten)]
    made: &'a T,
}

/// `ingot import`.
pub async fn import(args: &Import, context: &Context) -> anyhow::Result<()> {
    let what = || format!("cannot import {} as {}", args.source.display(), args.tag);
    let source = match is_stream(&args.source) {
        true => Source::Stream(Box::new(io::stdin())),
        false => Source::Path(args.source.clone()),
    };
    let repo = open_or_create(context).await?;
    let reference = Some(args.tag.clone());
    let options = ImportOptions { reference, exact: args.exact, ..ImportOptions::default() };
    let reporter = Arc::new(Reporter::new(&context.out));
    reporter.step(&format!("reading {}", args.source.display()));
    let progress = {
        let reporter = Arc::clone(&reporter);
        move |p: store_repo::ImportProgress| reporter.bytes(p.done_bytes, Some(p.disk_bytes))
    };
    let made = repo.import(source, options, progress).await.doing(what)?;
    reporter.finish();
    if context.out.json {
        return context.out.document(&Made { reference: &args.tag, made: &made });
    }
    made.regions.iter().for_each(|region| plain_note(region, &context.out));
    context.out.line(made_line(&args.tag, &made))
}

/// Says where an image keeps more than its files need.
fn plain_note(region: &ImportedRegion, out: &Out) {
    if let Some(why) = &region.plain {
        out.note(format!("{} is kept with its free space: {why}", region.name));
    }
}

/// Says what was stored, and what that cost.
pub fn made_line(tag: &Reference, made: &Imported) -> String {
    format!(
        "{tag} is {}: disk of {}, {} of content, {} new in the store",
        made.digest.short(),
        size(made.disk_bytes),
        size(made.data_bytes),
        size(made.new_bytes),
    )
}

/// `ingot export`.
pub async fn export(args: &Export, context: &Context) -> anyhow::Result<()> {
    let Format::Raw = args.format;
    let target = args.target.display();
    let what = || format!("cannot export {} to {target}", args.reference);
    refuse_what_is_no_file(&args.target).with_context(what)?;
    let repo = open(context).await?;
    let digest = repo.resolve(&args.reference).await.doing(what)?;
    if is_stream(&args.target) {
        return stream(&repo, &digest).await.with_context(what);
    }
    let reporter = Reporter::new(&context.out);
    reporter.step(&format!("writing {} to {target}", args.reference));
    let exported: Exported = repo.export(&digest, &args.target).await.doing(what)?;
    reporter.finish();
    if context.out.json {
        return context.out.document(&Made { reference: &args.reference, made: &exported });
    }
    context.out.line(format!(
        "{target}: {}, {} of content",
        size(exported.disk_bytes),
        size(exported.data_bytes)
    ))
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

async fn stream(repo: &Arc<Repo>, digest: &Digest) -> anyhow::Result<()> {
    let mut pieces = repo.read(digest).await.doing(|| "cannot read the image")?;
    let mut out = io::stdout().lock();
    while let Some(piece) = pieces.try_next().await.doing(|| "cannot read the image")? {
        match piece {
            Piece::Data { bytes, .. } => out.write_all(&bytes).map_err(closed)?,
            Piece::Hole { bytes, .. } => zeros(&mut out, bytes).map_err(closed)?,
        }
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

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}
