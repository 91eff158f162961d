//! `import`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use store_repo::{ImportOptions, Imported, ImportedRegion, Source};
use wire::Reference;

use super::store::open_or_create;
use crate::args::image::Import;
use crate::context::Context;
use crate::fault::Doing;
use crate::render::Out;
use crate::render::human::size;
use crate::render::progress::Reporter;

/// An image that a command named.
#[derive(Debug, Serialize)]
pub struct Made<'a, T> {
    /// As it was named.
    pub reference: &'a Reference,
    /// What became of it.
    #[serde(flatten)]
    pub made: &'a T,
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

/// Whether it stands for standard input or output.
pub fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}
