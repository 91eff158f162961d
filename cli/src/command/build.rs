//! `build`: from a recipe to an image in the store.

use std::sync::Arc;

use anyhow::Context as _;
use builder::{BuiltImage, Event, Options, Outcome, Recipe, RecipeError};
use serde::Serialize;
use store_repo::{ImportOptions, Imported, Source};
use wire::Reference;

use super::image::made_line;
use super::store::open_or_create;
use crate::args::image::Build;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::fault::Doing;
use crate::render::progress::{Progress, Reporter};

/// What was built, as `--json` reports it.
#[derive(Debug, Serialize)]
struct Built<'a> {
    reference: &'a Reference,
    #[serde(flatten)]
    stored: &'a Imported,
    /// Whether the disk was in the build cache.
    cached: bool,
}

/// `ingot build`.
pub async fn build(args: &Build, context: &Context) -> anyhow::Result<()> {
    let recipe = load(args)?;
    // Before the work, not after it: a store that cannot be used is found now.
    let repo = open_or_create(context).await?;
    let reporter = Arc::new(Reporter::new(&context.out).with_logs(context.verbose > 0));
    let built = make(args, recipe, reporter.clone(), context).await?;
    reporter.step(&format!("storing {}", args.tag));
    let progress = {
        let reporter = reporter.clone();
        move |p: store_repo::ImportProgress| reporter.bytes(p.done_bytes, Some(p.disk_bytes))
    };
    let options = import_options(&built, &args.tag);
    let stored = repo
        .import(Source::Path(built.path.clone()), options, progress)
        .await
        .doing(|| format!("cannot store {}", args.tag))?;
    if let Some(file) = &args.keep_disk {
        let shown = file.display();
        reporter.step(&format!("keeping the disk in {shown}"));
        repo.export(&stored.digest, file)
            .await
            .doing(|| format!("cannot keep the disk in {shown}"))?;
    }
    reporter.finish();
    if context.out.json {
        let report = Built { reference: &args.tag, stored: &stored, cached: built.cached };
        return context.out.document(&report);
    }
    context.out.line(made_line(&args.tag, &stored))
}

/// How what was built is stored.
pub fn import_options(built: &BuiltImage, reference: &Reference) -> ImportOptions {
    ImportOptions {
        configuration: built.configuration.clone(),
        provenance: built.provenance.clone(),
        boot: Some(built.boot.clone()),
        grow: Some(built.grow),
        sector_bytes: Some(built.sector_bytes),
        reference: Some(reference.clone()),
        exact: false,
    }
}

fn load(args: &Build) -> anyhow::Result<Recipe> {
    Recipe::load(&args.recipe).map_err(|error| {
        let code = match &error {
            RecipeError::Mistake { .. } => Code::Mistake,
            RecipeError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            RecipeError::Read { .. } => Code::Failed,
        };
        let failure = Failure::new(code, format!("cannot build {}", args.tag))
            .next("docs/recipe.md explains every key of a recipe");
        anyhow::Error::new(error).context(failure)
    })
}

/// Builds on a thread of its own: nothing in a build is async.
async fn make(
    args: &Build,
    recipe: Recipe,
    reporter: Arc<Reporter>,
    context: &Context,
) -> anyhow::Result<BuiltImage> {
    let cache = context.build_folder()?;
    let options = Options { refresh: args.refresh, ..Options::new(cache) };
    let what = format!("cannot build {}", args.tag);
    let build = move || builder::build(&recipe, &options, &|event| report(&reporter, event));
    tokio::task::spawn_blocking(build)
        .await
        .context("the build ended in the middle; please report this")?
        .context(what)
}

fn report(reporter: &Reporter, event: Event) {
    match event {
        Event::Started { stage } => reporter.step(&stage.to_string()),
        Event::Log { line, .. } => reporter.report(&Progress::Log { text: line.into() }),
        Event::Ended { stage, outcome, elapsed } => reporter.report(&Progress::Ended {
            text: stage.to_string().into(),
            outcome: match outcome {
                Outcome::Done => "done",
                Outcome::Cached => "cached",
                Outcome::Failed => "failed",
            },
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}
